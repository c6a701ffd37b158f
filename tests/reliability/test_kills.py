"""Nothing survives a kill of the pool, of its watchdog, or of both, at any moment."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.model_scripts import bash, echo_task
from support.planted_daemons import PlantedDaemon
from support.pool_program import PoolProgram, pool_program
from support.pools import PoolProject
from support.process_checks import is_alive, reapers, temporary_files, watchdogs
from support.waiting import run, wait_until

KILLS = int(os.environ.get("KILLS", "1"))
"""Kills of each kind; 40 of each, 200 in all, take six minutes."""
SEED = int(os.environ.get("KILLS_SEED", "0")) or random.randrange(10**6)
LIFE_SECONDS = 2.0
"""Seconds in which the program starts, warms its pool and gives it a task."""
GONE_SECONDS = 5.0


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def kill_children_first(pid: int) -> None:
    """Do as an engine does that ends a program by its direct children."""
    with suppress(psutil.Error):
        program = psutil.Process(pid)
        kill(program.children())
        program.kill()


VICTIMS: dict[str, Callable[[int], None]] = {
    "pool": lambda pid: kill([psutil.Process(pid)]),
    "watchdog": lambda pid: kill(watchdogs(pid)),
    "pool and watchdog": lambda pid: kill([*watchdogs(pid), psutil.Process(pid)]),
    "reaper": lambda pid: kill(reapers(pid)),
    "children": kill_children_first,
}


SHORT = ("pool and watchdog", "children")
"""What every run of the tests kills; other tests kill the rest."""


class DaemonsOfTasks:
    """A model whose tasks plant a daemon each, and do not end."""

    def __init__(self) -> None:
        self._daemons: list[PlantedDaemon] = []

    def __call__(self, request: ModelRequest) -> Any:
        if "hang" not in request.last_user_text or request.tool_results:
            return echo_task(request)
        self._daemons.append(PlantedDaemon())
        return bash(f"{self._daemons[-1].command}; {self._daemons[-1].command}; exec sleep 1000")

    def processes(self) -> list[psutil.Process]:
        return [process for daemon in self._daemons for process in daemon.processes()]


def moments(victims: str) -> Iterator[float]:
    """Yield the seconds from the start of a program to a kill; the last one is late."""
    chosen = random.Random(f"{SEED} {victims}")
    yield from (chosen.uniform(0, LIFE_SECONDS) for _ in range(KILLS - 1))
    yield LIFE_SECONDS


@pytest.mark.parametrize("victims", VICTIMS if KILLS > 1 else SHORT)
def test_nothing_survives_a_kill_at_a_random_moment(
    pool_project: PoolProject, victims: str, tmp_path: Path
) -> None:
    async def main() -> None:
        for seconds in moments(victims):
            await kill_once(seconds)
            if seconds != LIFE_SECONDS:
                # A pool that was killed before its watchdog stood leaves its folder.
                for folder in temporary_files():
                    shutil.rmtree(folder)

    async def kill_once(seconds: float) -> None:
        model = DaemonsOfTasks()
        async with LoopbackAPI(model) as api:
            environ = pool_project.environment(api.url)
            settings = {"spares": 1, "reset": "auto"}
            async with pool_program(pool_project, environ, **settings) as program:
                working = asyncio.create_task(work(program))
                if seconds == LIFE_SECONDS:
                    await wait_until(lambda: len(model.processes()) == 2)
                else:
                    await asyncio.sleep(seconds)
                pid = program.process.pid
                planted = model.processes()
                before = [*pool_project.processes(), *watchdogs(pid), *reapers(pid)]
                own = {pid, *(one.pid for one in watchdogs(pid) + reapers(pid))}
                began = time.monotonic()
                VICTIMS[victims](pid)
                await wait_until(
                    lambda: not any(is_alive(one.pid) for one in planted), GONE_SECONDS
                )
                if victims in ("watchdog", "reaper"):
                    workers = [one for one in before if one.pid not in own and watched(one)]
                    await wait_until(
                        lambda: not any(is_alive(one.pid) for one in workers), GONE_SECONDS
                    )
                    program.process.kill()
                await pool_project.wait_until_gone(before, GONE_SECONDS)
                await wait_until(lambda: not model.processes(), GONE_SECONDS)
                report(victims, seconds, time.monotonic() - began)
                working.cancel()
                await asyncio.wait([working])

    run(main(), bound=KILLS * 30)


def watched(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.name() == "claude" and "--version" not in process.cmdline()
    return False


async def work(program: PoolProgram) -> None:
    """Let the program warm a worker and give it tasks, until it is killed."""
    with suppress(AssertionError, ConnectionError):
        await program.do("warm", "task")


def report(victims: str, moment: float, seconds: float) -> None:
    if KILLS > 1:
        print(f"{victims}, after {moment:.2f} s: gone in {seconds:.3f} s (seed {SEED})")  # noqa: T201
