"""Hundreds of tasks while everything goes wrong at random: nothing is lost, crossed or left.

    pytest -m soak tests/soak              the long form: SOAK_TASKS tasks, 600 by default
    SOAK_SEED=7 pytest tests/soak          the same faults again

What is thrown at the pool: workers are killed and stopped, agents edited and reset, callers leave,
tasks never end, commands go on in the background and as daemons, the API refuses and cuts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from agent_pool import AgentPool, AgentPoolError, TaskResult, TaskTimeout, WorkerDied
from pool.conftest import world as world
from pool_world import MARK, PoolWorld, open_files
from support import run

AGENTS = ("alpha", "beta", "gamma")
CALLERS = 6
MAX_SIZE = 2
BOUND_RSS = 768 << 20
"""Bytes that no worker may have, with all its commands."""
BOUND_GROWTH = 5 << 20
"""Bytes by which the pool's own process may grow from a quarter of the tasks to the end."""

KINDS = {
    "plain": 40,
    "shell": 20,
    "big": 10,
    "background": 4,
    "daemon": 6,
    "hold": 8,
    "overload": 2,
    "cut": 3,
    "error": 4,
}
"""How often each kind of task comes, see `model.py`; half of those on hold are cancelled."""
IMPATIENT = {
    "start_timeout": 15,
    "stall_timeout": 8,
    "interrupt_timeout": 2,
    "reset_timeout": 5,
    "stop_grace": 0.5,
    "kill_grace": 0.5,
    "close_timeout": 5,
}
"""How long a stopped process is waited for."""
VANDALISM = ("kill", "kill", "stop", "edit", "edit", "reset")
EVERY = 6
"""Tasks between two acts of vandalism."""


@dataclass
class Books:
    """What was asked and what came of it."""

    asked: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    vandalism: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    most_rss: int = 0
    grown_from: int = 0


class Soak:
    """One run: its callers, its vandal and its books."""

    def __init__(self, world: PoolWorld, pool: AgentPool, seed: int, tasks: int) -> None:
        self.books = Books()
        self._world = world
        self._pool = pool
        self._chance = random.Random(seed)
        self._editions = dict.fromkeys(AGENTS, 1)
        self._quarter = tasks // 4
        self._plan = iter([self._new_task(number) for number in range(tasks)])

    def _new_task(self, number: int) -> tuple[int, str, str, str]:
        token = f"tok-{self._chance.getrandbits(48):012x}"
        (kind,) = self._chance.choices(list(KINDS), KINDS.values())
        return number, self._chance.choice(AGENTS), token, kind

    async def run(self) -> None:
        """All tasks, from several callers, while the memory is looked at."""
        looking = asyncio.create_task(self._look())
        try:
            async with asyncio.TaskGroup() as callers:
                for _ in range(CALLERS):
                    callers.create_task(self._call_on())
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def _call_on(self) -> None:
        for number, agent, token, kind in self._plan:
            self.books.asked += 1
            self.books.kinds[kind] += 1
            if number % EVERY == EVERY - 1:
                await self._vandalise()
            if number == self._quarter:
                self.books.grown_from = own_rss()
            how = "leaves" if kind == "hold" and self._chance.random() < 0.5 else "waits"
            outcome = await (self._leave if how == "leaves" else self._wait)(agent, token, kind)
            self.books.ended[outcome] += 1

    async def _leave(self, agent: str, token: str, kind: str) -> str:
        calling = asyncio.create_task(self._pool.invoke(agent, f"{token} {kind}"))
        await asyncio.sleep(self._chance.random())
        calling.cancel()
        await asyncio.wait([calling])
        if calling.cancelled():
            return "left"
        return self._judge_error(calling.exception(), kind)

    async def _wait(self, agent: str, token: str, kind: str) -> str:
        edition = self._editions[agent]
        timeout = 0.5 if kind == "hold" else None
        try:
            result = await self._pool.invoke(agent, f"{token} {kind}", timeout=timeout)
        except AgentPoolError as error:
            return self._judge_error(error, kind)
        return self._judge(result, agent, token, kind, edition)

    def _judge(self, result: TaskResult, agent: str, token: str, kind: str, edition: int) -> str:
        if kind == "error" and result.is_error:
            return "api error"
        editions = range(edition, self._editions[agent] + 1)
        if result.text not in [f"{token} edition {number}" for number in editions]:
            self.books.wrong.append(f"{agent} {token} {kind} {list(editions)}: {result!r}")
        return "answered"

    def _judge_error(self, error: BaseException | None, kind: str) -> str:
        if not isinstance(error, WorkerDied | TaskTimeout):
            self.books.wrong.append(f"{kind}: {error!r}")
        return type(error).__name__ if kind != "hold" else "ended"

    # What goes wrong

    async def _vandalise(self) -> None:
        act = self._chance.choice(VANDALISM)
        workers = [worker.pid for worker in await self._pool.list() if worker.pid]
        agent = self._chance.choice(AGENTS)
        if act in ("kill", "stop"):
            if not workers:
                return
            number = signal.SIGKILL if act == "kill" else signal.SIGSTOP
            try:
                os.kill(self._chance.choice(workers), number)
            except ProcessLookupError:
                return
        elif act == "edit":
            self._editions[agent] += 1
            define(self._world, agent, self._editions[agent])
        else:
            await self._pool.reset(agent)
        self.books.vandalism[act] += 1

    async def _look(self) -> None:
        while True:
            sizes = [worker.rss for worker in await self._pool.list()]
            self.books.most_rss = max(self.books.most_rss, *sizes, 0)
            await asyncio.sleep(0.3)


def define(world: PoolWorld, agent: str, edition: int) -> None:
    """Write an agent's definition; two of the agents share their flags."""
    model = "opus" if agent in ("alpha", "beta") else "sonnet"
    path = world.agent(f"{agent}.part", f"You are {agent}, edition {edition}.", model=model)
    text = path.read_text().replace(f"name: {agent}.part", f"name: {agent}")
    path.write_text(text)
    path.rename(path.with_name(f"{agent}.md"))


def own_rss() -> int:
    """Resident bytes of this process."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@asynccontextmanager
async def model() -> AsyncIterator[str]:
    """The offline model, and its URL."""
    path = str(Path(__file__).with_name("model.py"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def soak(world: PoolWorld, seed: int, tasks: int) -> Books:
    """A pool with all its defaults but for the bounds of waits, and all that can happen to it."""
    for agent in AGENTS:
        define(world, agent, 1)
    counts = {"max_size": MAX_SIZE, "max_workers": 5, "max_tasks": 20, "max_rss": BOUND_RSS}
    async with model() as url:
        more = {MARK: world.mark, "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}
        environ = world.environment(url, XDG_CACHE_HOME=str(world.home / "cache"), **more)
        before = possessions()
        async with AgentPool(environ=environ, **IMPATIENT, **counts) as pool:
            soaking = Soak(world, pool, seed, tasks)
            await soaking.run()
            grown = own_rss() - soaking.books.grown_from
            stats = pool.stats()
        assert world.processes() == []
        assert possessions() == before
    books = soaking.books
    print(f"\n{books}\n{stats}\ngrown by {grown / 2**20:.1f} MiB")  # noqa: T201
    assert books.wrong == []
    assert sum(books.ended.values()) == books.asked == tasks
    killed = books.vandalism["kill"] + MAX_SIZE * books.vandalism["reset"]
    assert books.ended["WorkerDied"] <= killed
    assert books.ended["TaskTimeout"] <= books.vandalism["stop"]
    assert stats.waiting == 0
    assert 0 < books.most_rss < BOUND_RSS
    assert grown < BOUND_GROWTH
    return books


def possessions() -> dict[str, int]:
    """What this process holds, but for the idle threads of asyncio."""
    gc.collect()
    return {
        "files": open_files(),
        "tasks": len(asyncio.all_tasks()),
        "children": len(psutil.Process().children()),
        "threads": sum(not t.name.startswith("asyncio_") for t in threading.enumerate()),
    }


@pytest.fixture
def seed() -> Iterator[int]:
    """What the faults of a run are drawn from; said when the test fails."""
    number = int(os.environ.get("SOAK_SEED") or random.SystemRandom().getrandbits(32))
    print(f"SOAK_SEED={number}")  # noqa: T201 - pytest shows it when the test fails
    return number


def test_a_short_soak_loses_crosses_and_leaves_nothing(world: PoolWorld, seed: int) -> None:
    run(soak(world, seed, 50), bound=110)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_long_soak_loses_crosses_and_leaves_nothing(world: PoolWorld, seed: int) -> None:
    books = run(soak(world, seed, int(os.environ.get("SOAK_TASKS", "600"))), bound=3500)
    assert set(books.kinds) == set(KINDS)
    assert set(books.vandalism) == set(VANDALISM)
