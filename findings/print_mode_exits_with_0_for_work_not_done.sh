#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): `claude -p` ends with exit status 0, `subtype: success`,
# `is_error: false` and nothing on stderr in three cases where the work was not done:
#   - a UserPromptSubmit hook blocks the prompt: no request is sent, and the hook's words are printed as if they were the
#     answer; `num_turns` is 0;
#   - a PostToolUse hook answers `continue: false`: the turn ends there with an empty result, and the text output is one
#     empty line; `terminal_reason` is hook_stopped;
#   - a rule in `permissions.ask` matches a call: nobody can be asked, so it is refused, with
#     --dangerously-skip-permissions too; `permission_denials` names the call.
# A script that trusts the exit status goes on.
#
# Output seen:
#   prompt blocked: exit 0, success, is_error False, 0 requests, num_turns 0, terminal_reason None, 0 denials
#   stopped by a hook: exit 0, success, is_error False, 1 requests, num_turns 2, terminal_reason hook_stopped, 0 denials
#   ask rule: exit 0, success, is_error False, 2 requests, num_turns 2, terminal_reason completed, 1 denials
#   ask rule: the command was run: False
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
seen = []


def tool_use(name, **given):
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": given}


def answer(body):
    """Call Bash, and end after its output."""
    if "tool_result" in json.dumps(body["messages"]):
        return [{"type": "text", "text": "done"}]
    return [tool_use("Bash", command="touch made")]


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
(project / ".claude").mkdir()


def hook(event, command):
    return {"hooks": {event: [{"hooks": [{"type": "command", "command": command}]}]}}


cases = {
    "prompt blocked": hook("UserPromptSubmit", "echo 'not now' >&2; exit 2"),
    "stopped by a hook": hook("PostToolUse", """echo '{"continue": false, "stopReason": "not now"}'"""),
    "ask rule": {"permissions": {"ask": ["Bash(touch:*)"]}},
}
words, found = "", []
print("Claude Code", subprocess.run([CLI, "--version"], env=env, capture_output=True, text=True).stdout.strip())
for name, settings in cases.items():
    (project / ".claude" / "settings.json").write_text(json.dumps(settings))
    (project / "made").unlink(missing_ok=True)
    seen.clear()
    ran = subprocess.run([CLI, "-p", "--no-session-persistence", "--dangerously-skip-permissions", "--tools=Bash",
                          "--output-format=json", "hello"],
                         env=env, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    result = json.loads(ran.stdout)
    words += ran.stderr
    figures = (ran.returncode, result["subtype"], result["is_error"], len(seen), result["num_turns"],
               result.get("terminal_reason"), len(result["permission_denials"]))
    found.append(figures)
    print("{}: exit {}, {}, is_error {}, {} requests, num_turns {}, terminal_reason {}, {} denials".format(
        name, *figures))
made = (project / "made").exists()
print(f"ask rule: the command was run: {made}")
print(f"words on stderr: {words!r}")
expected = [
    (0, "success", False, 0, 0, None, 0), (0, "success", False, 1, 2, "hook_stopped", 0),
    (0, "success", False, 2, 2, "completed", 1),
]
sys.exit(0 if found == expected and not made and not words else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
