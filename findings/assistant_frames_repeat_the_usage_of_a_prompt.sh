#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189), stream-json output: each block of a message is an `assistant` frame
# of its own, and each of these frames has the whole `usage` of the message, as it was when the message began. So the sum
# over the frames counts the prompt once a block, and hardly counts the output. `message.id` is the same for the frames
# of one message; the tokens of the output are only in the `result`. The SDK's AssistantMessage has the same figures.
#
# Output seen; each request to the model reports 100 tokens of input, and 1 of output at its beginning, 50 at its end:
#   frames: (100, 1) text, (100, 1) tool_use, (100, 1) tool_use, (100, 1) text; messages: 2
#   input:  sum of the frames 400, one frame for each message 200, result 200
#   output: sum of the frames 4, one frame for each message 2, result 100
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


def answer(body):
    """Answer with a text and two calls first, then with a text."""
    if "tool_result" in last_user(body):
        return text("done")
    call = [tool_use("Bash", command=f"echo {word}", description="d") for word in ("one", "two")]
    return calls({"type": "text", "text": "I look."}, *call)


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


frames = ask_alone("go")
messages = [frame["message"] for frame in frames if frame["type"] == "assistant"]
fields = ("input_tokens", "output_tokens")
usages = [tuple(message["usage"][field] for field in fields) for message in messages]
kinds = [message["content"][0]["type"] for message in messages]
once = {message["id"]: usage for message, usage in zip(messages, usages)}
print("frames:", ", ".join(f"{usage} {kind}" for usage, kind in zip(usages, kinds)) + f"; messages: {len(once)}")
found = []
for index, field in enumerate(fields):
    sums = [sum(usage[index] for usage in some) for some in (usages, once.values())] + [frames[-1]["usage"][field]]
    found.append(sums)
    name = field.partition("_")[0] + ":"
    print(f"{name:7} sum of the frames {sums[0]}, one frame for each message {sums[1]}, result {sums[2]}")
sys.exit(0 if (len(requests), found) == (2, [[400, 200, 200], [4, 2, 100]]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
