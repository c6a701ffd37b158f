"""Runs one method in a process of its own: ``python -m benchmarks.method_server METHOD AGENT``.

It reads requests from stdin and writes answers to stdout, one line of JSON each, until stdin ends.
The process is separate so that its memory is the method's alone, that it shares no event loop
with the model, and that it does not see the user's environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from agent_pool.errors import AgentPoolError
from benchmarks.methods.base import Method
from benchmarks.methods.one_shot import ClaudePrint, SdkQuery
from benchmarks.methods.pool import PoolLibrary, PoolServer
from benchmarks.methods.streamed import BareTurn, NativeAgentTool

METHODS: Final[Mapping[str, type[Method]]] = {
    "bare": BareTurn,
    "pool": PoolLibrary,
    "mcp": PoolServer,
    "claude-p": ClaudePrint,
    "sdk": SdkQuery,
    "agent-tool": NativeAgentTool,
}
_REQUEST_LIMIT_BYTES: Final = 1 << 24


async def main(name: str, agent: str) -> None:
    """Serve requests until stdin ends; report a failure in the last line."""
    task = asyncio.current_task()
    assert task is not None
    requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    reading = asyncio.create_task(_read(requests, task))
    method = METHODS[name](agent)
    try:
        async with method.resources:
            await _serve(method, requests)
    except asyncio.CancelledError:
        pass  # stdin has ended, which is the normal end
    except (AgentPoolError, OSError, ImportError) as error:
        _write({"error": str(error)})
    finally:
        reading.cancel()


async def _read(requests: asyncio.Queue[dict[str, Any]], main: asyncio.Task[Any]) -> None:
    """Put requests into the queue; cancel the main task when stdin ends."""
    reader = asyncio.StreamReader(limit=_REQUEST_LIMIT_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        requests.put_nowait(json.loads(line))
    main.cancel()


async def _serve(method: Method, requests: asyncio.Queue[dict[str, Any]]) -> None:
    started = time.perf_counter()
    await method.open()
    _write({"ready": time.perf_counter() - started})
    while True:
        request = await requests.get()
        await method.prepare(request["at_once"])
        answers, seconds = await method.run_tasks(request["tasks"], request["at_once"])
        # Clean up before the answer, so that the next task of any method meets an idle machine.
        await method.settle()
        texts = [[answer.text, answer.seconds] for answer in answers]
        _write({"seconds": seconds, "answers": texts})


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
