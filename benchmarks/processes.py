"""Measures what it costs to own and to find processes, with many others on the machine.

    python -m benchmarks processes [--others 1000] [--tasks 40] [--rest 20] [--starts 40]

The pool runs in a process of its own, ``python -m benchmarks.processes OTHERS TASKS REST STARTS``,
so that its processor time is not that of the model. Blocks with and without the other processes
take turns, so that the noise of the machine affects both alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import click
import psutil

from agent_pool import AgentPool, Event, WorkerReady, find_cli, load_settings
from agent_pool.claude import watchdog
from agent_pool.cli.command import Command, Terminated, load_command_settings, run_async
from agent_pool.cli.offline import offline_sandbox
from agent_pool.loopback import ModelReply, ModelRequest, ToolUseBlock
from benchmarks.memory import end_process
from benchmarks.method_process import python_environ

AGENT: Final = "tester"
FILES: Final = {f".claude/agents/{AGENT}.md": f"---\nname: {AGENT}\ntools: Bash\n---\nYou test.\n"}
BLOCKS: Final = 5
"""Blocks of tasks without the other processes, and as many with them."""
SETTLE_SECONDS: Final = 2.0
_SHELL: Final = "shell"
_WORKLOADS: Final = {"plain": "no tool", _SHELL: "one command of the shell"}


def reply(request: ModelRequest) -> ModelReply:
    """Call the shell once for tasks that begin with "shell"; answer all others at once."""
    if request.last_user_text.strip().startswith(_SHELL) and not request.tool_results:
        return ModelReply([ToolUseBlock("Bash", {"command": "true", "description": "Measures."})])
    return ModelReply("done")


@click.command(cls=Command)
@click.option("--others", type=click.IntRange(min=1), default=1000, help="Default: 1000.")
@click.option("--tasks", type=click.IntRange(min=1), default=40, help="In a block. Default: 40.")
@click.option("--rest", type=click.IntRange(min=1), default=20, help="Seconds. Default: 20.")
@click.option("--starts", type=click.IntRange(min=1), default=40, help="Default: 40.")
@click.pass_context
def processes(ctx: click.Context, others: int, tasks: int, rest: int, starts: int) -> None:
    """Measure the cost of finding what tasks leave behind, and of starting through the watchdog.

    A thousand sleeping processes are started and ended again. It needs about five minutes.

    \b
    Figures:
      processor time of the pool's own process for a task, and tasks in a second: with the other
      processes divided by without them
      processor time of the pool's own process in a second at rest, with one and with eight workers
      time of a start through the watchdog divided by a direct one
    """
    run_async(_run_pool(ctx, [str(number) for number in (others, tasks, rest, starts)]))


async def _run_pool(ctx: click.Context, arguments: list[str]) -> None:
    cli = find_cli(load_command_settings(ctx, None))
    async with offline_sandbox(cli, FILES, reply) as sandbox:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.processes", *arguments),
            env=python_environ(sandbox),
            cwd=sandbox.settings.project_dir,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this program alone, which then ends the pool
        )
        try:
            await process.wait()
        finally:
            await end_process(process)


# In the pool's own process


@contextmanager
def other_processes(count: int) -> Iterator[None]:
    """Have so many more processes on the machine, which sleep."""
    script = 'i=0; while [ $i -lt "$1" ]; do sleep 100000 & i=$((i+1)); done; echo; wait'
    parent = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(count)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    try:
        yield
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()


@asynccontextmanager
async def idle_pool(workers: int) -> AsyncIterator[AgentPool]:
    """Open a pool with so many idle workers, which are never replaced."""
    limits: dict[str, Any] = dict.fromkeys(("max_tasks", "max_lifetime", "max_idle", "max_rss"))
    size = {"max_size": workers, "max_workers": workers, "min_size": workers}
    settings = load_settings().with_overrides({**limits, **size, "spares": 0, "prewarm": (AGENT,)})
    async with AgentPool(settings) as pool:
        while (await pool.stats()).workers != {"idle": workers}:  # noqa: ASYNC110 - not an event
            await asyncio.sleep(0.05)
        yield pool


async def measure_tasks(pool: AgentPool, workload: str, tasks: int) -> tuple[float, float]:
    """Run tasks; return the pool's processor seconds for one, and the tasks in a second."""
    began, used = time.monotonic(), time.process_time()
    for number in range(tasks):
        (await pool.invoke(AGENT, f"{workload} {number}")).raise_for_error()
    taken = time.monotonic() - began
    return (time.process_time() - used) / tasks, tasks / taken


async def compare_tasks(pool: AgentPool, workload: str, tasks: int, others: int) -> None:
    """Print the figures of a workload without and with the other processes."""
    await measure_tasks(pool, workload, tasks)  # the probe, the imports, the first resets
    figures: dict[int, list[tuple[float, float]]] = {0: [], others: []}
    for _ in range(BLOCKS):
        for count, found in figures.items():
            with other_processes(count):
                await asyncio.sleep(SETTLE_SECONDS)
                found.append(await measure_tasks(pool, workload, tasks))
    without, with_them = (
        [statistics.median(values) for values in zip(*found, strict=True)]
        for found in figures.values()
    )
    ratios = [one / two for one, two in zip(with_them, without, strict=True)]
    click.echo(
        f"tasks with {_WORKLOADS[workload]}: {1000 * without[0]:.2f} ms of the pool's processor "
        f"time, {1000 * with_them[0]:.2f} with {others} more processes: {ratios[0]:.2f}; "
        f"{without[1]:.1f} and {with_them[1]:.1f} tasks in a second: {ratios[1]:.2f}"
    )


async def measure_rest(workers: int, seconds: int, others: int) -> None:
    """Print the processor time of a pool that does nothing, and of its watchdog."""
    async with idle_pool(workers):
        for count in (0, others):
            with other_processes(count):
                await asyncio.sleep(SETTLE_SECONDS)
                watched, used = _watchdogs_seconds(), time.process_time()
                await asyncio.sleep(seconds)
                own = (time.process_time() - used) / seconds
                more = (_watchdogs_seconds() - watched) / seconds
            click.echo(
                f"at rest, {workers} idle, {count} more processes: {1000 * own:.2f} ms a second, "
                f"the watchdog {1000 * more:.2f}"
            )


def _watchdogs_seconds() -> float:
    used = 0.0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(os.getpid()) in process.cmdline()[6:7]:
                used += sum(process.cpu_times()[:2])
    return used


async def compare_starts(starts: int) -> None:
    """Print the time of a start through the watchdog, divided by that of a direct one."""
    through, direct = [], []
    async with _starting_pool() as ours:
        adopts, watchdog.HAS_SUBREAPERS = watchdog.HAS_SUBREAPERS, False
        try:
            other = _starting_pool()
        finally:
            watchdog.HAS_SUBREAPERS = adopts
        async with other as theirs:
            for _ in range(starts):
                through.append(await _start_once(ours))
                direct.append(await _start_once(theirs))
    ratio = statistics.median(one / two for one, two in zip(through, direct, strict=True))
    click.echo(
        f"a start through the watchdog: {1000 * statistics.median(through):.0f} ms, a direct one: "
        f"{1000 * statistics.median(direct):.0f} ms; median of the ratios of pairs: {ratio:.3f}"
    )


def _starting_pool() -> AgentPool:
    settings = load_settings().with_overrides({"spares": 0, "max_size": 1, "reset": "clear"})
    return AgentPool(settings)


async def _start_once(pool: AgentPool) -> float:
    seconds: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, WorkerReady) and event.seconds is not None:
            seconds.append(event.seconds)

    end = pool.subscribe(note)
    await pool.warmup(AGENT)
    await pool.reset(AGENT)
    end()
    return seconds[0]


async def run_measurements(others: int, tasks: int, rest: int, starts: int) -> None:
    """Carry out all measurements and print each as it ends."""
    async with idle_pool(1) as pool:
        for workload in _WORKLOADS:
            await compare_tasks(pool, workload, tasks, others)
    for workers in (1, 8):
        await measure_rest(workers, rest, others)
    await compare_starts(starts)


if __name__ == "__main__":
    with contextlib.suppress(Terminated):
        run_async(run_measurements(*map(int, sys.argv[1:])))
