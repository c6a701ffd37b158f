#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): for a model that it does not know, as a gateway or a local server
# offers one, `total_cost_usd` is the price that the same tokens have with claude-opus-5-5, not zero or null. Only `costBasis`
# in `modelUsage` says "unknown" instead of "list"; beside it stands `contextWindow`: 1000000, which is assumed too.
# A sum of `total_cost_usd` then mixes list prices and assumed ones.
#
# Output seen, for 100 tokens of input and 50 of output:
#   claude-opus-5-5: 0.0014 $, costBasis list,    contextWindow 1000000
#   my-local-model:  0.0014 $, costBasis unknown, contextWindow 1000000
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


def start(*options, cwd=project):
    return subprocess.Popen(
        [CLI, "-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose", "--no-session-persistence",
         "--dangerously-skip-permissions", *options],
        env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )


def ask(cli, prompt):
    """Send a prompt; return the frames up to its result."""
    cli.stdin.write(json.dumps({"type": "user", "message": {"role": "user", "content": prompt}}) + "\n")
    cli.stdin.flush()
    frames = []
    for line in cli.stdout:
        frames.append(json.loads(line))
        if frames[-1]["type"] == "result":
            return frames
    raise SystemExit("the CLI ended")


def ask_alone(prompt, *options, cwd=project):
    """Send a prompt to a process of its own; return its frames."""
    cli = start(*options, cwd=cwd)
    frames = ask(cli, prompt)
    cli.kill()
    cli.wait()
    return frames


found = []
for model in ("claude-opus-5-5", "my-local-model"):
    result = ask_alone("go", f"--model={model}")[-1]
    used = result["modelUsage"][model]
    found.append((round(result["total_cost_usd"], 6), used["costBasis"], used["contextWindow"]))
    cost, basis, window = found[-1]
    print(f"{model + ':':16} {cost} $, costBasis {basis + ',':8} contextWindow {window}")
sys.exit(0 if found == [(0.0014, "list", 1_000_000), (0.0014, "unknown", 1_000_000)] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
