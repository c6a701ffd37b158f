"""Measures what it costs a task that people look: ten open pages and two `top`s.

    python -m benchmarks dashboard [--tasks 30] [--blocks 5]

A daemon of its own runs the tasks. The lookers are one more process, ``python -m
benchmarks.dashboard LINK…``, which reads the streams as ten browsers and two terminals do, but
draws nothing: how long a browser draws is no cost of a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import click
import httpx2

from agent_pool import RemotePool, TaskAPI, connect, find_cli
from agent_pool.cli.command import Command, load_command_settings, run_async
from agent_pool.cli.offline import offline_sandbox
from agent_pool.cli.top_app import GAP_SECONDS
from agent_pool.cli.top_rows import look
from agent_pool.loopback import ModelReply
from benchmarks.memory import end_process
from benchmarks.method_process import python_environ

AGENT: Final = "tester"
FILES: Final = {f".claude/agents/{AGENT}.md": f"---\nname: {AGENT}\n---\nYou test.\n"}
PAGES: Final = 10
TOPS: Final = 2
SETTLE_SECONDS: Final = 2.0


@click.command("dashboard", cls=Command)
@click.option("--tasks", type=click.IntRange(min=1), default=30, help="In a block. Default: 30.")
@click.option("--blocks", type=click.IntRange(min=1), default=5, help="Of each kind. Default: 5.")
@click.pass_context
def dashboard(ctx: click.Context, tasks: int, blocks: int) -> None:
    """Measure a task while ten pages and two `top`s are open, divided by one without them."""
    run_async(_measure(ctx, tasks, blocks))


async def _measure(ctx: click.Context, tasks: int, blocks: int) -> None:
    cli = find_cli(load_command_settings(ctx, None))
    with tempfile.TemporaryDirectory(prefix="apb-", dir="/tmp") as short:
        async with offline_sandbox(cli, FILES, lambda _: ModelReply("done")) as sandbox:
            environ = {
                **python_environ(sandbox),
                "AGENT_POOL_DAEMON": "on",
                "AGENT_POOL_RUNTIME_DIR": f"{short}/run",
                "AGENT_POOL_STATE_DIR": f"{short}/state",
            }
            project = sandbox.settings.project_dir
            try:
                async with connect(project=project, environ=environ) as pool:
                    await _compare(pool, environ, tasks, blocks)
            finally:
                await _stop_daemon(environ)


async def _stop_daemon(environ: Mapping[str, str]) -> None:
    command = (sys.executable, "-m", "agent_pool", "daemon", "stop")
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=subprocess.DEVNULL)
    await process.wait()


async def _compare(pool: RemotePool, environ: Mapping[str, str], tasks: int, blocks: int) -> None:
    await _run_tasks(pool, tasks)  # the probe, the first resets
    alone, watched = [], []
    for _ in range(blocks):
        alone.append(await _run_tasks(pool, tasks))
        async with _lookers(pool, environ):
            watched.append(await _run_tasks(pool, tasks))
    ratio = statistics.median(one / two for one, two in zip(watched, alone, strict=True))
    click.echo(
        f"a task: {1000 * statistics.median(alone):.1f} ms, with {PAGES} pages and {TOPS} tops "
        f"open {1000 * statistics.median(watched):.1f} ms; median of the ratios of blocks "
        f"{ratio:.3f}"
    )


async def _run_tasks(pool: TaskAPI, tasks: int) -> float:
    """Run tasks one after the other; return the median of their seconds."""
    found = []
    for number in range(tasks):
        began = time.monotonic()
        (await pool.invoke(AGENT, f"task {number}")).raise_for_error()
        found.append(time.monotonic() - began)
    return statistics.median(found)


@asynccontextmanager
async def _lookers(pool: RemotePool, environ: Mapping[str, str]) -> AsyncIterator[None]:
    links = [await pool.dashboard_link(is_read_only=True) for _ in range(PAGES)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.dashboard", *links),
        env=environ,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await asyncio.sleep(SETTLE_SECONDS)
        yield
    finally:
        await end_process(process)


# In the lookers' own process


async def _look(links: list[str]) -> None:
    async with asyncio.TaskGroup() as group:
        for link in links:
            group.create_task(_read_page(link))
        for _ in range(TOPS):
            group.create_task(_read_top())


async def _read_page(link: str) -> None:
    origin = link.partition("/ui/")[0]
    async with httpx2.AsyncClient(base_url=origin, timeout=None) as client:
        await client.get(link)
        (await client.get("/ui/")).raise_for_status()
        async with client.stream("GET", "/ui/events") as response:
            response.raise_for_status()
            async for _ in response.aiter_bytes():
                pass


async def _read_top() -> None:
    async with connect(project=Path.cwd(), environ=os.environ) as pool:
        while True:
            await look(pool)
            await pool.workers()
            await asyncio.sleep(GAP_SECONDS)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_look(sys.argv[1:]))
