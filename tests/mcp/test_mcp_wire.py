"""The server's way to its client."""

from __future__ import annotations

import subprocess
import sys

MESSAGE = "é" * 300_000 + "\n"
"""More than any pipe takes unread."""
WRITER = """
import asyncio, sys
from agent_pool.mcp.wire import Wire

async def main():
    wire = Wire()
    print("printed by somebody", flush=True)
    writing = asyncio.create_task(wire.write("é" * 300_000 + "\\n"))
    while not writing.done():
        await asyncio.sleep(0)
        print("the loop goes on", file=sys.stderr, flush=True)
        await asyncio.wait([writing], timeout=0.05)
    await wire.write("after it\\n")
    await wire.flush()

asyncio.run(main())
"""


def test_a_client_that_does_not_read_holds_nothing_up_and_gets_every_byte_later() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stderr.readline() == "printed by somebody\n"
        assert writer.stderr.readline() == "the loop goes on\n"
        said, _ = writer.communicate(timeout=60)
    assert said == MESSAGE + "after it\n"
    assert writer.returncode == 0
