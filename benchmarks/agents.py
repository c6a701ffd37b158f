"""Measures many agents and projects in one pool, beside ``claude -p --agent`` for each task.

    python -m benchmarks agents [--agents 10] [--rounds 5]

The pool and `claude -p` take turns, task by task, so that the noise of the machine affects both
alike. Each pool runs in this process.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import psutil

from agent_pool import AgentPool, TaskFailed, find_cli
from agent_pool.cli.command import Command, load_command_settings, run_async
from agent_pool.cli.offline import OfflineSandbox, offline_sandbox
from agent_pool.loopback import ModelRequest

TOOLS: Final = ("Read", "Bash", "Read, Write", "Bash, Read", "Edit, Read", "Agent, Read", "[]")
MODELS: Final = ("opus", "haiku", "sonnet")
PAUSE_SECONDS: Final = 2.0
"""The time that a pool is open, or an agent's processes are idle, before a first task."""
CLAUDE_TIMEOUT_SECONDS: Final = 60.0
ANSWER: Final = "done"
TASK: Final = "What is the state of the file?"
MIB: Final = 1 << 20


@dataclass(slots=True)
class Comparison:
    """The seconds of pooled tasks and of `claude -p` for the same agents.

    Attributes:
        title: what was measured.
        pool, claude: seconds of each task.
    """

    title: str
    pool: list[float] = field(default_factory=list)
    claude: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        pool, claude = statistics.median(self.pool), statistics.median(self.claude)
        cells = f"{pool * 1000:7.0f} ms {claude * 1000:12.0f} ms {pool / claude:8.2f}"
        return f"{self.title:46}{cells}   of {len(self.pool)}"


@click.command(cls=Command)
@click.option("--agents", "count", type=click.IntRange(2), default=10, help="Agents. Default: 10.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Rounds. Default: 5.")
@click.pass_context
def agents(ctx: click.Context, count: int, rounds: int) -> None:
    """Measure agents that take turns, and first tasks of agents and projects.

    Real Claude Code processes run with an offline model. The agents differ in tools and model. The
    second column is a new `claude -p --agent` for each task, in alternation with the pool's tasks.

    \b
    Example:
      python -m benchmarks agents
      python -m benchmarks agents --agents 4 --rounds 3
    """
    cli = find_cli(load_command_settings(ctx, None))
    run_async(measure(cli, count, rounds))


async def measure(cli: Path, count: int, rounds: int) -> None:
    """Run all measurements and print each when it is done."""
    click.echo(f"{'':46}{'pool':>10} {'claude -p':>15} {'ratio':>8}")
    for step in (_agents_in_turn, _first_tasks_of_agents, _first_tasks_of_projects):
        async with offline_sandbox(cli, project_files(count), _answer) as sandbox:
            click.echo(str(await step(sandbox, cli, count, rounds)))


def project_files(count: int) -> dict[str, str]:
    """Return the definitions of so many agents by path."""
    return {
        f".claude/agents/{_name(number)}.md": f"---\nname: {_name(number)}\ndescription: Tests.\n"
        f"tools: {TOOLS[number % len(TOOLS)]}\nmodel: {MODELS[number % len(MODELS)]}\n---\n"
        f"You are number {number}.\n"
        for number in range(count)
    }


def _name(number: int) -> str:
    return f"agent-{number}"


def _answer(request: ModelRequest) -> str:
    return ANSWER


async def _agents_in_turn(
    sandbox: OfflineSandbox, cli: Path, count: int, rounds: int
) -> Comparison:
    found = Comparison(f"{count} agents in turn, from the second round on")
    async with _pool(sandbox) as pool:
        for turn in range(rounds + 1):
            for number in range(count):
                pooled = await _seconds(_ask(pool, _name(number)))
                claude = await _seconds(_claude(sandbox, cli, _name(number)))
                if turn:
                    found.pool.append(pooled)
                    found.claude.append(claude)
        workers = await pool.workers()
        size = sum(worker.rss for worker in workers)
        started = (await pool.stats()).spawned
        click.echo(f"{len(workers)} workers, spares among them, {size / MIB:.0f} MiB; {started=}")
    return found


async def _first_tasks_of_agents(
    sandbox: OfflineSandbox, cli: Path, count: int, rounds: int
) -> Comparison:
    found = Comparison(f"first task of an agent, pool open for {PAUSE_SECONDS:g} s")
    async with _pool(sandbox) as pool:
        for number in range(1, count):
            await asyncio.sleep(PAUSE_SECONDS)
            found.pool.append(await _seconds(_ask(pool, _name(number))))
            found.claude.append(await _seconds(_claude(sandbox, cli, _name(number))))
    return found


async def _first_tasks_of_projects(
    sandbox: OfflineSandbox, cli: Path, count: int, rounds: int
) -> Comparison:
    found = Comparison("first task in a project, with a spare")
    definition = project_files(1)[f".claude/agents/{_name(0)}.md"]
    async with _pool(sandbox) as pool:
        for number in range(rounds):
            folder = sandbox.settings.project_dir.parent / f"project-{number}"
            (folder / ".claude" / "agents").mkdir(parents=True)
            (folder / ".claude" / "agents" / f"{_name(0)}.md").write_text(definition)
            await asyncio.sleep(PAUSE_SECONDS)
            found.pool.append(await _seconds(_ask(pool, _name(0), folder)))
            found.claude.append(await _seconds(_claude(sandbox, cli, _name(0), folder)))
    return found


@asynccontextmanager
async def _pool(sandbox: OfflineSandbox) -> AsyncIterator[AgentPool]:
    """Open a pool that knows its binary already, as every pool but the first one of a user does."""
    async with AgentPool(sandbox.settings, environ=sandbox.environ) as pool:
        await _ask(pool, _name(0))
        # The reset after the first task waits for the probe of the binary.
        while set((await pool.stats()).workers) - {"idle"}:  # noqa: ASYNC110 - not an event
            await asyncio.sleep(0.01)
        yield pool


async def _seconds(task: Coroutine[None, None, None]) -> float:
    began = time.perf_counter()
    await task
    return time.perf_counter() - began


async def _ask(pool: AgentPool, agent: str, folder: Path | None = None) -> None:
    result = await pool.invoke(agent, TASK, project=str(folder) if folder else None)
    if result.text != ANSWER:
        raise TaskFailed(f"{agent} answered {result.text!r}")


async def _claude(
    sandbox: OfflineSandbox, cli: Path, agent: str, folder: Path | None = None
) -> None:
    process = await asyncio.create_subprocess_exec(
        cli,
        *("-p", f"--agent={agent}", "--strict-mcp-config", "--no-session-persistence"),
        *("--dangerously-skip-permissions", TASK),
        env=dict(sandbox.environ),
        cwd=folder or sandbox.settings.project_dir,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), CLAUDE_TIMEOUT_SECONDS)
    finally:
        if process.returncode is None and psutil.pid_exists(process.pid):
            process.kill()
            await process.wait()
    if output.decode().strip() != ANSWER:
        raise TaskFailed(f"`claude -p --agent={agent}` answered {output[:200]!r}")
