"""langchain-mcp-adapters: first the tools of `get_tools()`, then those of one session."""

import asyncio
from pathlib import Path

from common import report, run_checks, settings, task, texts
from langchain_mcp_adapters.callbacks import Callbacks
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools


class Connected:
    def __init__(self, get_tools, lines):
        self.get_tools = get_tools
        self.lines = lines
        self.tools = {}

    async def names(self):
        self.tools = {tool.name: tool for tool in await self.get_tools()}
        return list(self.tools)

    async def call(self, tool, arguments):
        return texts(await self.tools[tool].ainvoke(arguments))

    async def call_with_progress(self, tool, arguments, lines):
        self.lines.clear()
        answer = await self.call(tool, arguments)
        lines.extend(self.lines)
        return answer


def connection(server):
    if "url" in server:
        return {"transport": "streamable_http", **server}
    return {"transport": "stdio", **server}


async def main():
    given = settings()
    lines = []

    async def note(progress, total, message, context):
        lines.append(message)

    client = MultiServerMCPClient(
        {"agent-pool": connection(given["server"])}, callbacks=Callbacks(on_progress=note)
    )
    await run_checks(Connected(client.get_tools, lines), Path(given["folder"]))
    if "records" not in given:
        return
    records = Path(given["records"])
    before = len(list(records.iterdir()))
    tools = {tool.name: tool for tool in await client.get_tools()}
    for _ in range(2):
        await tools["invoke"].ainvoke(task("echo again"))
    between = len(list(records.iterdir()))
    async with client.session("agent-pool") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}
        for _ in range(2):
            await tools["invoke"].ainvoke(task("echo again"))
    after = len(list(records.iterdir()))
    detail = (
        f"get_tools() and two calls start {between - before} servers, a session {after - between}"
    )
    report("setting", after - between == 1, detail)


asyncio.run(main())
