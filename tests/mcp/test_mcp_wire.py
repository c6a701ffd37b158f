"""The output of the server to its client."""

from __future__ import annotations

import subprocess
import sys

MESSAGE = "é" * 300_000 + "\n"
"""A text that is larger than any pipe."""
WRITER = """
import asyncio, sys
from agent_pool.mcp.wire import Wire

async def main():
    wire = Wire()
    print("printed text", flush=True)
    writing = asyncio.create_task(wire.write("é" * 300_000 + "\\n"))
    while not writing.done():
        await asyncio.sleep(0)
        print("the loop goes on", file=sys.stderr, flush=True)
        await asyncio.wait([writing], timeout=0.05)
    await wire.write("after it\\n")
    await wire.flush()

asyncio.run(main())
"""


def test_slow_client_does_not_block_the_loop_or_lose_bytes() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stderr.readline() == "printed text\n"
        assert writer.stderr.readline() == "the loop goes on\n"
        stdout, _ = writer.communicate(timeout=60)
    assert stdout == MESSAGE + "after it\n"
    assert writer.returncode == 0
