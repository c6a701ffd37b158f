#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): the MCP specification recommends that a client ends a stdio server by
# closing its stdin, and by signals if that does not help. Claude Code sends SIGINT at once, SIGTERM 0.1 s later and
# SIGKILL 0.5 s after the first signal, and stdin stays open. So a server that saves its state or ends its children
# at the end of stdin never does it, and one that does it in a signal handler has half a second. The end of stdin comes
# only if Claude Code itself was killed.
#
# Output seen:
#   claude -p ended: SIGINT, then SIGTERM after 0.1 s; killed after 0.5 s
#   claude -p killed: end of stdin
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189
cat > "$folder/server.py" <<'PYTHON'
import json, os, signal, sys, threading, time


def write(name):
    with open(sys.argv[1], "a") as file:
        file.write(f"{name} {time.monotonic()}\n")


def live():
    while True:
        write("alive")
        time.sleep(0.02)


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: write(signal.Signals(number).name))
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "initialize":
        body = {"result": {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}},
                           "serverInfo": {"name": "example", "version": "1"}}}
    elif asked["method"] == "tools/list":
        body = {"result": {"tools": []}}
        threading.Thread(target=live, daemon=True).start()
    else:
        body = {"error": {"code": -32601, "message": "unknown"}}
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **body}), flush=True)
write("stdin-ended")
PYTHON
cat > "$folder/try.py" <<'PYTHON'
import json, os, subprocess, sys, threading, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import claude_agent_sdk

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
seen = []


def answer(body):
    return [{"type": "text", "text": "done"}]


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
servers = {"mcpServers": {"example": {"command": sys.executable, "args": [str(home / "server.py"), str(log)]}}}
command = [CLI, "-p", "--no-session-persistence", "--strict-mcp-config", f"--mcp-config={json.dumps(servers)}"]


def events():
    return [(name, float(at)) for name, at in (line.split() for line in log.read_text().splitlines())]


def wait_for(name):
    """Wait until the server has written this; return what it has written."""
    for _ in range(300):
        if log.exists() and any(event[0] == name for event in events()):
            return events()
        time.sleep(0.1)
    raise SystemExit(f"the server did not write {name}")


print("Claude Code", subprocess.run([CLI, "--version"], env=env, capture_output=True, text=True).stdout.strip())
subprocess.run([*command, "hello"], env=env, cwd=project, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
time.sleep(2)
marks = [event for event in events() if event[0] != "alive"]
names = [name for name, _ in marks]
first = marks[0][1]
second, last = marks[-1][1] - first, events()[-1][1] - first
log.unlink()
cli = subprocess.Popen([*command, "--input-format=stream-json", "--output-format=stream-json", "--verbose"],
                       env=env, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
wait_for("alive")
cli.kill()
cli.wait()
killed = [name for name, _ in wait_for("stdin-ended") if name != "alive"]
time.sleep(1)  # until the server has ended
print(f"claude -p ended: {', then '.join(names)} after {second:.1f} s; killed after {last:.1f} s")
print(f"claude -p killed: {' '.join(killed)}")
ended_so = names == ["SIGINT", "SIGTERM"] and 0.05 < second < 0.3 and 0.3 < last < 1
sys.exit(0 if ended_so and killed == ["stdin-ended"] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
