#!/usr/bin/env bash
# openai-agents 0.24.0 with mcp 2.3.0: two calls that a program makes at the same time run side by side if the server is
# started with MCPServerStdio, and one after the other with MCPServerStreamableHttp, although HTTP is the transport with a
# request of its own for each call. A lock in the client does it; nothing in the arguments or in the log shows it.
# An agent whose model calls two tools in one message waits for the sum of their times. Two objects for the same
# server have two locks, so they work side by side.
#
# Output seen:
#   stdio, one object:  most calls at once: 2
#   HTTP, one object:   most calls at once: 1
#   HTTP, two objects:  most calls at once: 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openai-agents==0.24.0 mcp==2.3.0
cat > "$folder/server.py" <<'PYTHON'
import asyncio, sys

from mcp.server import MCPServer

server = MCPServer("example")
running = 0


@server.tool()
async def work() -> str:
    """Last a second; return how many calls ran meanwhile."""
    global running
    running += 1
    await asyncio.sleep(0.5)
    seen = running
    await asyncio.sleep(0.5)
    running -= 1
    return str(seen)


port = int(sys.argv[1])
server.run(transport="streamable-http", port=port) if port else server.run()
PYTHON
cat > "$folder/try.py" <<'PYTHON'
import asyncio, socket, subprocess, sys
from contextlib import AsyncExitStack
from importlib.metadata import version

from agents.mcp import MCPServerStdio, MCPServerStreamableHttp

SERVER = sys.argv[1]


async def most_at_once(*servers):
    """Call the tool twice at the same time, by the first and by the last object; return what the server saw."""
    async with AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(server)
        answers = await asyncio.gather(servers[0].call_tool("work", {}), servers[-1].call_tool("work", {}))
    return max(int(answer.content[0].text) for answer in answers)


async def main():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, SERVER, str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.1)
        stdio = MCPServerStdio({"command": sys.executable, "args": [SERVER, "0"]})
        http = [MCPServerStreamableHttp({"url": f"http://127.0.0.1:{port}/mcp"}) for _ in range(3)]
        return await most_at_once(stdio), await most_at_once(http[0]), await most_at_once(*http[1:])
    finally:
        process.kill()
        process.wait()


print("openai-agents", version("openai-agents"), "mcp", version("mcp"))
found = asyncio.run(main())
for label, most in zip(("stdio, one object:", "HTTP, one object:", "HTTP, two objects:"), found):
    print(f"{label:19} most calls at once: {most}")
sys.exit(0 if found == (2, 1, 2) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/server.py"
