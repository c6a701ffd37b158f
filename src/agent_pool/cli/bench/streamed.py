"""Claude Code processes that are spoken to in JSON lines, with nothing around them.

They are ended with SIGKILL: nothing of them is kept, and they have no children at rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent_pool.cli.bench.way import Answer, Way
from agent_pool.errors import TaskFailed

_LINE_LIMIT: Final = 64 << 20


class Conversation:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._to = process.stdin
        self._from = process.stdout

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str]) -> Conversation:
        """Start a process that reads and writes lines of JSON."""
        return cls(
            await asyncio.create_subprocess_exec(
                *argv,
                env=dict(env),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT,
            )
        )

    def send(self, frame: Mapping[str, Any]) -> None:
        """Write one line."""
        self._to.write(json.dumps(frame).encode() + b"\n")

    def say(self, text: str) -> None:
        """Say something as the user."""
        self.send({"type": "user", "message": {"role": "user", "content": text}})

    async def receive(self) -> dict[str, Any]:
        """The next line.

        Raises:
            TaskFailed: there is none any more.
        """
        line = await self._from.readline()
        if not line:
            raise TaskFailed(f"process {self._process.pid} of Claude Code has ended")
        frame: dict[str, Any] = json.loads(line)
        return frame

    async def until(self, kind: str) -> dict[str, Any]:
        """The next line of this type; what comes before it is dropped."""
        while (frame := await self.receive())["type"] != kind:
            pass
        return frame

    async def end(self) -> None:
        """End the process and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class BareWay(Way):
    """Turns of warm processes that are cleared after each, off the turn's path: the floor.

    They are started exactly as the pool starts its own.
    """

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self._started = 0
        self._free: asyncio.Queue[Conversation] = asyncio.Queue()
        self._clearing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        from agent_pool import AgentPool

        self._launch = await AgentPool().launch(self.agent)
        await self.prepare(1)

    async def prepare(self, at_once: int) -> None:
        while self._started < at_once:
            self._free.put_nowait(await self._start())
            self._started += 1

    async def _start(self) -> Conversation:
        launch = self._launch
        request: dict[str, Any] = {"subtype": "initialize"}
        argv = [*launch.argv]
        if launch.prompt_by_initialize:
            request["systemPrompt"] = [launch.prompt]
        else:
            argv.append(f"--system-prompt={launch.prompt}")
        started = await Conversation.start(argv, launch.env)
        self.opened.push_async_callback(started.end)
        started.send({"type": "control_request", "request_id": "1", "request": request})
        await started.until("control_response")
        return started

    async def one(self, task: str) -> str:
        conversation = await self._free.get()
        conversation.say(task)
        result = await conversation.until("result")
        clearing = asyncio.create_task(self._clear(conversation))
        self._clearing.add(clearing)
        clearing.add_done_callback(self._clearing.discard)
        return str(result.get("result"))

    async def _clear(self, conversation: Conversation) -> None:
        conversation.say("/clear")
        await conversation.until("result")
        self._free.put_nowait(conversation)

    async def settle(self) -> None:
        await asyncio.gather(*self._clearing)


class SessionWay(Way):
    """The native Agent tool, inside one session.

    A task takes from the call of the tool, as the session announces it, to the tool's result; what
    the session's own model does before and after does not count.
    """

    async def open(self) -> None:
        streams = ["--input-format=stream-json", "--output-format=stream-json", "--verbose"]
        argv = [os.environ["CLAUDE_CLI"], "-p", *streams, "--dangerously-skip-permissions"]
        self._session = await Conversation.start(argv, os.environ)
        self.opened.push_async_callback(self._session.end)

    async def one(self, task: str) -> str:
        answers, _ = await self.many([task], 1)
        return answers[0].text

    async def many(self, tasks: Sequence[str], at_once: int) -> tuple[list[Answer], float]:
        answers: list[Answer] = []
        whole = 0.0
        for first in range(0, len(tasks), at_once):
            delegation = await self._delegate(tasks[first : first + at_once])
            answers += delegation.answers
            whole += delegation.seconds
        return answers, whole

    async def _delegate(self, tasks: Sequence[str]) -> Delegation:
        """Tasks that the session's model calls the tool for in one message."""
        self._session.say("\n".join(tasks))
        delegation = Delegation(tasks)
        while (frame := await self._session.receive())["type"] != "result":
            delegation.notice(frame)
        return delegation


class Delegation:
    """What a session tells of the Agent tool during one turn."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tasks
        self._called: dict[str, tuple[str, float]] = {}
        self._answers: dict[str, Answer] = {}
        self._ended = 0.0

    @property
    def answers(self) -> list[Answer]:
        """In the order of the tasks.

        Raises:
            TaskFailed: some have none.
        """
        if missing := [task for task in self._tasks if task not in self._answers]:
            raise TaskFailed(f"the Agent tool answered nothing to {missing}")
        return [self._answers[task] for task in self._tasks]

    @property
    def seconds(self) -> float:
        """From the first call to the last result."""
        return self._ended - min(began for _, began in self._called.values())

    def notice(self, frame: Mapping[str, Any]) -> None:
        """Note calls and results; a sub-agent's own messages are passed over."""
        if frame.get("parent_tool_use_id") is not None or frame["type"] not in (
            "assistant",
            "user",
        ):
            return
        content = frame["message"]["content"]
        for block in content if isinstance(content, list) else ():
            if block["type"] == "tool_use":
                self._called[block["id"]] = block["input"]["prompt"], time.perf_counter()
            elif block["type"] == "tool_result":
                self._finish(block)

    def _finish(self, result: Mapping[str, Any]) -> None:
        self._ended = time.perf_counter()
        task, began = self._called[result["tool_use_id"]]
        self._answers[task] = Answer(json.dumps(result.get("content")), self._ended - began)
