"""How long the MCP server takes to answer, beside what no server on its SDK can do without."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Final

import psutil

from agent_pool.cli.bench.figures import Start, spread
from agent_pool.cli.offline import World

SERVER: Final = "agent-pool serve, to its answer to initialize"
PROGRAMS: Final = {
    "python -c pass": ["-c", "pass"],
    'python -c "import mcp"': ["-c", "import mcp"],
    SERVER: ["-m", "agent_pool", "serve"],
}
BOUND: Final = 60.0
_INITIALIZE: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "agent-pool bench", "version": "1"},
    },
}


async def starts(world: World, rounds: int) -> dict[str, Start]:
    """Start each program so many times, in turns."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, arguments in PROGRAMS.items():
            found[name].append(await _start(world, arguments))
    return {
        name: Start(spread([took for took, _ in times]), max(memory for _, memory in times))
        for name, times in found.items()
    }


async def _start(world: World, arguments: Sequence[str]) -> tuple[float, int]:
    """Seconds until its first line, or until it ended without one; its memory then."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=dict(world.environ),
        cwd=world.settings.project_dir,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(_INITIALIZE).encode() + b"\n")
        line = await asyncio.wait_for(process.stdout.readline(), BOUND)
        took = time.perf_counter() - began
        return took, psutil.Process(process.pid).memory_info().rss if line else 0
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), BOUND)
        except TimeoutError:
            process.kill()
