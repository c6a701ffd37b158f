"""MCP Inspector in its CLI mode: one process for each request."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from clients.coding_agents import (
    MANY,
    TOOLS,
    Seen,
    Session,
    interrupt,
    judge_progress,
    plain_environment,
    run_to_end,
)
from clients.environments import NODE, Environment, Packages
from clients.libraries import server_of
from clients.outcomes import ClientRun
from clients.site import AGENT, LONG, Site


class Inspector:
    """Inspector; it needs Node 22."""

    name = "MCP Inspector"
    version = "2.12.0"
    packages = Packages(npm=(NODE, "@modelcontextprotocol/inspector@2.12.0"))
    transports = ("stdio", "http")

    async def run(
        self, site: Site, url: str, transport: str, environment: Environment
    ) -> ClientRun:
        """Make all checks over one transport."""
        run = ClientRun(self.name, self.version, transport)
        site.new_record()
        config = site.folder / "inspector.json"
        config.write_text(json.dumps(_config(server_of(site, url, transport))))
        calls = _Calls(environment, site, config)
        await self._check(run, calls, site)
        run.servers = site.servers_started()
        run.add("cancel", *await interrupt(calls.session("invoke", _task("hold me")), site.folder))
        run.read_wire(site.wire())
        return run

    async def _check(self, run: ClientRun, calls: _Calls, site: Site) -> None:
        listed = await run_to_end(calls.list_session())
        found = [name for name in TOOLS if f'"{name}"' in listed]
        run.add("listed", len(found) == len(TOOLS), f"{len(found)} of {len(TOOLS)} looked for")
        quince = await calls.text("invoke", _task("echo quince"))
        run.add("invoked", "echo: echo quince" in quince, quince)
        many = await calls.text("invoke_many", MANY)
        run.add("invoked_many", "echo: echo apple" in many and "echo: echo pear" in many, many)
        run.add("side_by_side", None, "a process for each call")
        screen = await run_to_end(calls.session("invoke", _task("steps")))
        run.add("progress", *judge_progress(site, Seen(screen=screen)))
        slow = await calls.text("invoke", _task("slow"))
        run.add("slow", "slow but done" in slow, slow)
        long = await calls.text("invoke", _task("long"))
        run.add("long", len(long) > LONG, f"{len(long)} characters")
        begun = await calls.text("invoke", {**_task("echo later"), "background": True})
        task_id = re.search('id="([^"]+)"', begun)
        wanted = {"id": task_id[1] if task_id else "", "wait_seconds": 20}
        later = await calls.text("result", wanted)
        run.add("background", "echo: echo later" in later, later)


class _Calls:
    def __init__(self, environment: Environment, site: Site, config: Path) -> None:
        self._environment = environment
        self._site = site
        self._config = config

    def _session(self, *arguments: str) -> Session:
        program = self._environment.command("mcp-inspector")
        server = ("--config", str(self._config), "--server", "agent-pool")
        env = plain_environment(self._environment, self._site.folder)
        return Session([program, "--cli", *server, *arguments], env, self._site.root)

    def list_session(self) -> Session:
        """Return the session that lists the tools."""
        return self._session("--method", "tools/list")

    def session(self, tool: str, arguments: dict[str, Any]) -> Session:
        """Return the session that calls a tool."""
        pairs = [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in arguments.items()
        ]
        return self._session("--method", "tools/call", "--tool-name", tool, "--tool-arg", *pairs)

    async def text(self, tool: str, arguments: dict[str, Any]) -> str:
        """Call a tool; return the text of its answer, or what was printed instead."""
        output = await run_to_end(self.session(tool, arguments))
        try:
            answer = json.loads(output[output.index("{") :])
            return "\n".join(block["text"] for block in answer["content"])
        except (ValueError, KeyError):
            return output[-500:]


def _task(text: str) -> dict[str, Any]:
    return {"agent": AGENT, "task": text}


def _config(server: dict[str, Any]) -> dict[str, Any]:
    kind = {"type": "streamable-http"} if "url" in server else {"type": "stdio"}
    return {"mcpServers": {"agent-pool": {**kind, **server}}}
