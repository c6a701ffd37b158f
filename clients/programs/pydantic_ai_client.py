"""pydantic-ai: its toolset, called directly."""

import asyncio
from pathlib import Path

from common import run_checks, settings, texts
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from pydantic_ai.mcp import MCPToolset


class Connected:
    def __init__(self, toolset, lines):
        self.toolset = toolset
        self.lines = lines

    async def names(self):
        return [tool.name for tool in await self.toolset.list_tools()]

    async def call(self, tool, arguments):
        return texts(await self.toolset.direct_call_tool(tool, arguments))

    async def call_with_progress(self, tool, arguments, lines):
        self.lines.clear()
        answer = await self.call(tool, arguments)
        lines.extend(self.lines)
        return answer


async def main():
    given = settings()
    server = given["server"]
    lines = []

    async def note(progress, total, message):
        lines.append(message)

    if "url" in server:
        transport = StreamableHttpTransport(server["url"], headers=server["headers"])
    else:
        transport = StdioTransport(**server)
    async with MCPToolset(transport, progress_handler=note) as toolset:
        await run_checks(Connected(toolset, lines), Path(given["folder"]))


asyncio.run(main())
