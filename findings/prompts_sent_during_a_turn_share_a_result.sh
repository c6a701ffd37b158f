#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189), stream-json input: prompts that arrive while a turn runs get no
# turn each. Two that wait for the end of a turn are joined with a line feed into one user message. One that arrives
# during a tool call is put into the running turn. So there are fewer results than prompts, and a program
# that waits for one result per prompt waits for ever. `user_message_uuids` of a result names all its
# prompts, if they were sent with a `uuid`.
#
# Output seen:
#   during an answer: 3 prompts, 2 results for [['one'], ['two', 'three']]; sent as one text: True
#   during a tool call: 2 prompts, 1 results for [['one', 'two']]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189
cat > "$folder/try.py" <<'PYTHON'
import json, os, subprocess, sys, threading, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import claude_agent_sdk

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
seen = []


def tool_use(name, **given):
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": given}


scene = {"tool": False, "release": threading.Event()}


def answer(body):
    """Answer, but hold the first answer back, or call a tool that waits, until all prompts were sent."""
    messages = json.dumps(body["messages"])
    if scene["tool"] and "tool_result" not in messages:
        return [tool_use("Bash", command="until [ -e sent ]; do sleep 0.2; done; sleep 1")]
    if len(seen) == 1:
        scene["release"].wait(30)
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


def results_of(first, *later):
    """Send a prompt, the later ones when its request has come; return the prompts named by each result."""
    seen.clear()
    cli = subprocess.Popen(
        [CLI, "-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose",
         "--no-session-persistence", "--dangerously-skip-permissions"],
        env=env, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    names = {}

    def send(text):
        stamp = str(uuid.uuid4())
        names[stamp] = text
        frame = {"type": "user", "uuid": stamp, "message": {"role": "user", "content": text}}
        cli.stdin.write(json.dumps(frame) + "\n")
        cli.stdin.flush()

    frames = []

    def read():
        for line in cli.stdout:
            frames.append(json.loads(line))

    reader = threading.Thread(target=read)
    reader.start()
    send(first)
    while not seen or (scene["tool"] and not any(frame["type"] == "assistant" for frame in frames)):
        time.sleep(0.05)
    for text in later:
        send(text)
    # Control requests are answered in their order, so the CLI has read the prompts when this answer comes.
    question = {"type": "control_request", "request_id": "read", "request": {"subtype": "mcp_status"}}
    cli.stdin.write(json.dumps(question) + "\n")
    cli.stdin.flush()
    while not any(frame["type"] == "control_response" for frame in frames):
        time.sleep(0.05)
    if scene["tool"]:
        (project / "sent").touch()
    scene["release"].set()
    cli.stdin.close()
    reader.join()
    results = [frame for frame in frames if frame["type"] == "result"]
    return [[names[stamp] for stamp in result["user_message_uuids"]] for result in results]


print("Claude Code", subprocess.run([CLI, "--version"], env=env, capture_output=True, text=True).stdout.strip())
waiting = results_of("one", "two", "three")
joined = "two\\nthree" in json.dumps(seen[-1]["messages"])
scene["tool"] = True
calling = results_of("one", "two")
print(f"during an answer: 3 prompts, {len(waiting)} results for {waiting}; sent as one text: {joined}")
print(f"during a tool call: 2 prompts, {len(calling)} results for {calling}")
sys.exit(0 if waiting == [["one"], ["two", "three"]] and joined and calling == [["one", "two"]] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
