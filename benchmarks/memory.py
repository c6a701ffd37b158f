"""How much memory one worker takes over many tasks, and the pool's own process with it.

    python benchmarks/memory.py [--tasks 500] [--set max_rss=none ...]

One real Claude Code process does all tasks, with `/clear` between them. In each task the model,
which is offline and in a process of its own, calls the shell three times, with some 340 KB of
output each time. Nothing leaves the machine and nothing is billed. The limits that would replace
the worker are off unless `--set` switches them on.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from agent_pool import AgentPool, load_settings
from agent_pool.loopback import LoopbackAPI, Reply, Request, ToolUse

CALLS = 3
COMMAND = "seq 1 60000"
UNLIMITED = {"max_tasks": "none", "max_lifetime": "none", "max_idle": "none", "max_rss": "none"}
MIB = 1 << 20


def model(request: Request) -> object:
    """The shell, as often as is due, and then the end."""
    calls = sum("tool_use" in str(message["content"]) for message in request.messages)
    return "done" if calls >= 2 * CALLS else Reply([ToolUse("Bash", {"command": COMMAND})])


async def serve() -> None:
    """Be the model until stdin ends."""
    async with LoopbackAPI(model, keep_requests=1) as api:
        print(api.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """The URL of a model in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield (await process.stdout.readline()).decode().strip()
    process.stdin.close()
    await process.wait()


def environment(home: Path, url: str) -> dict[str, str]:
    """Variables with which the CLI talks to `url` alone, in a home of its own."""
    passed = {name: os.environ[name] for name in ("PATH", "CLAUDE_CLI") if name in os.environ}
    return {
        **passed,
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "offline",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "IS_SANDBOX": "1",
    }


async def measure(tasks: int, overrides: dict[str, Any]) -> None:
    """Run the tasks and print a line now and then."""
    print("task   worker   rss of its tree   rss of the pool's process")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        agents = home / ".claude" / "agents"
        agents.mkdir(parents=True)
        (agents / "tester.md").write_text("---\nname: tester\ntools: Bash\n---\nYou test.\n")
        async with served() as url:
            environ = environment(home, url)
            settings = load_settings(
                {}, project_dir=home, claude_cli=environ.get("CLAUDE_CLI"), max_size=1, spares=0
            ).with_overrides({**UNLIMITED, **overrides})
            async with AgentPool(settings, environ=environ) as pool:
                for number in range(1, tasks + 1):
                    result = await pool.invoke("tester", f"task {number}")
                    result.raise_for_error()
                    if number in (1, 10, 50) or number % 100 == 0 or number == tasks:
                        await report(number, pool)


async def report(number: int, pool: AgentPool) -> None:
    """One line."""
    gc.collect()
    own = psutil.Process().memory_info().rss
    for worker in await pool.list():
        print(
            f"{number:4}   {worker.worker:8} {worker.rss / MIB:10.0f} MiB {own / MIB:18.1f} MiB",
            flush=True,
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    overrides = dict(pair.split("=", 1) for pair in given.set)
    asyncio.run(serve() if given.serve else measure(given.tasks, overrides))


if __name__ == "__main__":
    main()
