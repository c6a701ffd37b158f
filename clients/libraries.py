"""Clients that are libraries: a program in their environment makes the checks."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clients.environments import Environment, Packages
from clients.outcomes import ClientRun
from clients.site import Site, mcp_headers

PROGRAMS: Final = Path(__file__).with_name("programs")
PROGRAM_TIMEOUT: Final = 240.0


@dataclass(frozen=True)
class Library:
    """A client library.

    Attributes:
        name: its name.
        version: as in `packages`.
        packages: its environment.
        program: the file that makes the checks.
    """

    name: str
    version: str
    packages: Packages
    program: str
    transports: tuple[str, ...] = ("stdio", "http")

    async def run(
        self, site: Site, url: str, transport: str, environment: Environment
    ) -> ClientRun:
        """Make all checks over one transport."""
        run = ClientRun(self.name, self.version, transport)
        site.new_record()
        given = {"server": server_of(site, url, transport), "folder": str(site.folder)}
        if transport == "stdio":
            given["records"] = str(site.records)
        for line in await self._output(site, environment, given):
            run.add(line["check"], line["ok"], line["detail"])
        if self.packages.pip and transport == "stdio":
            run.add("shares", *await shares_environment(environment, self.packages))
        run.read_wire(site.wire())
        run.servers = site.servers_started()
        return run

    async def _output(
        self, site: Site, environment: Environment, given: dict[str, Any]
    ) -> list[dict[str, Any]]:
        is_python = self.program.endswith(".py")
        program = environment.python if is_python else "node"
        output = await run_program(
            [program, str(PROGRAMS / self.program), json.dumps(given)],
            {"HOME": str(site.folder), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            environment.folder,
        )
        return [json.loads(line) for line in output.splitlines() if line.startswith('{"check"')]


async def shares_environment(environment: Environment, packages: Packages) -> tuple[bool, str]:
    """Return whether pip can install the packages beside the SDK that agent-pool needs."""
    wanted = [*packages.pip, "mcp>=2.3,<3"]
    process = await asyncio.create_subprocess_exec(
        *(environment.python, "-m", "pip", "install", "--dry-run", "--quiet", *wanted),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    errors = [line for line in output.decode().splitlines() if line.startswith("ERROR")]
    return process.returncode == 0, errors[0] if errors else ""


def server_of(site: Site, url: str, transport: str) -> dict[str, Any]:
    """Return how a client reaches the server."""
    if transport == "http":
        return {"url": url, "headers": mcp_headers(site)}
    program, *arguments = site.server_command
    return {"command": program, "args": arguments, "env": site.environ, "cwd": str(site.root)}


async def run_program(
    command: list[str], env: dict[str, str], cwd: Path, timeout: float = PROGRAM_TIMEOUT
) -> str:
    """Run a program of a client; return its output. Its errors go to this program's stderr."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=env,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        os.killpg(process.pid, 9)
        output = b""
        await process.wait()
    return output.decode(errors="replace")


LIBRARIES: Final = (
    Library("fastmcp", "4.2.3", Packages(pip=("fastmcp==4.2.3",)), "fastmcp_client.py"),
    Library(
        "langchain-mcp-adapters",
        "0.3.2",
        Packages(pip=("langchain-mcp-adapters==0.3.2", "langchain==1.5.2")),
        "langchain_client.py",
    ),
    Library(
        "pydantic-ai",
        "2.68.0",
        Packages(pip=("pydantic-ai-slim[mcp]==2.68.0",)),
        "pydantic_ai_client.py",
    ),
    Library(
        "openai-agents",
        "0.24.0",
        Packages(pip=("openai-agents==0.24.0",)),
        "openai_agents_client.py",
    ),
    Library(
        "TypeScript SDK",
        "2.4.0",
        Packages(npm=("@modelcontextprotocol/client@2.4.0",)),
        "typescript_client.mjs",
    ),
)
