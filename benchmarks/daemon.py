"""Measures what sessions cost that share the daemon, beside sessions with a server each.

    python -m benchmarks daemon [--sessions 3] [--starts 20] [--pairs 100]

Both sides run in this one run, and what is timed takes turns. A session is an `agent-pool serve`
that gets the messages of an MCP client. Memory is proportional (PSS), so that pages which processes
share are counted once.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click
import psutil

from agent_pool import AgentPool, find_cli
from agent_pool.cli.command import Command, load_command_settings, run_async
from agent_pool.cli.offline import OfflineSandbox, offline_sandbox
from agent_pool.errors import TaskFailed
from agent_pool.runtime import RUNTIME_DIR, STATE_DIR
from benchmarks.method_process import python_environ
from benchmarks.startup import STEPS, end_server, send_messages
from benchmarks.workload import AGENT, project_files, scripted_model, sum_task

SECOND_AGENT: Final = "second"
MARK: Final = "BENCHMARK_MARK"
"""A variable by which every process of one side is found, whoever started it."""
WATCHDOG: Final = "watchdog_script.py"
SETTLE_SECONDS: Final = 3.0
"""Time for resets and the start of spares after the last answer."""
ANSWER_SECONDS: Final = 60.0
WARM_UP_PAIRS: Final = 5
MIB: Final = 1 << 20
SIDES: Final[Mapping[str, str]] = {"daemon": "on", "a server each": "off"}
"""The value of `AGENT_POOL_DAEMON` on each side."""


@click.command(cls=Command)
@click.option("--sessions", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--starts", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--pairs", type=click.IntRange(min=1), default=100, show_default=True)
@click.pass_context
def daemon(ctx: click.Context, sessions: int, starts: int, pairs: int) -> None:
    """Measure sessions that share the daemon beside sessions with a server each.

    \b
    Figures:
      processes and memory of everything after each session gave two agents a task at once
      memory of a session's own server, and its time from spawn to its list of tools
      a task through the server and the daemon divided by one of a pool in this process

    It is offline and costs nothing. On a busy machine, trust only the ratios.
    """
    cli = find_cli(load_command_settings(ctx, None))
    run_async(_measure(cli, sessions, starts, pairs))


async def _measure(cli: Path, sessions: int, starts: int, pairs: int) -> None:
    second = project_files()[f".claude/agents/{AGENT}.md"].replace(AGENT, SECOND_AGENT, 1)
    files = {**project_files(), f".claude/agents/{SECOND_AGENT}.md": second}
    async with offline_sandbox(cli, files, scripted_model) as sandbox, AsyncExitStack() as stack:
        sides = {name: await stack.enter_async_context(_side(sandbox, name)) for name in SIDES}
        await _measure_sessions(sides, sessions)
        await _measure_starts(sides, starts)
        await _measure_tasks(sandbox, sides["daemon"], pairs)


@asynccontextmanager
async def _side(sandbox: OfflineSandbox, name: str) -> AsyncIterator[dict[str, str]]:
    """Make the environment of one side; at the end stop its daemon and kill what is left."""
    # Not in the sandbox: the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ap-") as folder:
        environ = {
            **python_environ(sandbox),
            "CLAUDE_PROJECT_DIR": str(sandbox.settings.project_dir),
            "AGENT_POOL_DAEMON": SIDES[name],
            RUNTIME_DIR: f"{folder}/run",
            STATE_DIR: f"{folder}/state",
            MARK: uuid.uuid4().hex,
        }
        try:
            yield environ
        finally:
            await _stop_daemon(environ)
            for process in _processes(environ):
                with suppress(psutil.Error):
                    process.kill()


async def _stop_daemon(environ: Mapping[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent_pool", "daemon", "stop", "--now"),
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await process.wait()


def _processes(environ: Mapping[str, str]) -> list[psutil.Process]:
    """Return the living processes of one side, with those of the watchdogs."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == environ[MARK]:
                found[process.pid] = process
                found.update(_watchdogs(process))
    return list(found.values())


def _watchdogs(process: psutil.Process) -> dict[int, psutil.Process]:
    """Return the watchdog processes above a process, which have almost no environment."""
    found: dict[int, psutil.Process] = {}
    parent = process.parent()
    while parent is not None and any(WATCHDOG in part for part in parent.cmdline()):
        found[parent.pid] = parent
        parent = parent.parent()
    return found


def _count_workers(processes: list[psutil.Process]) -> int:
    """Return how many processes are Claude Code's."""
    count = 0
    for process in processes:
        with suppress(psutil.Error):
            count += "--input-format=stream-json" in process.cmdline()
    return count


def _proportional_memory(processes: list[psutil.Process]) -> int:
    """Return the bytes that processes hold, pages that are shared by n counted as 1/n."""
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


class Session:
    """The server of one session, and its client's side of the protocol."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._ids = 2  # those of `STEPS` come before

    async def invoke(self, *tasks: tuple[str, int]) -> None:
        """Give agents tasks at once, and wait for all of the answers.

        Args:
            tasks: the agent, and the number of the task.

        Raises:
            TaskFailed: an answer is wrong.
        """
        wanted: dict[int, str] = {}
        for agent, number in tasks:
            self._ids += 1
            wanted[self._ids] = sum_task(number).answer
            arguments = {"agent": agent, "task": sum_task(number).text}
            call = {"name": "invoke", "arguments": arguments}
            self._send({"id": self._ids, "method": "tools/call", "params": call})
        while wanted:
            message = await self._receive()
            answer = wanted.pop(message.get("id", 0), None)
            if answer is not None and answer not in json.dumps(message["result"]):
                raise TaskFailed(f"expected {answer!r}, found {message!r:.500}")

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        line = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(line + b"\n")

    async def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), ANSWER_SECONDS)
        if not line:
            raise TaskFailed("the server of a session has ended")
        message: dict[str, Any] = json.loads(line)
        return message


@asynccontextmanager
async def _session(environ: Mapping[str, str]) -> AsyncIterator[tuple[Session, float]]:
    """Start a session's server; yield it with the seconds from spawn to its list of tools."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent_pool", "serve"),
        env=environ,
        cwd=environ["CLAUDE_PROJECT_DIR"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=16 * MIB,
    )
    try:
        for messages in STEPS.values():
            if not await send_messages(process, messages):
                raise TaskFailed("the server of a session has ended")
        yield Session(process), time.perf_counter() - started
    finally:
        await end_server(process)


async def _measure_sessions(sides: Mapping[str, Mapping[str, str]], sessions: int) -> None:
    """Let each session give two agents a task at once; then count what lives."""
    memory = {}
    for name, environ in sides.items():
        async with AsyncExitStack() as stack:
            for number in range(sessions):
                session, _ = await stack.enter_async_context(_session(environ))
                await session.invoke((AGENT, number), (SECOND_AGENT, 100 + number))
            await asyncio.sleep(SETTLE_SECONDS)
            found = _processes(environ)
            memory[name] = _proportional_memory(found)
            shown = memory[name] / MIB
            workers = _count_workers(found)
            click.echo(
                f"{sessions} sessions, {name}: {len(found)} processes, {workers} of them of "
                f"Claude Code, {shown:,.0f} MiB"
            )
    click.echo(f"  daemon ÷ a server each: {_ratio(memory):.2f}")


def _ratio(figures: Mapping[str, float]) -> float:
    return figures["daemon"] / figures["a server each"]


async def _measure_starts(sides: Mapping[str, Mapping[str, str]], starts: int) -> None:
    """Start sessions of both sides in turns; report their time and the memory of their server."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, list[float]] = {name: [] for name in sides}
    # The daemon has been started by the sessions before.
    for _ in range(starts):
        for name, environ in sides.items():
            async with _session(environ) as (session, taken):
                seconds[name].append(taken)
                own = [psutil.Process(session.process.pid)]
                memory[name].append(_proportional_memory(own))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    sizes = {name: statistics.median(found) for name, found in memory.items()}
    for name in sides:
        click.echo(
            f"a session's server, {name}: {sizes[name] / MIB:.1f} MiB, "
            f"spawn to its list of tools {1000 * medians[name]:.0f} ms"
        )
    click.echo(f"  daemon ÷ a server each: {_ratio(sizes):.2f} memory, {_ratio(medians):.2f} time")


async def _measure_tasks(sandbox: OfflineSandbox, environ: Mapping[str, str], pairs: int) -> None:
    """Run tasks through a session and the daemon, and on a pool of this process, in turns."""
    ratios, through, direct = [], [], []
    pool = AgentPool(sandbox.settings, environ=sandbox.environ)
    async with pool, _session(environ) as (session, _):
        for number in range(WARM_UP_PAIRS + pairs):
            daemon_seconds = await _timed(session.invoke((AGENT, number)))
            own_seconds = await _timed(pool.invoke(AGENT, sum_task(number).text))
            if number >= WARM_UP_PAIRS:
                through.append(daemon_seconds)
                direct.append(own_seconds)
                ratios.append(daemon_seconds / own_seconds)
    click.echo(
        f"a task: {1000 * statistics.median(through):.1f} ms through session and daemon, "
        f"{1000 * statistics.median(direct):.1f} ms on a pool of one process\n"
        f"  ratio, median of {pairs} pairs: {statistics.median(ratios):.2f}"
    )


async def _timed(work: Any) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began
