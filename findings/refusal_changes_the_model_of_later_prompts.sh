#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189), stream-json input: if the model refuses a prompt (`stop_reason:
# refusal` with a category) twice, another model answers, and a frame `model_refusal_fallback` says so. All later prompts
# of the process go to that model too, harmless ones included, without a frame. `/clear` ends that; but the `system/init`
# of `/clear` still names the other model, although the next prompt goes to the first one.
#
# Output seen:
#   first:    sent to claude-opus-5-5; init claude-opus-5-5; fallback frames: 0
#   refused:  sent to claude-opus-5-5, claude-opus-5-5, claude-opus-4-8; init claude-opus-5-5; fallback frames: 1
#   harmless: sent to claude-opus-4-8; init claude-opus-4-8; fallback frames: 0
#   /clear:   sent to no model; init claude-opus-4-8; fallback frames: 0
#   harmless: sent to claude-opus-5-5; init claude-opus-5-5; fallback frames: 0
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

plan = {"refusals": 0}


def answer(body):
    """Refuse as often as planned, then answer."""
    if plan["refusals"] == 0:
        return text("done")
    plan["refusals"] -= 1
    details = {"type": "refusal", "category": "cyber", "explanation": "none"}
    return text("no")[0], {"stop_reason": "refusal", "stop_details": details}


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


cli = start()
found = []
for prompt in ("first", "refused", "harmless", "/clear", "harmless"):
    plan["refusals"] = 2 if prompt == "refused" else 0
    requests.clear()
    frames = ask(cli, prompt)
    kinds = [frame.get("subtype") for frame in frames]
    sent = [body["model"] for body in requests]
    init = frames[kinds.index("init")]["model"]
    found.append((sent, init, kinds.count("model_refusal_fallback")))
    print(f"{prompt + ':':9} sent to {', '.join(sent) or 'no model'}; init {init}; fallback frames: {found[-1][2]}")
cli.kill()
cli.wait()
one, other = "claude-opus-5-5", "claude-opus-4-8"
expected = [([one], one, 0), ([one, one, other], one, 1), ([other], other, 0), ([], other, 0), ([one], one, 0)]
sys.exit(0 if found == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
