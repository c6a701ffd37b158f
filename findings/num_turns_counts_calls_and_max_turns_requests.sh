#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): `num_turns` of a result and the option `--max-turns` count different
# things. `--max-turns` limits the requests to the model. `num_turns` is the number of tool calls and one more: a model
# that makes five calls in one message ends with 6 turns under a limit of 2, as a success. If the limit ends the work,
# `num_turns` is one more than the limit. So the one cannot be compared with the other, and is no number of requests.
#
# Output seen:
#   --max-turns 2, 1 call  in one message: success,         num_turns 2, requests 2
#   --max-turns 2, 5 calls in one message: success,         num_turns 6, requests 2
#   --max-turns 2, 1 call  in each message: error_max_turns, num_turns 3, requests 2
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


def tool_use(name, **given):
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": given}


def calls(*blocks):
    return list(blocks), {"stop_reason": "tool_use"}


def text(words):
    return [{"type": "text", "text": words}], {"stop_reason": "end_turn"}


def last_user(body):
    return json.dumps([message for message in body["messages"] if message["role"] == "user"][-1])

plan = {"calls": 1, "ends": True}


def answer(body):
    """Make the planned number of calls; then end, or make them again."""
    if plan["ends"] and "tool_result" in last_user(body):
        return text("done")
    return calls(*(tool_use("Bash", command=f"echo {i}", description="d") for i in range(plan["calls"])))


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
for number, ends in ((1, True), (5, True), (1, False)):
    plan.update(calls=number, ends=ends)
    requests.clear()
    result = ask_alone("go", "--max-turns=2")[-1]
    found.append((result["subtype"], result["num_turns"], len(requests)))
    noun, place = "call " if number == 1 else "calls", "one" if ends else "each"
    kind, turns, sent = found[-1]
    print(f"--max-turns 2, {number} {noun} in {place} message: {kind + ',':16} num_turns {turns}, requests {sent}")
expected = [("success", 2, 2), ("success", 6, 2), ("error_max_turns", 3, 2)]
sys.exit(0 if found == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
