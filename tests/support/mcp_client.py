"""MCP clients: the official one connected in memory, and messages for servers without a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp import Client
from mcp.server.lowlevel import Server
from mcp.shared.memory import create_client_server_memory_streams
from mcp_types import CallToolResult, Tool

from agent_pool.mcp.server import initialization_options

ERAS = ("legacy", "2026-07-28")
"""The protocols that the server speaks, as the official client names them."""


@asynccontextmanager
async def connected(server: Server[Any], era: str, **options: Any) -> AsyncIterator[Client]:
    """Connect a client that speaks the protocol of `era` to `server`, in memory."""
    async with Client(_pipe(server), mode=era, **options) as client:
        yield client


@asynccontextmanager
async def _pipe(server: Server[Any]) -> AsyncIterator[Any]:
    async with (
        create_client_server_memory_streams() as (client_side, server_side),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.run, *server_side, initialization_options(server))
        yield client_side
        await client_side[1].aclose()


def text_of(result: CallToolResult) -> str:
    """Return the text of a result, which must be its only content."""
    assert result.structured_content is None
    (block,) = result.content
    assert block.type == "text"
    return block.text


async def find_tool(client: Client, name: str) -> Tool:
    """Return the tool of this name from the list of the server."""
    listed = await client.list_tools()
    return next(tool for tool in listed.tools if tool.name == name)


async def ignore_progress(number: int, line: str) -> None:
    """Ignore a line of progress."""


@asynccontextmanager
async def listening(client: Client, era: str) -> AsyncIterator[None]:
    """Receive notifications of changed tools; clients of the older protocol get them anyway."""
    if era == "legacy":
        yield
    else:
        async with client.listen(tools_list_changed=True):
            yield


def legacy_call(name: str, **arguments: str) -> list[dict[str, Any]]:
    """Build the messages of a client of the older protocol up to its first call of a tool."""
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"},
    }
    return [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": name, "arguments": arguments}},
    ]


def modern_request(
    number: int, method: str, capabilities: dict[str, Any], **params: Any
) -> dict[str, Any]:
    """Build a request of the newest protocol, which needs no `initialize`."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    }
    return {"id": number, "method": method, "params": {**params, "_meta": meta}}
