#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): the first `---` after the first line ends the head of an agent's file,
# also inside a line. So a description such as "Reviews code --- and tests", which is a plain text for every YAML reader,
# ends there: the fields below it do not count, and their lines become the beginning of the system prompt. The agent has
# the account's model and all tools instead of its own ones. No message says so; the exit status is 0.
#
# Output seen:
#   "Reviews code, and tests": claude-haiku-5-5, Bash offered: False, prompt begins with 'You review.'
#   "Reviews code --- and tests": claude-opus-5-5, Bash offered: True, prompt begins with 'and tests\ntools: Read\n'
#   words on stderr: ''
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189
cat > "$folder/try.py" <<'PYTHON'
import json, os, subprocess, sys, threading, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import claude_agent_sdk

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
requests = []


def text(words):
    return [{"type": "text", "text": words}], {"stop_reason": "end_turn"}


def answer(body):
    return text("done")


class Model(BaseHTTPRequestHandler):
    """A Messages API that sends the blocks of `answer`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        requests.append(body)
        blocks, delta = answer(body)
        begun, ended = {"input_tokens": 100, "output_tokens": 1}, {"input_tokens": 100, "output_tokens": 50}
        message = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "content": [],
                   "model": body["model"], "stop_reason": None, "stop_sequence": None, "usage": begun}
        events = [{"type": "message_start", "message": message}]
        for index, block in enumerate(blocks):
            start, piece = {**block, "text": ""}, {"type": "text_delta", "text": block.get("text")}
            if block["type"] == "tool_use":
                start = {**block, "input": {}}
                piece = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            events += [
                {"type": "content_block_start", "index": index, "content_block": start},
                {"type": "content_block_delta", "index": index, "delta": piece},
                {"type": "content_block_stop", "index": index},
            ]
        events += [{"type": "message_delta", "delta": delta, "usage": ended}, {"type": "message_stop"}]
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
project.mkdir(parents=True)
env = {
    "PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"), "IS_SANDBOX": "1",
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{api.server_port}", "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
}

agents = project / ".claude" / "agents"
agents.mkdir(parents=True)
found, complaints = [], ""
for name, description in (("comma", "Reviews code, and tests"), ("dashes", "Reviews code --- and tests")):
    head = f"name: {name}\ndescription: {description}\ntools: Read\nmodel: haiku"
    (agents / f"{name}.md").write_text(f"---\n{head}\n---\nYou review.\n")
    requests.clear()
    done = subprocess.run([CLI, "-p", "go", "--agent", name], env=env, cwd=project, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, check=True)
    complaints += done.stderr
    sent = requests[-1]
    offered = "Bash" in {tool["name"] for tool in sent["tools"]}
    found.append((sent["model"], offered, sent["system"][-1]["text"][:22]))
    print(f'"{description}": {found[-1][0]}, Bash offered: {offered}, prompt begins with {found[-1][2]!r}')
print(f"words on stderr: {complaints!r}")
expected = [("claude-haiku-5-5", False, "You review."), ("claude-opus-5-5", True, "and tests\ntools: Read\n")]
sys.exit(0 if (found, complaints) == (expected, "") else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
