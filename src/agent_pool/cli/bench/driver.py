"""One way at work, in a process of its own: ``python -m agent_pool.cli.bench.driver WAY AGENT``.

It reads requests from stdin and writes answers to stdout, a line of JSON each, until stdin ends.
So a way's memory is its own, it shares no event loop with the model, and it sees nothing of the
caller's environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from agent_pool.cli.bench.pooled import McpWay, PoolWay
from agent_pool.cli.bench.spawned import ProcessWay, QueryWay
from agent_pool.cli.bench.streamed import BareWay, SessionWay
from agent_pool.cli.bench.way import Way
from agent_pool.errors import AgentPoolError

WAYS: Final[Mapping[str, type[Way]]] = {
    "bare": BareWay,
    "pool": PoolWay,
    "mcp": McpWay,
    "claude-p": ProcessWay,
    "sdk": QueryWay,
    "agent-tool": SessionWay,
}


async def main(name: str, agent: str) -> None:
    """Serve until stdin ends; a failure is told in the last line."""
    task = asyncio.current_task()
    assert task is not None
    requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    reading = asyncio.create_task(_read(requests, task))
    way = WAYS[name](agent)
    try:
        async with way.opened:
            await _serve(way, requests)
    except asyncio.CancelledError:
        pass
    except (AgentPoolError, OSError, ImportError) as error:
        _write({"error": str(error)})
    finally:
        reading.cancel()


async def _read(requests: asyncio.Queue[dict[str, Any]], main: asyncio.Task[Any]) -> None:
    """Pass requests on; at the end of stdin the work under way is cancelled."""
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        requests.put_nowait(json.loads(line))
    main.cancel()


async def _serve(way: Way, requests: asyncio.Queue[dict[str, Any]]) -> None:
    began = time.perf_counter()
    await way.open()
    _write({"ready": time.perf_counter() - began})
    while True:
        request = await requests.get()
        await way.prepare(request["at_once"])
        answers, took = await way.many(request["tasks"], request["at_once"])
        await way.settle()
        _write({"took": took, "answers": [[answer.text, answer.seconds] for answer in answers]})


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
