#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): `--disallowedTools "Bash(rm:*)"` refuses the calls that begin with
# rm and leaves the tool. In the file of an agent the same words in `disallowedTools` remove the tool Bash: the part in
# brackets is dropped. In `tools` it is dropped too: `tools: Bash(git:*)` is the whole of Bash. No warning is written. Rules
# that are to hold for an agent belong into `permissions` of the settings.
#
# Output seen:
#   --disallowedTools=Bash(rm:*): the model has ['Bash', 'Read']
#   disallowedTools: Bash(rm:*): the model has ['Read']
#   tools: Bash(git:*), Read:    the model has ['Bash', 'Read']
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


def answer(body):
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
folder = project / ".claude" / "agents"
folder.mkdir(parents=True)
for name, fields in {
    "plain": "tools: Bash, Read",
    "without": "tools: Bash, Read\ndisallowedTools: Bash(rm:*)",
    "only": "tools: Bash(git:*), Read",
}.items():
    (folder / f"{name}.md").write_text(f"---\nname: {name}\ndescription: d\n{fields}\n---\nYou test.\n")


def run(*options):
    """Run one prompt; return the names of Bash and Read that the model had, and what stderr had."""
    seen.clear()
    ran = subprocess.run([CLI, "-p", "--no-session-persistence", *options, "hello"],
                         env=env, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    names = {tool["name"] for tool in seen[0]["tools"]}
    return sorted(names & {"Bash", "Read"}), ran.stderr


print("Claude Code", subprocess.run([CLI, "--version"], env=env, capture_output=True, text=True).stdout.strip())
(by_option, one), (by_file, two), (only, three) = (
    run("--agent=plain", "--disallowedTools=Bash(rm:*)"), run("--agent=without"), run("--agent=only"))
words = one + two + three
print(f"--disallowedTools=Bash(rm:*): the model has {by_option}")
print(f"disallowedTools: Bash(rm:*): the model has {by_file}")
print(f"tools: Bash(git:*), Read:    the model has {only}")
print(f"words on stderr: {words!r}")
both = ["Bash", "Read"]
sys.exit(0 if (by_option, by_file, only, words) == (both, ["Read"], both, "") else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
