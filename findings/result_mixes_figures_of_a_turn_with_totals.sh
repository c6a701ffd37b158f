#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189), stream-json input: figures of one `result` frame count different
# things. `usage` is the main agent's use in this turn, without its sub-agents. `modelUsage` and `total_cost_usd` are totals
# of all turns since the process started or `/clear` was sent, sub-agents included. So the sum of `total_cost_usd`
# over the results counts the first turns again and again, and a turn's own cost is a difference, but not after `/clear`.
# The sum of `usage` leaves the sub-agents out. The same fields reach a program through the SDK's ResultMessage.
#
# Output seen, input tokens; each request to the model reports 100:
#   prompt          requests  usage  modelUsage  total_cost_usd / that of the first turn
#   first                  1    100         100   1
#   second                 1    100         200   2
#   with sub-agent         3    200         500   5
#   /clear                 0      0           0   0
#   first                  1    100         100   1
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
seen = []


def tool_use(name, **given):
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": given}


def answer(body):
    """Give the prompt "with sub-agent" to a sub-agent, whose one request begins with WORK."""
    last = json.dumps([message for message in body["messages"] if message["role"] == "user"][-1])
    if "with sub-agent" in last and "tool_result" not in last:
        return [tool_use("Agent", description="d", prompt="WORK", subagent_type="general-purpose",
                         run_in_background=False)]
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
cli = subprocess.Popen(
    [CLI, "-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose", "--no-session-persistence",
     "--dangerously-skip-permissions"],
    env=env, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)


def ask(prompt):
    """Send a prompt; return the number of requests and the figures of its result."""
    before = len(seen)
    frame = {"type": "user", "message": {"role": "user", "content": prompt}}
    cli.stdin.write(json.dumps(frame) + "\n")
    cli.stdin.flush()
    for line in cli.stdout:
        frame = json.loads(line)
        if frame["type"] == "result":
            models = sum(model["inputTokens"] for model in frame["modelUsage"].values())
            return len(seen) - before, frame["usage"]["input_tokens"], models, frame["total_cost_usd"]
    raise SystemExit("the CLI ended")


prompts = ("first", "second", "with sub-agent", "/clear", "first")
results = [ask(prompt) for prompt in prompts]
cli.kill()
cli.wait()
one = results[0][3]
found = [(*figures, round(cost / one, 3)) for *figures, cost in results]
print("prompt          requests  usage  modelUsage  total_cost_usd / that of the first turn")
for prompt, (requests, usage, models, cost) in zip(prompts, found):
    print(f"{prompt:15} {requests:8} {usage:6} {models:11} {cost:3g}")
expected = [(1, 100, 100, 1), (1, 100, 200, 2), (3, 200, 500, 5), (0, 0, 0, 0), (1, 100, 100, 1)]
sys.exit(0 if found == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
