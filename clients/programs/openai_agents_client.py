"""openai-agents: its server object with the default time limit, then with a longer one."""

import asyncio
from pathlib import Path

from agents.mcp import MCPServerStdio, MCPServerStreamableHttp
from common import report, run_checks, settings, task, texts


class Connected:
    def __init__(self, server):
        self.server = server

    async def names(self):
        return [tool.name for tool in await self.server.list_tools()]

    async def call(self, tool, arguments):
        return texts((await self.server.call_tool(tool, arguments)).content)

    async def call_with_progress(self, tool, arguments, lines):
        raise NotImplementedError("no callback, and no progress token is sent")


def server_of(given, **options):
    kind = MCPServerStreamableHttp if "url" in given else MCPServerStdio
    return kind(given, **options)


async def main():
    given = settings()
    async with server_of(given["server"]) as server:
        await run_checks(Connected(server), Path(given["folder"]))
    async with server_of(given["server"], client_session_timeout_seconds=600) as server:
        text = await Connected(server).call("invoke", task("slow"))
    report("setting", text == "slow but done", "client_session_timeout_seconds=600: " + text)


asyncio.run(main())
