"""What tests of a whole pool share: pools on the real CLI and on the fake one, and kernel facts.

Every process of a test carries a mark in its environment, so that what is left can be counted
whatever became of its parents.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

import fake_cli
from agent_pool import AgentPool
from agent_pool.loopback import LoopbackAPI, Reply, Request, ToolUse, text_of
from support import Project

Act = Mapping[str, object]
"""What the fake is to do otherwise than the real one, see `fake_cli`."""

MARK = "TEST_MARK"
BOUND = 15.0
"""Seconds for anything to happen that must."""

PLAIN: dict[str, Any] = {"reset": "clear", "spares": 0, "close_timeout": 5}
"""Settings without which there would be processes that a test has to tell apart from its own."""

HASTY: dict[str, Any] = {**PLAIN, "stop_grace": 0.3, "kill_grace": 0.3, "interrupt_timeout": 1}
"""The same, and those that never answer are not waited for."""


class PoolWorld(Project):
    """A project with the agent `tester`, and pools that work in it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.mark = uuid.uuid4().hex
        self.fake = root / "fake"
        self.agent("tester", description="Tests.")

    @asynccontextmanager
    async def real(
        self, script: Callable[[Request], Any], **settings: Any
    ) -> AsyncIterator[tuple[AgentPool, LoopbackAPI]]:
        """An open pool on the real CLI, and the API that it talks to."""
        async with LoopbackAPI(script) as api, self.pool(api.url, **settings) as pool:
            yield pool, api

    def pool(self, url: str, **settings: Any) -> AgentPool:
        """A pool on the real CLI against the API at `url`; not open yet."""
        environ = self.environment(url, **{MARK: self.mark})
        return AgentPool(environ=environ, **{**PLAIN, **settings})

    def faulty(self, *acts: Act, version: str = "2.1.330", **settings: Any) -> AgentPool:
        """A pool on the fake CLI, which plays these acts; not open yet."""
        launcher = fake_cli.install(self.fake, *acts, version=version)
        environ = self.environment(
            "http://127.0.0.1:9", **{MARK: self.mark, "CLAUDE_CLI": str(launcher)}
        )
        return AgentPool(environ=environ, **{**HASTY, **settings})

    def journal(self, event: str = "") -> list[str]:
        """What has happened to the fake's processes so far, as far as it begins with `event`."""
        return [told for _, told in fake_cli.journal(self.fake) if told.startswith(event)]

    def fakes(self) -> list[int]:
        """The pids of the fake's living processes, bare of an environment as they may be."""
        return sorted({pid for pid, _ in fake_cli.journal(self.fake) if is_alive(pid)})

    def processes(self) -> list[psutil.Process]:
        """The living processes of this world."""
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark
        except (psutil.Error, OSError):
            return False


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event announces; raises TimeoutError after `BOUND` seconds."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


async def until_idle(pool: AgentPool) -> None:
    """Wait until the pool has done its own work on every worker."""
    async with asyncio.timeout(BOUND):
        while any(worker.state != "idle" for worker in await pool.list()):
            pass


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until_gone(processes: list[psutil.Process]) -> None:
    """Wait until these have ended; raises TimeoutError after `BOUND` seconds."""
    await until(lambda: not any(is_alive(process.pid) for process in processes))


def scratch() -> list[Path]:
    """What is in the temporary folder."""
    return list(Path(tempfile.gettempdir()).iterdir())


def zombies(since: float) -> list[int]:
    """The children of this process, started after `since`, that have ended unwaited for."""
    children = [child for child in psutil.Process().children() if child.create_time() >= since]
    return [child.pid for child in children if child.status() == psutil.STATUS_ZOMBIE]


def open_files() -> int:
    """How many file descriptors this process holds."""
    return len(os.listdir(f"/proc/{os.getpid()}/fd"))  # noqa: PTH208


def say_task(request: Request) -> str:
    """A script: the task back, or what the tools have answered."""
    if request.tool_results:
        return "tool: " + "\n".join(text_of(result) for result in request.tool_results)
    return f"echo: {request.last_user_text.strip()}"


class Held:
    """A script whose answers wait until they are let go.

    Attributes:
        began: the tasks that have reached the model, in this order.
        most: how many were with the model at once at the most.
    """

    def __init__(self) -> None:
        self.began: list[str] = []
        self.most = 0
        self._now = 0
        self._all = asyncio.Event()
        self._gates: dict[str, asyncio.Event] = {}

    def __call__(self, request: Request) -> Any:
        return self._hold(request)

    async def _hold(self, request: Request) -> str:
        task = request.last_user_text.strip()
        self.began.append(task)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self._gate(task).wait()
        finally:
            self._now -= 1
        return f"echo: {task}"

    def _gate(self, task: str) -> asyncio.Event:
        gate = self._gates.setdefault(task, asyncio.Event())
        if self._all.is_set():
            gate.set()
        return gate

    def let_go(self, *tasks: str) -> None:
        """Answer these now or as soon as they come; without any, all that come."""
        if not tasks:
            self._all.set()
        for task in tasks or list(self._gates):
            self._gate(task).set()


def bash(command: str, **more: Any) -> Reply:
    """The model calls the shell."""
    return Reply([ToolUse("Bash", {"command": command, "description": "Tests.", **more})])


def shell(path: Path, then: str = "exec sleep 1000") -> str:
    """A command that writes its pid to `path` and then does not end."""
    return f"echo $$ > {path}.part && mv {path}.part {path}; {then}"


async def pid_in(path: Path) -> int:
    """The pid that a command writes to `path`."""
    await until(path.exists)
    return int(path.read_text())  # noqa: ASYNC240 - a few bytes


def shell_first(
    path: Path, then: str = "exec sleep 1000", word: str = "hang"
) -> Callable[[Request], Any]:
    """A script that calls the shell for tasks with `word`, and says other tasks back."""

    def script(request: Request) -> object:
        wanted = word in request.last_user_text and not request.tool_results
        return bash(shell(path, then)) if wanted else say_task(request)

    return script


async def goes_on(pool: AgentPool, without: int | None = None) -> int:
    """The next task gets its answer, from another process than `without`; returns its pid."""
    result = await pool.invoke("tester", "quince")
    assert result.text == "echo: quince"
    assert result.pid != without
    await until_idle(pool)
    return result.pid
