#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): `apply_flag_settings` with `agent` makes a running
# process another agent. Two things of its start stay, also after `/clear`:
#   - if the settings name a main agent, its model is that of every later agent without a field `model`
#     (a new process with `--agent` has the account's model); `--settings={"agent":""}` prevents it;
#   - the model of the first request decides whether the description of Bash has the line "Avoid using
#     this tool to run ...": the request of an agent of another model differs from that of a new process.
#
# Output seen:
#   model of "plain", new process / after the main agent "main": claude-opus-5-5 / claude-haiku-5-5
#   line in Bash for "sonnet", new process / after "plain": True / False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189
cat > "$folder/try.py" <<'PYTHON'
import json, os, subprocess, sys, threading
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
project = home / "project"
(project / ".claude" / "agents").mkdir(parents=True)
for name, fields in {"main": "model: haiku", "plain": "tools: Bash, Read", "sonnet": "model: sonnet"}.items():
    text = f"---\nname: {name}\ndescription: d\n{fields}\n---\nYou test.\n"
    (project / ".claude" / "agents" / f"{name}.md").write_text(text)
env = {
    "PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"), "IS_SANDBOX": "1",
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}", "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
}
version = ""


def requests(flags, *agents):
    """Start a process and let it become these agents, one prompt each; return their first requests."""
    global version
    cli = subprocess.Popen(
        [CLI, "-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose",
         "--no-session-persistence", "--dangerously-skip-permissions", *flags],
        env=env, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )

    def send(frame, kind):
        global version
        cli.stdin.write(json.dumps(frame) + "\n")
        cli.stdin.flush()
        for line in cli.stdout:
            answer = json.loads(line)
            version = answer.get("claude_code_version", version)
            if answer["type"] == kind:
                return
        raise SystemExit("the CLI ended")

    def control(**request):
        send({"type": "control_request", "request_id": "r", "request": request}, "control_response")

    def prompt(text):
        send({"type": "user", "message": {"role": "user", "content": text}}, "result")

    found = []
    control(subtype="initialize")
    for agent in agents:
        if agent:
            control(subtype="apply_flag_settings", settings={"agent": agent})
        before = len(seen)
        prompt("hello")
        found.append(seen[before])
        prompt("/clear")
    cli.kill()
    cli.wait()
    return found


def has_line(request):
    bash = next(tool for tool in request["tools"] if tool["name"] == "Bash")
    return "Avoid using this tool to run" in bash["description"]


(fresh_sonnet,) = requests(["--agent=sonnet"], "")
_, switched_sonnet = requests([], "plain", "sonnet")
(project / ".claude" / "settings.json").write_text('{"agent": "main"}')
(fresh_plain,) = requests(["--agent=plain"], "")
_, switched_plain = requests([], "", "plain")
models = fresh_plain["model"], switched_plain["model"]
lines = has_line(fresh_sonnet), has_line(switched_sonnet)
print(f"Claude Code {version}")
print(f'model of "plain", new process / after the main agent "main": {models[0]} / {models[1]}')
print(f'line in Bash for "sonnet", new process / after "plain": {lines[0]} / {lines[1]}')
sys.exit(0 if models[0] != models[1] and lines == (True, False) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
