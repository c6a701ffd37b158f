"""Pools on the real CLI and on the fake one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent_pool import AgentPool, PoolStats
from agent_pool.loopback import LoopbackAPI, ModelRequest
from support import fake_cli
from support.environment import UNREACHABLE_URL
from support.fake_cli import Act
from support.process_checks import is_alive
from support.project import TempProject
from support.waiting import WAIT_TIMEOUT

PLAIN: dict[str, Any] = {"reset": "clear", "spares": 0, "close_timeout": 5}
"""Settings that start no process except the workers, so that tests can count them."""

HASTY: dict[str, Any] = {**PLAIN, "stop_grace": 0.3, "kill_grace": 0.3, "interrupt_timeout": 1}
"""The same with short waits, for processes that never answer."""


class PoolProject(TempProject):
    """A project with the agent `tester`, and pools that work in it.

    Attributes:
        fake: the folder of the fake CLI.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fake = folder / "fake"
        self.agent("tester", description="Tests.")

    @asynccontextmanager
    async def real(
        self, script: Callable[[ModelRequest], Any], **settings: Any
    ) -> AsyncIterator[tuple[AgentPool, LoopbackAPI]]:
        """Open a pool on the real CLI, and the API that it calls."""
        async with LoopbackAPI(script) as api, self.pool(api.url, **settings) as pool:
            yield pool, api

    def pool(self, url: str, **settings: Any) -> AgentPool:
        """Build a pool on the real CLI with the API at `url`; it is not open yet."""
        return AgentPool(environ=self.environment(url), **{**PLAIN, **settings})

    def faulty(self, *acts: Act, version: str = "2.1.330", **settings: Any) -> AgentPool:
        """Build a pool on a fake CLI that plays these acts; it is not open yet."""
        fake_cli.install(self.fake, *acts, version=version)
        return AgentPool(environ=self.fake_environment(), **{**HASTY, **settings})

    @asynccontextmanager
    async def on_fake_cli(
        self, script: Callable[[ModelRequest], Any], **settings: Any
    ) -> AsyncIterator[tuple[AgentPool, LoopbackAPI]]:
        """Open a pool on a fake CLI without faults, and the API that it calls, as `real` does.

        For what the pool does and the CLI does not decide: a process of it takes a tenth of the
        real one's time.
        """
        cli = fake_cli.install(self.fake, model="api")
        async with LoopbackAPI(script) as api:
            environ = self.environment(api.url, CLAUDE_CLI=str(cli))
            async with AgentPool(environ=environ, **{**PLAIN, **settings}) as pool:
                yield pool, api

    def fake_environment(self) -> dict[str, str]:
        """Build the environment of a pool on the fake CLI that was installed last."""
        return self.environment(UNREACHABLE_URL, CLAUDE_CLI=str(self.fake / "claude"))

    def journal(self, event: str = "") -> list[str]:
        """Return the events of the fake's processes that begin with `event`, in order."""
        return [noted for _, noted in fake_cli.journal(self.fake) if noted.startswith(event)]

    def fakes(self) -> list[int]:
        """Return the pids of the fake's living processes, also of those without the mark."""
        return sorted({pid for pid, _ in fake_cli.journal(self.fake) if is_alive(pid)})


async def wait_until_idle(pool: AgentPool) -> None:
    """Wait until every worker is idle."""
    async with asyncio.timeout(WAIT_TIMEOUT):
        while any(worker.state != "idle" for worker in await pool.workers()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # each question looks for the processes of all workers


async def wait_for_stats(pool: AgentPool, condition: Callable[[PoolStats], object]) -> PoolStats:
    """Wait until the condition is true of the pool's figures; return these figures."""
    async with asyncio.timeout(WAIT_TIMEOUT):
        while not condition(stats := await pool.stats()):  # noqa: ASYNC110 - as in `wait_until`
            await asyncio.sleep(0.005)
    return stats


async def assert_serves(pool: AgentPool, without: int | None = None) -> int:
    """Give the pool a task; return the pid of its worker, which must not be `without`."""
    result = await pool.invoke("tester", "quince")
    assert result.text == "echo: quince"
    assert result.pid != without
    await wait_until_idle(pool)
    return result.pid
