"""A program with a pool in it, for tests that end it in different ways.

    python pool_host.py ENVIRONMENT SETTINGS

Both arguments are JSON. The program reads steps from stdin, a line each, and writes a step to
stdout when it is done: `warm` a worker, `begin` to warm one, give it a `task` that hangs, or
`fork` a child that lives on. The steps `abort`, `exit` and `raise` end it. With the variable
WITHOUT_LISTS it behaves as on a kernel that does not list the children of a process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from agent_pool import AgentPool
from agent_pool.claude import watchdog

running: list[asyncio.Task[object]] = []


async def step(pool: AgentPool, name: str) -> None:
    """Do the step that a line of stdin names."""
    match name:
        case "warm":
            await pool.warmup("tester")
        case "task":
            running.append(asyncio.create_task(pool.invoke("tester", "hang")))
        case "begin":
            running.append(asyncio.create_task(pool.warmup("tester")))
        case "fork":
            if os.fork() == 0:
                os.closerange(0, 3)
                time.sleep(60)  # noqa: ASYNC251 - in the child there is no loop
                os._exit(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "raise":
            raise ZeroDivisionError


async def main(environ: str, settings: str) -> None:
    """Do one step after another."""
    if "WITHOUT_LISTS" in os.environ:
        watchdog.has_children_lists = lambda: False  # type: ignore[attr-defined]
    steps = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(steps)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    async with AgentPool(environ=json.loads(environ), **json.loads(settings)) as pool:
        while line := (await steps.readline()).decode().strip():
            await step(pool, line)
            print(line, flush=True)  # noqa: T201 - the test waits for it


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
