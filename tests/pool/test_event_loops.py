"""A pool belongs to the event loop in which it was opened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from agent_pool import AgentPool, AgentPoolError, PoolError
from support.pools import PoolProject
from support.waiting import WAIT_TIMEOUT, run, wait_until

CALLS: dict[str, Callable[[AgentPool], Awaitable[Any]]] = {
    "invoke": lambda pool: pool.invoke("tester", "quince"),
    "warmup": lambda pool: pool.warmup("tester"),
    "reset": lambda pool: pool.reset("tester"),
    "cancel": lambda pool: pool.cancel("task-1"),
    "open": lambda pool: pool.open(),
    "close": lambda pool: pool.close(),
}


def test_a_second_event_loop_is_refused_at_once_and_by_name(pool_project: PoolProject) -> None:
    pool = pool_project.faulty()

    async def use(call: Callable[[AgentPool], Awaitable[Any]]) -> None:
        async with asyncio.timeout(WAIT_TIMEOUT):
            await call(pool)

    async def main() -> None:
        async with pool:
            for call in CALLS.values():
                with pytest.raises(PoolError, match="opened in another event loop, which still"):
                    await asyncio.to_thread(asyncio.run, use(call))
            assert (await pool.invoke("tester", "quince")).text == "echo: quince"

    run(main())


def test_a_pool_whose_event_loop_has_ended_says_so(pool_project: PoolProject) -> None:
    pool = pool_project.faulty()
    with asyncio.Runner() as first:
        first.run(pool.open())
    try:
        with pytest.raises(PoolError, match=r"which has ended.*make a new pool"):
            run(pool.invoke("tester", "quince"))
    finally:
        pool.kill()


def test_a_start_that_the_close_ends_is_no_warning(
    pool_project: PoolProject, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "initialize", "do": "hang"}) as pool:
            waiting = asyncio.create_task(pool.invoke("tester", "quince"))
            await wait_until(lambda: pool_project.journal("start"))
            pool.kill()
            with suppress(AgentPoolError):
                await waiting

    with caplog.at_level(logging.INFO, "agent_pool"):
        run(main())
    assert "before it was ready" not in caplog.text
