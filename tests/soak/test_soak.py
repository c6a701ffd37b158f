"""Hundreds of tasks with random faults: no task is lost or mixed up, and no process is left.

    pytest -m soak tests/soak              the long form: SOAK_TASKS tasks, 600 by default
    SOAK_SEED=7 pytest tests/soak          the same faults again

The faults: workers are killed and stopped, agents edited and reset, the user's hooks change, the
CLI behind a wrapper is replaced, callers leave, tasks never end, commands go on in the background
and as daemons, rules of the settings deny commands, the API refuses requests and cuts connections.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool import AgentPool, AgentPoolError, TaskResult, TaskTimeout, WorkerDied
from support.environment import real_cli
from support.pools import PoolProject
from support.process_checks import open_files
from support.waiting import run

AGENTS = ("alpha", "beta", "gamma")
CALLERS = 6
MAX_SIZE = 2
BOUND_RSS = 768 << 20
"""Bytes; every worker, with all its commands, must have less."""
BOUND_GROWTH = 5 << 20
"""Bytes; the pool's own process must grow by less, from a quarter of the tasks to the end."""

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
    "asks": 4,
}
"""The weight of each kind of task, see `soak_model.py`; half of those on hold are cancelled."""
SHORT_WAITS: dict[str, Any] = {
    "start_timeout": 15,
    "stall_timeout": 8,
    "interrupt_timeout": 2,
    "reset_timeout": 5,
    "stop_grace": 0.5,
    "kill_grace": 0.5,
    "close_timeout": 5,
}
"""Short waits for processes that were stopped."""
FAULTS = ("kill", "kill", "stop", "edit", "edit", "reset", "hooks", "wrap")
HOOKS: tuple[dict[str, Any], ...] = (
    {},
    {"SessionStart": [{"hooks": [{"type": "command", "command": "sleep 0.1"}]}]},
    {"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "true"}]}]},
)
"""The hooks that the user can have."""
FAULT_INTERVAL = 6
"""Tasks between two faults."""


@dataclass
class SoakTotals:
    """The counts of a soak.

    Attributes:
        started: tasks that were given to the pool.
        outcomes: how they ended.
        faults: the faults that were injected.
        kinds: the kinds of the tasks.
        wrong: descriptions of results and errors that do not fit.
        max_rss: the most bytes that a worker had.
        first_rss: the bytes of the pool's own process after a quarter of the tasks.
    """

    started: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    max_rss: int = 0
    first_rss: int = 0


class Soak:
    """One run: its callers, its faults and its totals."""

    def __init__(self, pool_project: PoolProject, pool: AgentPool, seed: int, tasks: int) -> None:
        self.totals = SoakTotals()
        self._project = pool_project
        self._pool = pool
        self._random = random.Random(seed)
        self._editions = dict.fromkeys(AGENTS, 1)
        self._quarter = tasks // 4
        self._plan = iter([self._new_task(number) for number in range(tasks)])

    def _new_task(self, number: int) -> tuple[int, str, str, str]:
        token = f"tok-{self._random.getrandbits(48):012x}"
        (kind,) = self._random.choices(list(KINDS), list(KINDS.values()))
        return number, self._random.choice(AGENTS), token, kind

    async def run(self) -> None:
        """Run all tasks, from several callers, and measure the memory of the workers."""
        watching = asyncio.create_task(self._watch_memory())
        try:
            async with asyncio.TaskGroup() as callers:
                for _ in range(CALLERS):
                    callers.create_task(self._call())
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _call(self) -> None:
        for number, agent, token, kind in self._plan:
            self.totals.started += 1
            self.totals.kinds[kind] += 1
            if number % FAULT_INTERVAL == FAULT_INTERVAL - 1:
                await self._inject_fault()
            if number == self._quarter:
                self.totals.first_rss = own_rss()
            how = "leaves" if kind == "hold" and self._random.random() < 0.5 else "waits"
            outcome = await (self._leave if how == "leaves" else self._wait)(agent, token, kind)
            self.totals.outcomes[outcome] += 1

    async def _leave(self, agent: str, token: str, kind: str) -> str:
        calling = asyncio.create_task(self._pool.invoke(agent, f"{token} {kind}"))
        await asyncio.sleep(self._random.random())
        calling.cancel()
        await asyncio.wait([calling])
        if calling.cancelled():
            return "left"
        return self._check_error(calling.exception(), kind)

    async def _wait(self, agent: str, token: str, kind: str) -> str:
        edition = self._editions[agent]
        timeout = 0.5 if kind == "hold" else None
        try:
            result = await self._pool.invoke(agent, f"{token} {kind}", timeout=timeout)
        except AgentPoolError as error:
            return self._check_error(error, kind)
        return self._check_result(result, agent, token, kind, edition)

    def _check_result(
        self, result: TaskResult, agent: str, token: str, kind: str, edition: int
    ) -> str:
        if kind == "error" and result.is_error:
            return "api error"
        editions = range(edition, self._editions[agent] + 1)
        if result.text not in [f"{token} edition {number}" for number in editions]:
            self.totals.wrong.append(f"{agent} {token} {kind} {list(editions)}: {result!r}")
        return "answered"

    def _check_error(self, error: BaseException | None, kind: str) -> str:
        if not isinstance(error, WorkerDied | TaskTimeout):
            self.totals.wrong.append(f"{kind}: {error!r}")
        return type(error).__name__ if kind != "hold" else "ended"

    # Faults

    async def _inject_fault(self) -> None:
        act = self._random.choice(FAULTS)
        workers = [worker.pid for worker in await self._pool.workers() if worker.pid]
        agent = self._random.choice(AGENTS)
        if act in ("kill", "stop"):
            if not workers:
                return
            number = signal.SIGKILL if act == "kill" else signal.SIGSTOP
            try:
                os.kill(self._random.choice(workers), number)
            except ProcessLookupError:
                return
        elif act == "edit":
            self._editions[agent] += 1
            define(self._project, agent, self._editions[agent])
        elif act == "hooks":
            write_settings(self._project, self._random.choice(HOOKS))
        elif act == "wrap":
            write_wrapper(self._project, f"{self._random.random()}")
        else:
            await self._pool.reset(agent)
        self.totals.faults[act] += 1

    async def _watch_memory(self) -> None:
        while True:
            sizes = [worker.rss for worker in await self._pool.workers()]
            self.totals.max_rss = max(self.totals.max_rss, *sizes, 0)
            await asyncio.sleep(0.3)


def define(pool_project: PoolProject, agent: str, edition: int) -> None:
    """Write an agent's definition; two of the agents have the same options."""
    model = "opus" if agent in ("alpha", "beta") else "sonnet"
    path = pool_project.agent(f"{agent}.part", f"You are {agent}, edition {edition}.", model=model)
    text = path.read_text().replace(f"name: {agent}.part", f"name: {agent}")
    path.write_text(text)
    path.rename(path.with_name(f"{agent}.md"))


def write_settings(pool_project: PoolProject, hooks: dict[str, Any]) -> None:
    """Write the user's settings: a rule that asks, and these hooks."""
    path = pool_project.home / ".claude" / "settings.json"
    path.parent.mkdir(exist_ok=True)
    replace(path, json.dumps({"permissions": {"ask": ["Bash(curl:*)"]}, "hooks": hooks}))


def write_wrapper(pool_project: PoolProject, remark: str) -> Path:
    """Write a script that starts the real CLI; return its path."""
    path = pool_project.home / "claude"
    return replace(path, f'#!/bin/sh\n# {remark}\nexec {real_cli()} "$@"\n', mode=0o755)


def replace(path: Path, content: str, mode: int = 0o644) -> Path:
    """Replace a file in one step, as editors and updates do."""
    new = path.with_suffix(".new")
    new.write_text(content)
    new.chmod(mode)
    return new.rename(path)


def own_rss() -> int:
    """Return the resident bytes of this process."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@asynccontextmanager
async def model() -> AsyncIterator[str]:
    """Start the offline model; yield its URL."""
    path = str(Path(__file__).parents[1] / "support" / "programs" / "soak_model.py")
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


async def soak(pool_project: PoolProject, seed: int, tasks: int) -> SoakTotals:
    """Run a soak on a pool with the default settings but shorter waits; return its totals."""
    for agent in AGENTS:
        define(pool_project, agent, 1)
    write_settings(pool_project, {})
    counts: dict[str, Any] = {
        "max_size": MAX_SIZE,
        "max_workers": 5,
        "max_tasks": 20,
        "max_rss": BOUND_RSS,
        "claude_cli": str(write_wrapper(pool_project, "first")),
        "worker_memory": "lean",  # as a user has them
    }
    async with model() as url:
        more = {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}
        environ = pool_project.environment(
            url, XDG_CACHE_HOME=str(pool_project.home / "cache"), **more
        )
        before = own_resources()
        async with AgentPool(environ=environ, **SHORT_WAITS, **counts) as pool:
            soaking = Soak(pool_project, pool, seed, tasks)
            await soaking.run()
            grown = own_rss() - soaking.totals.first_rss
            stats = await pool.stats()
        assert pool_project.processes() == []
        assert own_resources() == before
    totals = soaking.totals
    print(f"\n{totals}\n{stats}\ngrown by {grown / 2**20:.1f} MiB")  # noqa: T201
    assert totals.wrong == []
    assert sum(totals.outcomes.values()) == totals.started == tasks
    killed = totals.faults["kill"] + MAX_SIZE * totals.faults["reset"]
    assert totals.outcomes["WorkerDied"] <= killed
    assert totals.outcomes["TaskTimeout"] <= totals.faults["stop"]
    assert stats.waiting == 0
    assert 0 < totals.max_rss < BOUND_RSS
    assert grown < BOUND_GROWTH
    return totals


def own_resources() -> dict[str, int]:
    """Count files, tasks, children and threads of this process, without asyncio's idle threads."""
    gc.collect()
    return {
        "files": open_files(),
        "tasks": len(asyncio.all_tasks()),
        "children": len(psutil.Process().children()),
        "threads": sum(not t.name.startswith("asyncio_") for t in threading.enumerate()),
    }


@pytest.fixture
def seed() -> int:
    """Return the seed of the random faults; pytest shows it when the test fails."""
    number = int(os.environ.get("SOAK_SEED") or random.SystemRandom().getrandbits(32))
    print(f"SOAK_SEED={number}")  # noqa: T201 - pytest shows it when the test fails
    return number


@pytest.mark.long
def test_a_short_soak_loses_no_task_and_leaves_no_process(
    pool_project: PoolProject, seed: int
) -> None:
    run(soak(pool_project, seed, 50), bound=110)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_long_soak_loses_no_task_and_leaves_no_process(
    pool_project: PoolProject, seed: int
) -> None:
    totals = run(soak(pool_project, seed, int(os.environ.get("SOAK_TASKS", "600"))), bound=3500)
    assert set(totals.kinds) == set(KINDS)
    assert set(totals.faults) == set(FAULTS)
