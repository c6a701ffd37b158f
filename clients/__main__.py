"""`python -m clients [NAME ...]`: run real MCP clients against agent-pool.

Everything is on this machine: the models are offline, and no client gets a key. Packages come from
PyPI and npm, with pinned versions, each client into an environment of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from clients.claude_code import ClaudeInteractive, ClaudePrint
from clients.coding_agents import CODING_AGENTS
from clients.environments import Environment
from clients.inspector import Inspector
from clients.libraries import LIBRARIES
from clients.outcomes import ClientRun, save
from clients.report import PAGE, page_with_table
from clients.site import open_site

CLIENTS: list[Any] = [ClaudeInteractive(), ClaudePrint(), *LIBRARIES, Inspector(), *CODING_AGENTS]


async def run_clients(
    names: list[str], transports: list[str], folder: Path, keep: bool
) -> list[ClientRun]:
    """Run the clients, one after another; print what each does."""
    runs = []
    for client in CLIENTS:
        if names and client.name not in names:
            continue
        environment = Environment(folder / client.name.replace(" ", "-"))
        await asyncio.to_thread(environment.install, client.packages)
        for transport in client.transports:
            if transport not in transports:
                continue
            async with open_site() as (site, proxy):
                run = await client.run(site, proxy.url, transport, environment)
            runs.append(run)
            show(run)
            if keep:
                save([run])
    return runs


def show(run: ClientRun) -> None:
    """Print the outcome of every check."""
    how = f"MCP {run.protocol}, progress token: {run.sends_token}, tasks: {run.uses_tasks}"
    sys.stdout.write(f"\n{run.client} {run.version}, {run.transport} ({how})\n")
    for check, outcome in run.checks.items():
        word = {True: "yes", False: "NO", None: "-"}[outcome.ok]
        sys.stdout.write(f"  {check:14} {word:4} {outcome.detail[:150]!r}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command; return 0, or 1 if a check of the three that all clients need fails."""
    parser = argparse.ArgumentParser(prog="python -m clients", description=__doc__)
    parser.add_argument("names", nargs="*", help="the clients, by default all")
    parser.add_argument("--transport", action="append", choices=["stdio", "http"])
    parser.add_argument("--environments", type=Path, help="keep the installed packages here")
    parser.add_argument("--save", action="store_true", help="write clients/results.json")
    parser.add_argument("--table", action="store_true", help="only write the table of docs/mcp.md")
    given = parser.parse_args()
    if given.table:
        PAGE.write_text(page_with_table(), encoding="utf-8")
        return 0
    transports = given.transport or ["stdio", "http"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.environments or Path(temporary)
        runs = asyncio.run(run_clients(given.names, transports, folder, given.save))
    needed = ("listed", "invoked", "invoked_many")
    return int(any(not (one := run.checks.get(c)) or not one.ok for run in runs for c in needed))


if __name__ == "__main__":
    sys.exit(main())
