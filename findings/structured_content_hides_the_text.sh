#!/usr/bin/env bash
# mcp 2.3.0 and Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): if the result of an MCP tool has `structuredContent`,
# Claude Code gives the model that JSON in place of the texts in `content`. Words that the tool wrote for the model
# are lost; images stay. MCPServer adds `structuredContent` by itself to a tool with a return type: two lines from a
# tool `-> str` reach the model as one line of JSON. `structured_output=False` prevents it.
#
# Output seen:
#   text:    {"result":"one\ntwo"}
#   plain:   'one\ntwo'
#   both:    {"rows":3}; image: True
#   content: see the picture; image: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189 mcp==2.3.0
cat > "$folder/server.py" <<'PYTHON'
import base64, struct, zlib

from mcp.server import MCPServer
from mcp.types import CallToolResult, ImageContent, TextContent

server = MCPServer("example")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


rows = b"".join(b"\0" + b"\x80" * 16 * 3 for _ in range(16))
header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
picture = ImageContent(type="image", data=base64.b64encode(png).decode(), mime_type="image/png")
words = TextContent(type="text", text="see the picture")


@server.tool()
def text() -> str:
    return "one\ntwo"


@server.tool(structured_output=False)
def plain() -> str:
    return "one\ntwo"


@server.tool()
def both() -> CallToolResult:
    return CallToolResult(content=[words, picture], structured_content={"rows": 3})


@server.tool()
def content() -> CallToolResult:
    return CallToolResult(content=[words, picture])


server.run()
PYTHON
cat > "$folder/try.py" <<'PYTHON'
import json, os, subprocess, sys, threading, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import claude_agent_sdk

TOOLS = ("text", "plain", "both", "content")

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
seen = []


def tool_use(name, **given):
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": given}


def answer(body):
    """Call the tool that the prompt names, and end after its output."""
    messages = json.dumps(body["messages"])
    if "tool_result" in messages:
        return [{"type": "text", "text": "done"}]
    name = next(name for name in TOOLS if f"call-{name}" in messages)
    return [tool_use(f"mcp__example__{name}")]


class Model(BaseHTTPRequestHandler):
    """A Messages API that sends the blocks of `answer`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen.append(body)
        blocks = answer(body)
        reason = "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn"
        usage = {"input_tokens": 100, "output_tokens": 10}
        message = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "content": [],
                   "model": body["model"], "stop_reason": None, "stop_sequence": None, "usage": usage}
        events = [{"type": "message_start", "message": message}]
        for index, block in enumerate(blocks):
            if block["type"] == "text":
                start, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
            else:
                start = {**block, "input": {}}
                delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            events += [
                {"type": "content_block_start", "index": index, "content_block": start},
                {"type": "content_block_delta", "index": index, "delta": delta},
                {"type": "content_block_stop", "index": index},
            ]
        events += [
            {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage},
            {"type": "message_stop"},
        ]
        data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


api = ThreadingHTTPServer(("127.0.0.1", 0), Model)
threading.Thread(target=api.serve_forever, daemon=True).start()
home = Path(sys.argv[1])
project = home / "project"
project.mkdir()
env = {
    "PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"), "IS_SANDBOX": "1",
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{api.server_port}", "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
}
servers = {"mcpServers": {"example": {"command": sys.executable, "args": [str(home / "server.py")]}}}


def shown(name):
    """Return the text that the model gets as the tool's output, and whether an image is in it."""
    seen.clear()
    subprocess.run([CLI, "-p", "--no-session-persistence", "--dangerously-skip-permissions", "--strict-mcp-config",
                    f"--mcp-config={json.dumps(servers)}", "--", f"call-{name}"],
                   env=env, cwd=project, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    blocks = [block for message in seen[-1]["messages"] if message["role"] == "user" for block in message["content"]]
    content = next(block for block in blocks if block["type"] == "tool_result")["content"]
    if isinstance(content, str):
        return content, False
    texts = [block["text"] for block in content if block["type"] == "text"]
    return "".join(texts), any(block["type"] == "image" for block in content)


print("Claude Code", subprocess.run([CLI, "--version"], env=env, capture_output=True, text=True).stdout.strip())
found = {name: shown(name) for name in TOOLS}
print(f"text:    {found['text'][0]}")
print(f"plain:   {found['plain'][0]!r}")
print(f"both:    {found['both'][0]}; image: {found['both'][1]}")
print(f"content: {found['content'][0]}; image: {found['content'][1]}")
expected = {
    "text": ('{"result":"one\\ntwo"}', False), "plain": ("one\ntwo", False),
    "both": ('{"rows":3}', True), "content": ("see the picture", True),
}
sys.exit(0 if found == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
