#!/usr/bin/env bash
# mcp 2.3.0: over HTTP with protocol 2026-07-28 the low-level Server runs its own `tools/list` handler before each
# tools/call that has arguments, to check header parameters against the tool's schema. On stdio, and with older
# protocols, it does not. A gateway whose handler asks other servers for their tools pays for a whole list with each call,
# and a call waits for the slowest of them. The argument `get_tool_input_schema` of Server spares it.
#
# Output seen, runs of the handler during 5 calls:
#   stdio:                                   0
#   HTTP, protocol 2025-11-25:               0
#   HTTP, protocol 2026-07-28:               5
#   the same, calls without arguments:       0
#   the same, with get_tool_input_schema:    0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mcp==2.3.0
cat > "$folder/server.py" <<'PYTHON'
import asyncio, sys

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool

log, way, schemas = sys.argv[1], sys.argv[2], sys.argv[3] == "schemas"
SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}}


async def list_tools(ctx, params):
    with open(log, "a") as file:
        file.write("list\n")
    return ListToolsResult(tools=[Tool(name="echo", input_schema=SCHEMA)])


async def call_tool(ctx, params):
    return CallToolResult(content=[TextContent(type="text", text=str(params.arguments))])


async def serve_stdio():
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


given = {"get_tool_input_schema": lambda name: SCHEMA} if schemas else {}
server = Server("example", on_list_tools=list_tools, on_call_tool=call_tool, **given)
if way == "stdio":
    asyncio.run(serve_stdio())
else:
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=int(way), log_level="error")
PYTHON
cat > "$folder/try.py" <<'PYTHON'
import asyncio, contextlib, socket, subprocess, sys, time
from pathlib import Path

from mcp import Client, StdioServerParameters

home = Path(sys.argv[1])
log = home / "log"


@contextlib.contextmanager
def http_server(schemas):
    """Run the server on a free port; yield its URL when it accepts connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(home / "server.py"), str(log), str(port), schemas])
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


async def lists_of(server, mode, arguments):
    """Return how often the server ran its list handler during five calls."""
    async with Client(server, mode=mode) as client:
        await client.list_tools()
        await client.call_tool("echo", arguments)
        log.write_text("")
        for _ in range(5):
            await client.call_tool("echo", arguments)
        return log.read_text().count("list")


async def main():
    given = {"number": 1}
    stdio = StdioServerParameters(command=sys.executable, args=[str(home / "server.py"), str(log), "stdio", "none"])
    found = {"stdio:": await lists_of(stdio, "2026-07-28", given)}
    with http_server("none") as url:
        found["HTTP, protocol 2025-11-25:"] = await lists_of(url, "legacy", given)
        found["HTTP, protocol 2026-07-28:"] = await lists_of(url, "2026-07-28", given)
        found["the same, calls without arguments:"] = await lists_of(url, "2026-07-28", None)
    with http_server("schemas") as url:
        found["the same, with get_tool_input_schema:"] = await lists_of(url, "2026-07-28", given)
    return found


found = asyncio.run(main())
for label, count in found.items():
    print(f"{label:40} {count}")
sys.exit(0 if list(found.values()) == [0, 0, 5, 0, 0] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
