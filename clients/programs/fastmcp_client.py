"""fastmcp's client."""

import asyncio
from pathlib import Path

from common import run_checks, settings, texts
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport


class Connected:
    def __init__(self, client):
        self.client = client

    async def names(self):
        return [tool.name for tool in await self.client.list_tools()]

    async def call(self, tool, arguments):
        return texts((await self.client.call_tool(tool, arguments)).content)

    async def call_with_progress(self, tool, arguments, lines):
        async def note(progress, total, message):
            lines.append(message)

        answer = await self.client.call_tool(tool, arguments, progress_handler=note)
        return texts(answer.content)


async def main():
    given = settings()
    server = given["server"]
    if "url" in server:
        transport = StreamableHttpTransport(server["url"], headers=server["headers"])
    else:
        transport = StdioTransport(**server)
    async with Client(transport) as client:
        await run_checks(Connected(client), Path(given["folder"]))


asyncio.run(main())
