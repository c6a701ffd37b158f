#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189) and mcp 2.3.0: if the model calls an MCP tool three times in one message,
# Claude Code sends the second call after the first one has ended, whether they go to one server or to three.
# `readOnlyHint: true` in the tool's annotations is what makes them run side by side: a hint that a server's
# author reads as a word about safety decides about speed.
#
# Output seen:
#   one server, no hint:     most calls at once: 1
#   three servers, no hint:  most calls at once: 1
#   one server, read-only:   most calls at once: 3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189 mcp==2.3.0
cat > "$folder/server.py" <<'PYTHON'
import asyncio, sys

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("example")


async def last_two_seconds():
    for mark in ("begin", "end"):
        with open(sys.argv[1], "a") as file:
            file.write(mark + "\n")
        if mark == "begin":
            await asyncio.sleep(2)


@server.tool()
async def work() -> None:
    await last_two_seconds()


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def look() -> None:
    await last_two_seconds()


server.run()
PYTHON
cat > "$folder/try.py" <<'PYTHON'
import json, os, subprocess, sys, threading, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import claude_agent_sdk

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
seen = []


def tool_use(name, **given):
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": given}


calls = []


def answer(body):
    """Make all calls of `calls` in one message, and end after their output."""
    if "tool_result" in json.dumps(body["messages"]):
        return [{"type": "text", "text": "done"}]
    return [tool_use(name) for name in calls]


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
log = home / "log"
servers = {
    f"s{number}": {"command": sys.executable, "args": [str(home / "server.py"), str(log)]} for number in (1, 2, 3)
}


def most_at_once(*names):
    """Let the model call these tools; return how many calls ran at the same time."""
    calls[:] = names
    log.write_text("")
    subprocess.run([CLI, "-p", "--no-session-persistence", "--dangerously-skip-permissions", "--strict-mcp-config",
                    f"--mcp-config={json.dumps({'mcpServers': servers})}", "--", "hello"],
                   env=env, cwd=project, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    marks = log.read_text().split()
    assert marks.count("begin") == marks.count("end") == len(names), marks
    running = most = 0
    for mark in marks:
        running += 1 if mark == "begin" else -1
        most = max(most, running)
    return most


print("Claude Code", subprocess.run([CLI, "--version"], env=env, capture_output=True, text=True).stdout.strip())
found = (
    most_at_once(*["mcp__s1__work"] * 3),
    most_at_once("mcp__s1__work", "mcp__s2__work", "mcp__s3__work"),
    most_at_once(*["mcp__s1__look"] * 3),
)
for label, most in zip(("one server, no hint:", "three servers, no hint:", "one server, read-only:"), found):
    print(f"{label:24} most calls at once: {most}")
sys.exit(0 if found == (1, 1, 3) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
