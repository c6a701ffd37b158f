"""Claude Code processes driven directly with lines of JSON, without a library in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent_pool.errors import TaskFailed
from benchmarks.methods.base import Method, TimedAnswer

_LINE_LIMIT_BYTES: Final = 64 << 20


class StreamedProcess:
    """One Claude Code process that reads and writes lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self.was_cleared = False

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str]) -> StreamedProcess:
        """Start the process."""
        return cls(
            await asyncio.create_subprocess_exec(
                *argv,
                env=dict(env),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT_BYTES,
            )
        )

    def send(self, frame: Mapping[str, Any]) -> None:
        """Write one line."""
        self._stdin.write(json.dumps(frame).encode() + b"\n")

    def send_prompt(self, text: str) -> str:
        """Send a user message; return its uuid."""
        stamp = str(uuid.uuid4())
        self.send({"type": "user", "uuid": stamp, "message": {"role": "user", "content": text}})
        return stamp

    async def request(self, subtype: str, **fields: Any) -> dict[str, Any]:
        """Send a control request; return the CLI's answer to it, empty if it refused."""
        request = {"subtype": subtype, **fields}
        self.send({"type": "control_request", "request_id": "1", "request": request})
        answer = (await self.receive_type("control_response"))["response"]
        response: dict[str, Any] = answer.get("response") or {}
        return response

    async def receive(self) -> dict[str, Any]:
        """Read the next line.

        Raises:
            TaskFailed: the process has ended.
        """
        line = await self._stdout.readline()
        if not line:
            raise TaskFailed(f"process {self._process.pid} of Claude Code has ended")
        frame: dict[str, Any] = json.loads(line)
        return frame

    async def receive_type(self, kind: str) -> dict[str, Any]:
        """Read up to the next line of this type, and return that line."""
        while (frame := await self.receive())["type"] != kind:
            pass
        return frame

    async def end(self) -> None:
        """Kill the process and wait until it has ended.

        SIGKILL is enough: its files are temporary, and it has no children between tasks.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class BareTurn(Method):
    """Turns of warm processes that the pool would start, but without the pool: the lower bound.

    After each turn the process forgets it in the same way as a worker of the pool. That is not part
    of the turn's time.
    """

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self._started = 0
        self._free: asyncio.Queue[StreamedProcess] = asyncio.Queue()
        self._clearing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        from agent_pool import load_settings
        from agent_pool.agents import Projects
        from agent_pool.pool.launch_cache import LaunchCache

        project = Projects(load_settings(), os.environ).default
        self._launch = await LaunchCache().get(project.catalog.find(self.agent), project)
        await self.prepare(1)

    async def prepare(self, at_once: int) -> None:
        while self._started < at_once:
            self._free.put_nowait(await self._start())
            self._started += 1

    async def _start(self) -> StreamedProcess:
        launch = self._launch
        request: dict[str, Any] = {}
        argv = [*launch.argv]
        if launch.prompt_by_initialize:
            request["systemPrompt"] = [launch.prompt]
        else:
            argv.append(f"--system-prompt={launch.prompt}")
        process = await StreamedProcess.start(argv, launch.env)
        self.resources.push_async_callback(process.end)
        await process.request("initialize", **request)
        return process

    async def run_task(self, task: str) -> str:
        process = await self._free.get()
        stamp = process.send_prompt(task)
        result = await process.receive_type("result")
        clearing = asyncio.create_task(self._clear(process, stamp))
        self._clearing.add(clearing)
        clearing.add_done_callback(self._clearing.discard)
        return str(result.get("result"))

    async def _clear(self, process: StreamedProcess, stamp: str) -> None:
        # As a worker: `/clear` once, so that all later requests begin alike, then rewinds.
        answer: dict[str, Any] = {}
        if process.was_cleared:
            answer = await process.request("rewind_conversation", target_message_uuid=stamp)
        if not answer.get("rewound"):  # the first time, or an older version
            process.send_prompt("/clear")
            await process.receive_type("result")
            process.was_cleared = True
        self._free.put_nowait(process)

    async def settle(self) -> None:
        await asyncio.gather(*self._clearing)


class NativeAgentTool(Method):
    """The native Agent tool, inside one session.

    A task lasts from the tool call, as the session reports it, to the tool's result. The work of
    the session's own model before and after does not count.
    """

    async def open(self) -> None:
        streams = ["--input-format=stream-json", "--output-format=stream-json", "--verbose"]
        argv = [os.environ["CLAUDE_CLI"], "-p", *streams, "--dangerously-skip-permissions"]
        self._session = await StreamedProcess.start(argv, os.environ)
        self.resources.push_async_callback(self._session.end)

    async def run_task(self, task: str) -> str:
        answers, _ = await self.run_tasks([task], 1)
        return answers[0].text

    async def run_tasks(
        self, tasks: Sequence[str], at_once: int
    ) -> tuple[list[TimedAnswer], float]:
        answers: list[TimedAnswer] = []
        seconds = 0.0
        for first in range(0, len(tasks), at_once):
            turn = await self._delegate(tasks[first : first + at_once])
            answers += turn.answers
            seconds += turn.seconds
        return answers, seconds

    async def _delegate(self, tasks: Sequence[str]) -> DelegationTurn:
        """Run one turn in which the session's model calls the tool once for each task."""
        self._session.send_prompt("\n".join(tasks))
        turn = DelegationTurn(tasks)
        while (frame := await self._session.receive())["type"] != "result":
            turn.read(frame)
        return turn


class DelegationTurn:
    """The calls and results of the Agent tool during one turn of a session."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tasks
        self._called: dict[str, tuple[str, float]] = {}
        self._answers: dict[str, TimedAnswer] = {}
        self._ended = 0.0

    @property
    def answers(self) -> list[TimedAnswer]:
        """Return the answers in the order of the tasks.

        Raises:
            TaskFailed: a task has no answer.
        """
        if missing := [task for task in self._tasks if task not in self._answers]:
            raise TaskFailed(f"the Agent tool gave no answer to {missing}")
        return [self._answers[task] for task in self._tasks]

    @property
    def seconds(self) -> float:
        """Return the time from the first call to the last result."""
        return self._ended - min(started for _, started in self._called.values())

    def read(self, frame: Mapping[str, Any]) -> None:
        """Record the calls and results in a frame of the session."""
        # A sub-agent's own messages come on the same stream; they name the call as their parent.
        if frame.get("parent_tool_use_id") is not None:
            return
        if frame["type"] not in ("assistant", "user"):
            return
        content = frame["message"]["content"]
        for block in content if isinstance(content, list) else ():
            if block["type"] == "tool_use":
                self._called[block["id"]] = block["input"]["prompt"], time.perf_counter()
            elif block["type"] == "tool_result":
                self._finish(block)

    def _finish(self, result: Mapping[str, Any]) -> None:
        self._ended = time.perf_counter()
        task, started = self._called[result["tool_use_id"]]
        text = json.dumps(result.get("content"))
        self._answers[task] = TimedAnswer(text, self._ended - started)
