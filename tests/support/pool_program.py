"""A program with a pool in it, `programs/pool_host.py`, and its steps."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.environment import MARK
from support.pools import PLAIN
from support.project import TempProject

PROGRAM = Path(__file__).with_name("programs") / "pool_host.py"
SETTINGS = {**PLAIN, "close_timeout": 0.2, "stop_grace": 0.3, "kill_grace": 0.3}


class PoolProgram:
    """The running program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def do(self, *steps: str) -> None:
        """Let the program do these steps; wait until they are done."""
        for step in steps:
            self.begin(step)
            assert self.process.stdout is not None
            assert (await self.process.stdout.readline()).decode().strip() == step

    def begin(self, step: str) -> None:
        """Let the program do a step that it will not confirm."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{step}\n".encode())


@asynccontextmanager
async def pool_program(
    project: TempProject, environ: dict[str, str], **settings: Any
) -> AsyncIterator[PoolProgram]:
    """Start the program; kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        json.dumps(environ),
        json.dumps({**SETTINGS, **settings}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: project.mark, "TMPDIR": tempfile.gettempdir()},
    )
    try:
        yield PoolProgram(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
