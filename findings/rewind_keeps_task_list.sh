#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): the control request `rewind_conversation` takes a
# prompt back, and the next request to the model holds nothing of it. But the list of tasks that the
# prompt had made with TaskCreate stays: TaskList shows it in the next conversation. `/clear` removes
# it. A program that rewinds to start afresh must know that.
#
# Output seen: "rewound: True; TaskList after a rewind shows the task: True; after /clear: False"
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


def answer(body):
    """Call TaskCreate for the first task, TaskList for later ones, and end after a tool's output."""
    last = json.dumps(body["messages"])
    if "tool_result" in last:
        return {"type": "text", "text": "done"}
    name, given = ("TaskList", {})
    if "MAKE" in last:
        name, given = "TaskCreate", {"subject": "unusual-subject", "description": "x"}
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": given}


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen.append(json.dumps(body["messages"]))
        block = answer(body)
        text = block["type"] == "text"
        start = {**block, "text": ""} if text else {**block, "input": {}}
        delta = (
            {"type": "text_delta", "text": block["text"]}
            if text
            else {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        )
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": body["model"],
                   "stop_reason": None, "stop_sequence": None, "usage": usage}
        events = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": start},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn" if text else "tool_use"}, "usage": usage},
            {"type": "message_stop"},
        ]
        data = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
threading.Thread(target=server.serve_forever, daemon=True).start()
home = Path(sys.argv[1])
(home / ".claude").mkdir(parents=True)
env = {
    "PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"), "IS_SANDBOX": "1",
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}", "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
}
cli = subprocess.Popen(
    [CLI, "-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose", "--no-session-persistence",
     "--dangerously-skip-permissions", "--tools=TaskCreate,TaskList"],
    env=env, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
version = ""


def until(kind):
    global version
    for line in cli.stdout:
        frame = json.loads(line)
        version = frame.get("claude_code_version", version)
        if frame["type"] == kind:
            return frame
    raise SystemExit("the CLI ended")


def control(**request):
    cli.stdin.write(json.dumps({"type": "control_request", "request_id": "r", "request": request}) + "\n")
    cli.stdin.flush()
    return until("control_response")["response"].get("response", {})


def prompt(text):
    stamp = str(uuid.uuid4())
    frame = {"type": "user", "uuid": stamp, "message": {"role": "user", "content": text}}
    cli.stdin.write(json.dumps(frame) + "\n")
    cli.stdin.flush()
    until("result")
    return stamp


def shows():
    """Let the model call TaskList; return whether its output holds the first task's subject."""
    before = len(seen)
    stamp = prompt("look")
    assert "unusual-subject" not in seen[before], "the request itself holds the earlier task"
    return stamp, "unusual-subject" in seen[-1]


control(subtype="initialize")
rewound = control(subtype="rewind_conversation", target_message_uuid=prompt("MAKE one"))["rewound"]
stamp, kept = shows()
prompt("/clear")
_, after_clear = shows()
cli.kill()
print(f"Claude Code {version}")
print(f"rewound: {rewound}; TaskList after a rewind shows the task: {kept}; after /clear: {after_clear}")
sys.exit(0 if (rewound, kept, after_clear) == (True, True, False) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
