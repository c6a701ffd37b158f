"""Measures the pool on several machines: real Ray nodes on this one, the real CLI on each.

    python -m benchmarks cluster [--rounds 5] [--pairs 50]

Throughput is measured with tasks of one second of model time, so that nodes that share the cores of
this machine can show what nodes of their own would do. For the same reason the first tasks begin
one after the other: tasks that begin together end together, and wait for the same cores each time.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import psutil

from agent_pool import Ended, RemotePool, Started, TaskRequest, connect, find_cli
from agent_pool.cli.command import Command, load_command_settings, run_async
from agent_pool.cli.offline import OfflineSandbox, offline_sandbox
from agent_pool.errors import TaskFailed
from agent_pool.loopback import ModelReply, ModelRequest
from agent_pool.runtime import RUNTIME_DIR, STATE_DIR, find_daemon
from benchmarks.method_process import python_environ
from benchmarks.ray_nodes import RayNodes, ray_nodes
from benchmarks.workload import AGENT, project_files, scripted_model, sum_task

MODEL_SECONDS: Final = 1.0
SLOW: Final = "Take your time."
"""In the text of a task whose model needs `MODEL_SECONDS`."""
STUCK: Final = "Take very long."
STUCK_SECONDS: Final = 300.0
READY_SECONDS: Final = 90.0
LOSS_SECONDS: Final = 60.0
WARM_UPS: Final = 2
WARM_UP_PAIRS: Final = 5
CALLS: Final = 300
MOST_WORKERS: Final = 16
SETTLE_SECONDS: Final = 3.0
IDLE_SECONDS: Final = 10.0
MIB: Final = 1 << 20
RAY_DRIVER: Final = "agent_pool.cluster.ray_driver"
"""The module of the process that uses Ray for the daemon."""


@click.command(cls=Command)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--pairs", type=click.IntRange(min=1), default=50, show_default=True)
@click.pass_context
def cluster(ctx: click.Context, rounds: int, pairs: int) -> None:
    """Measure the pool on real Ray nodes of this machine (needs the extra `ray`).

    \b
    Figures:
      tasks of one second a second: two nodes of four workers, and eight of one, beside one of four
      a task through Ray divided by the same task of a daemon alone, and what Ray itself takes
      seconds from the loss of a node until its task has ended

    It is offline and costs nothing. It needs about four minutes and 4 GiB.
    """
    cli = find_cli(load_command_settings(ctx, None))
    run_async(_measure(cli, rounds, pairs))


async def _measure(cli: Path, rounds: int, pairs: int) -> None:
    async with offline_sandbox(cli, project_files(), _model) as sandbox:
        environ = python_environ(sandbox)
        async with ray_nodes(environ) as nodes:
            await _measure_four(sandbox, nodes, rounds, pairs)
        async with ray_nodes(environ) as nodes:
            await _measure_one(sandbox, nodes, rounds)


def _model(request: ModelRequest) -> ModelReply:
    reply, text = scripted_model(request), request.last_user_text
    seconds = MODEL_SECONDS if SLOW in text else STUCK_SECONDS if STUCK in text else 0.0
    return ModelReply(reply.content, delay=seconds) if seconds else reply


async def _measure_four(sandbox: OfflineSandbox, nodes: RayNodes, rounds: int, pairs: int) -> None:
    """Measure one node of four workers, then two; a task beside the daemon alone; a loss."""
    await nodes.add("node-1", 4)
    async with _daemon(sandbox, nodes, 4) as side:
        one = await _throughput(side.pool, 1, 4, rounds)
        async with _daemon(sandbox, None, 4) as alone:
            await _measure_tasks(side.pool, alone.pool, nodes, pairs)
        await nodes.add("node-2", 4)
        two = await _throughput(side.pool, 2, 8, rounds)
        click.echo(f"  two nodes of four ÷ one: {two / one:.2f}")
        await _measure_loss(side.pool, nodes)


async def _measure_one(sandbox: OfflineSandbox, nodes: RayNodes, rounds: int) -> None:
    """Measure eight nodes of one worker, and what each node costs the daemon."""
    async with _daemon(sandbox, nodes, 1) as side:
        await nodes.add("node-1", 1)
        await _wait_for_nodes(side.pool, 1)
        before = await side.measure_idle()
        for number in range(1, 8):
            await nodes.add(f"node-{number + 1}", 1)
        await _wait_for_nodes(side.pool, 8)
        after = await side.measure_idle()
        click.echo(
            f"a node costs the daemon {1000 * (after.cpu - before.cpu) / 7:.1f} ms of a core a "
            f"second and {(after.memory - before.memory) / 7 / MIB:.1f} MiB"
        )
        cpu = side.cpu_seconds()
        await _throughput(side.pool, 8, 8, rounds)
        tasks = 8 * (rounds + 2 + WARM_UPS)
        click.echo(
            f"  a task costs it {1000 * (side.cpu_seconds() - cpu) / tasks:.1f} ms of a core"
        )


@dataclass(frozen=True)
class _Idle:
    """What a daemon costs that does nothing: seconds of a core in a second, and bytes."""

    cpu: float
    memory: float


@dataclass(frozen=True)
class _Side:
    """A daemon, its pool and its process."""

    pool: RemotePool
    process: psutil.Process

    def _processes(self) -> list[psutil.Process]:
        """Return the daemon's process, and the one that uses Ray for it."""
        children = self.process.children()
        return [self.process, *(one for one in children if RAY_DRIVER in one.cmdline())]

    def cpu_seconds(self) -> float:
        """Return the seconds of a core that both have used."""
        used = [one.cpu_times() for one in self._processes()]
        return float(sum(times.user + times.system for times in used))

    async def measure_idle(self) -> _Idle:
        """Measure what they cost while they do nothing."""
        await asyncio.sleep(SETTLE_SECONDS)
        began, cpu = time.perf_counter(), self.cpu_seconds()
        await asyncio.sleep(IDLE_SECONDS)
        spent = (self.cpu_seconds() - cpu) / (time.perf_counter() - began)
        memory = sum(one.memory_full_info().pss for one in self._processes())
        return _Idle(spent, float(memory))


@asynccontextmanager
async def _daemon(
    sandbox: OfflineSandbox, nodes: RayNodes | None, workers: int
) -> AsyncIterator[_Side]:
    """Start a daemon, with a cluster or without, and yield it; at the end stop it."""
    # Not in the sandbox: the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ap-") as folder:
        environ = {
            **python_environ(sandbox),
            "CLAUDE_PROJECT_DIR": str(sandbox.settings.project_dir),
            "AGENT_POOL_DAEMON": "on",
            "AGENT_POOL_SPARES": "0",
            # Of the whole cluster.
            "AGENT_POOL_MAX_SIZE": str(MOST_WORKERS),
            "AGENT_POOL_MAX_WORKERS": str(MOST_WORKERS if nodes else workers),
            RUNTIME_DIR: f"{folder}/run",
            STATE_DIR: f"{folder}/state",
        }
        if nodes is not None:
            environ |= {"AGENT_POOL_RAY": nodes.address, "AGENT_POOL_RAY_WORKERS": str(workers)}
        try:
            async with connect(environ=environ) as pool:
                await pool.stats()  # starts it
                address = find_daemon(environ)
                assert address is not None
                yield _Side(pool, psutil.Process(address.pid))
        finally:
            await _stop_daemon(environ)


async def _stop_daemon(environ: Mapping[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent_pool", "daemon", "stop", "--now"),
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await process.wait()


async def _throughput(pool: RemotePool, nodes: int, workers: int, rounds: int) -> float:
    """Return how many tasks of one second a pool does in a second, while all workers are busy."""
    await _wait_for_nodes(pool, nodes)
    for _ in range(WARM_UPS):
        await _run(pool, workers, 0.0)
    # Without the first and the last round, in which workers wait for each other.
    ends = await _run(pool, workers * (rounds + 2), MODEL_SECONDS / workers)
    speed = workers * rounds / (ends[workers * (rounds + 1) - 1] - ends[workers - 1])
    click.echo(f"{nodes} nodes, {workers} workers: {speed:.2f} tasks of one second a second")
    return speed


async def _wait_for_nodes(pool: RemotePool, wanted: int) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            found = (await pool.stats()).nodes
            if sum(node.state == "ready" for node in found) == wanted:
                return
            await asyncio.sleep(0.2)


async def _run(pool: RemotePool, number: int, pause: float) -> list[float]:
    """Run tasks of one second, each given `pause` seconds after the one before.

    Returns:
        The times at which they ended, in order.

    Raises:
        TaskFailed: an answer is wrong.
    """

    async def run(index: int) -> float:
        task = sum_task(index)
        await asyncio.sleep(index * pause)
        handle = await pool.submit(TaskRequest(AGENT, f"{task.text} {SLOW}"))
        result = await handle.result()
        if task.answer not in result.text:
            raise TaskFailed(f"expected {task.answer!r}, found {result.text!r}")
        return time.perf_counter()

    return sorted(await asyncio.gather(*map(run, range(number))))


async def _measure_tasks(
    through_ray: RemotePool, alone: RemotePool, nodes: RayNodes, pairs: int
) -> None:
    """Run tasks whose model answers at once, through Ray and without it, in turns."""
    ratios, ray_seconds, own_seconds = [], [], []
    for number in range(WARM_UP_PAIRS + pairs):
        text = sum_task(number).text
        ray_time = await _timed(through_ray.invoke(AGENT, text))
        own_time = await _timed(alone.invoke(AGENT, text))
        if number >= WARM_UP_PAIRS:
            ray_seconds.append(ray_time)
            own_seconds.append(own_time)
            ratios.append(ray_time / own_time)
    click.echo(
        f"a task whose model answers at once: {1000 * statistics.median(ray_seconds):.1f} ms "
        f"through Ray, {1000 * statistics.median(own_seconds):.1f} ms of the daemon alone\n"
        f"  ratio, median of {pairs} pairs: {statistics.median(ratios):.2f}"
    )
    floor = await asyncio.to_thread(_call_seconds, nodes.address)
    click.echo(f"  one call of an empty method of a Ray actor: {1000 * floor:.1f} ms")


def _call_seconds(address: str) -> float:
    """Return the median seconds of an empty call of an actor, in a loop of its caller."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="error")
    try:

        @ray.remote(num_cpus=0)
        class Echo:
            async def echo(self, value: bytes) -> bytes:
                return value

        kind: Any = Echo
        actor = kind.remote()
        times = []
        for _ in range(CALLS):
            began = time.perf_counter()
            ray.get(actor.echo.remote(b"x" * 1000))
            times.append(time.perf_counter() - began)
        return statistics.median(times)
    finally:
        ray.shutdown()


async def _timed(work: Any) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def _measure_loss(pool: RemotePool, nodes: RayNodes) -> None:
    """Kill the node that runs a task, and wait until the task has ended."""
    handle = await pool.submit(TaskRequest(AGENT, f"{sum_task(1).text} {STUCK}"))
    killed, failure = 0.0, ""
    async with asyncio.timeout(LOSS_SECONDS):
        async for event in pool.task_events(handle.id):
            if isinstance(event, Started):
                nodes.kill(event.node)
                killed = time.perf_counter()
            elif isinstance(event, Ended):
                failure = event.failure
    noticed = time.perf_counter() - killed
    click.echo(f"a killed node: its task had ended {noticed:.1f} s later ({failure})")
