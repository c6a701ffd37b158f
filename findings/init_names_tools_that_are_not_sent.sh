#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): after the control request `apply_flag_settings` with
# the name of an agent, `system/init` of the next turn names the agent's tools. But if the conversation
# has begun before, the request to the model still has the old system prompt and all of the old tools;
# they change only at `/clear`. So `system/init` is no proof of what a process sends.
#
# Output seen:
#   answer to the switch: success
#   same conversation: init names ['Read']; the request has the agent's prompt: False, Bash: True
#   after /clear: init names ['Read']; the request has the agent's prompt: True, Bash: False
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


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen.append(body)
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": body["model"],
                   "stop_reason": None, "stop_sequence": None, "usage": usage}
        events = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "done"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
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
(home / ".claude" / "agents").mkdir(parents=True)
definition = "---\nname: reader\ndescription: d\ntools: Read\n---\nYou read.\n"
(home / ".claude" / "agents" / "reader.md").write_text(definition)
env = {
    "PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"), "IS_SANDBOX": "1",
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}", "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
}
cli = subprocess.Popen(
    [CLI, "-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose", "--no-session-persistence",
     "--dangerously-skip-permissions"],
    env=env, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
told = {}


def until(kind):
    for line in cli.stdout:
        frame = json.loads(line)
        if frame.get("subtype") == "init":
            told.update(version=frame["claude_code_version"], tools=frame["tools"])
        if frame["type"] == kind:
            return frame
    raise SystemExit("the CLI ended")


def control(**request):
    cli.stdin.write(json.dumps({"type": "control_request", "request_id": "r", "request": request}) + "\n")
    cli.stdin.flush()
    return until("control_response")["response"]["subtype"]


def prompt(text):
    frame = {"type": "user", "uuid": str(uuid.uuid4()), "message": {"role": "user", "content": text}}
    cli.stdin.write(json.dumps(frame) + "\n")
    cli.stdin.flush()
    until("result")


def shown():
    """Return the tools that `system/init` names, and whether the request has the agent's prompt and Bash."""
    body = seen[-1]
    names = [tool["name"] for tool in body["tools"]]
    return told["tools"], "You read." in json.dumps(body["system"]), "Bash" in names


control(subtype="initialize")
prompt("one")
switched = control(subtype="apply_flag_settings", settings={"agent": "reader"})
prompt("two")
in_conversation = shown()
prompt("/clear")
prompt("three")
after_clear = shown()
cli.kill()
print(f"Claude Code {told['version']}")
print(f"answer to the switch: {switched}")
for when, (tools, has_prompt, has_bash) in (("same conversation", in_conversation), ("after /clear", after_clear)):
    print(f"{when}: init names {tools}; the request has the agent's prompt: {has_prompt}, Bash: {has_bash}")
expected = ((["Read"], False, True), (["Read"], True, False))
sys.exit(0 if switched == "success" and (in_conversation, after_clear) == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
