"""The CLI in stream-json mode without a pool, for facts about the CLI alone."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent_pool.claude.cli_options import unknown_options
from support.cli_age import cli_under_test_version
from support.environment import cli_environment, named_cli, real_cli

Frame = dict[str, Any]

FLAGS = [
    *("-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose"),
    *("--dangerously-skip-permissions", "--strict-mcp-config", "--no-session-persistence"),
]
ANSWER_TIMEOUT = 30.0
"""Seconds for any one answer."""


class StreamJsonCLI:
    """One process of the CLI.

    Attributes:
        frames: all frames that it has written.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.frames: list[Frame] = []
        self._process = process

    async def initialize(self, **fields: Any) -> Frame:
        """Send the first request; return its answer."""
        return await self.control(subtype="initialize", **fields)

    async def control(self, **request: Any) -> Frame:
        """Send a control request; return its answer."""
        name = str(uuid.uuid4())
        await self._send({"type": "control_request", "request_id": name, "request": request})
        answer = await self.until(
            lambda f: f["type"] == "control_response" and f["response"]["request_id"] == name
        )
        return dict(answer[-1]["response"])

    async def prompt(self, text: str, **fields: Any) -> tuple[str, list[Frame]]:
        """Send a prompt with these fields; return its stamp, and the frames up to the result."""
        stamp = str(uuid.uuid4())
        message = {"role": "user", "content": text}
        await self._send({"type": "user", "uuid": stamp, "message": message, **fields})
        return stamp, await self.until(lambda frame: frame["type"] == "result")

    async def until(self, condition: Callable[[Frame], bool]) -> list[Frame]:
        """Read frames up to one that fulfils the condition; return them."""
        assert self._process.stdout is not None
        read: list[Frame] = []
        async with asyncio.timeout(ANSWER_TIMEOUT):
            while not (read and condition(read[-1])):
                line = await self._process.stdout.readline()
                assert line, "the CLI ended"
                if line.startswith(b"{"):
                    read.append(json.loads(line))
        self.frames += read
        return read

    async def _send(self, frame: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(frame).encode() + b"\n")
        await self._process.stdin.drain()


@asynccontextmanager
async def stream_json_cli(
    folder: Path, url: str, *flags: str, cli: Path | None = None, **environ: str
) -> AsyncIterator[StreamJsonCLI]:
    """Start the CLI in `folder`; kill it at the end."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    unknown = unknown_options(".".join(map(str, cli_under_test_version()))) if named_cli() else {}
    process = await asyncio.create_subprocess_exec(
        cli or real_cli(),
        *(flag for flag in FLAGS if cli or flag not in unknown),
        *flags,
        env=cli_environment(home, url, **environ),
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        limit=1 << 24,
    )
    try:
        yield StreamJsonCLI(process)
    finally:
        process.kill()
        await process.wait()


def of_type(frames: list[Frame], *path: str) -> list[Frame]:
    """Return the frames of this type and, if given, subtype."""
    return [f for f in frames if [f["type"], f.get("subtype")][: len(path)] == list(path)]
