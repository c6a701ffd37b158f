"""Measures the memory of one worker, and of the pool's own process, over many tasks.

    python -m benchmarks memory [--tasks 500] [--set max_rss=none ...]

The pool runs in a process of its own, ``python -m benchmarks.memory TASKS SETTING=VALUE…``, so
that its size is not that of the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import psutil

from agent_pool import AgentPool, Settings, TaskFailed, find_cli, load_settings
from agent_pool.cli.command import Command, Terminated, load_command_settings, run_async
from agent_pool.cli.offline import offline_sandbox
from agent_pool.loopback import ModelReply, ModelRequest, ToolUseBlock
from benchmarks.method_process import END_TIMEOUT_SECONDS, python_environ

AGENT: Final = "tester"
FILES: Final = {f".claude/agents/{AGENT}.md": f"---\nname: {AGENT}\ntools: Bash\n---\nYou test.\n"}
CALLS: Final = 3
COMMAND: Final = "seq 1 60000"
SETTINGS: Final = {
    **dict.fromkeys(("max_tasks", "max_lifetime", "max_idle", "max_rss"), "none"),
    "max_size": "1",
    "spares": "0",
}
"""One worker that is never replaced."""
MIB: Final = 1 << 20


def _parse_overrides(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r}: expected SETTING=VALUE")
    return values


@click.command(cls=Command)
@click.option("--tasks", type=click.IntRange(min=1), default=500, help="Tasks. Default: 500.")
@click.option(
    "--set",
    "overrides",
    callback=_parse_overrides,
    multiple=True,
    metavar="SETTING=VALUE",
    help="A setting of the pool, for example max_rss=300MiB. Can be given several times.",
)
@click.pass_context
def memory(ctx: click.Context, tasks: int, overrides: tuple[str, ...]) -> None:
    """Measure the memory of one worker over many tasks.

    One real Claude Code process runs all tasks and is cleared with /clear after each. In each
    task the scripted model calls the shell three times, with about 340 KB of output each time.
    The limits that would replace the worker are off; --set switches them on.

    \b
    Example:
      python -m benchmarks memory
      python -m benchmarks memory --tasks 100 --set max_rss=300MiB
    """
    settings = load_command_settings(ctx, None)
    _with_overrides(settings, overrides)  # so that a wrong setting is one message of this program
    run_async(_run_pool(find_cli(settings), tasks, overrides))


def _with_overrides(settings: Settings, overrides: Sequence[str]) -> Settings:
    given = dict(pair.split("=", 1) for pair in overrides)
    return settings.with_overrides({**SETTINGS, **given})


async def _run_pool(cli: Path, tasks: int, overrides: Sequence[str]) -> None:
    """Run the pool in its own process until all tasks have ended.

    Raises:
        TaskFailed: the process ended with an error, which it has printed.
    """
    async with offline_sandbox(cli, FILES, scripted_model) as sandbox:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.memory", str(tasks), *overrides),
            env=python_environ(sandbox),
            cwd=sandbox.settings.project_dir,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this program alone, which then ends the pool
        )
        try:
            if code := await process.wait():
                raise TaskFailed(f"the pool's process ended with {code}")
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the pool's process if it still runs; it then ends its own processes."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_TIMEOUT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def scripted_model(request: ModelRequest) -> str | ModelReply:
    """Return calls of the shell until there were CALLS of them, then the answer."""
    calls = sum("tool_use" in str(message["content"]) for message in request.messages)
    # Each call is there twice: as the model's message, and in the message with its output.
    return (
        "done" if calls >= 2 * CALLS else ModelReply([ToolUseBlock("Bash", {"command": COMMAND})])
    )


# In the pool's own process


async def run_tasks(tasks: int, overrides: Sequence[str]) -> None:
    """Run the tasks, and print the memory after the first ones and then after every hundredth."""
    settings = _with_overrides(load_settings(), overrides)
    click.echo("task   worker   memory of its tree   memory of the pool's process")
    async with AgentPool(settings) as pool:
        for number in range(1, tasks + 1):
            result = await pool.invoke(AGENT, f"task {number}")
            result.raise_for_error()
            if number in (1, 10, 50) or number % 100 == 0 or number == tasks:
                await _report(number, pool)


async def _report(number: int, pool: AgentPool) -> None:
    gc.collect()  # so that garbage does not look like growth
    own = psutil.Process().memory_info().rss
    for worker in await pool.workers():
        click.echo(
            f"{number:4}   {worker.worker:8} {worker.rss / MIB:13.0f} MiB {own / MIB:22.1f} MiB"
        )


if __name__ == "__main__":
    with contextlib.suppress(Terminated):
        run_async(run_tasks(int(sys.argv[1]), sys.argv[2:]))
