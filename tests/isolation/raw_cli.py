"""The CLI without the pool: frames out, frames in, for facts about the CLI alone."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support import cli_environment, real_cli

Frame = dict[str, Any]

FLAGS = [
    *("-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose"),
    *("--dangerously-skip-permissions", "--strict-mcp-config", "--no-session-persistence"),
]
BOUND = 30.0
"""Seconds for any one answer."""


class RawCLI:
    """One process.

    Attributes:
        frames: all that it has said.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.frames: list[Frame] = []
        self._process = process

    async def initialize(self, **fields: Any) -> Frame:
        """The answer to the first request."""
        return await self.control(subtype="initialize", **fields)

    async def control(self, **request: Any) -> Frame:
        """The answer to a control request."""
        name = str(uuid.uuid4())
        await self._send({"type": "control_request", "request_id": name, "request": request})
        told = await self.until(
            lambda f: f["type"] == "control_response" and f["response"]["request_id"] == name
        )
        return dict(told[-1]["response"])

    async def say(self, text: str) -> tuple[str, list[Frame]]:
        """The stamp of a prompt, and the frames up to the next result."""
        stamp = str(uuid.uuid4())
        message = {"role": "user", "content": text}
        await self._send({"type": "user", "uuid": stamp, "message": message})
        return stamp, await self.until(lambda frame: frame["type"] == "result")

    async def until(self, condition: Callable[[Frame], bool]) -> list[Frame]:
        """The frames up to one that fulfils the condition."""
        assert self._process.stdout is not None
        told: list[Frame] = []
        async with asyncio.timeout(BOUND):
            while not (told and condition(told[-1])):
                line = await self._process.stdout.readline()
                assert line, "the CLI ended"
                if line.startswith(b"{"):
                    told.append(json.loads(line))
        self.frames += told
        return told

    async def _send(self, frame: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(frame).encode() + b"\n")
        await self._process.stdin.drain()


@asynccontextmanager
async def raw_cli(
    folder: Path, url: str, *flags: str, cli: Path | None = None, **environ: str
) -> AsyncIterator[RawCLI]:
    """A process that works in a folder of its own and is killed in the end."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        cli or real_cli(),
        *FLAGS,
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
        yield RawCLI(process)
    finally:
        process.kill()
        await process.wait()


def of_type(frames: list[Frame], *path: str) -> list[Frame]:
    """The frames of this type and, if given, subtype."""
    return [f for f in frames if [f["type"], f.get("subtype")][: len(path)] == list(path)]
