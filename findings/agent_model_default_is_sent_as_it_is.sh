#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): `--model default` means the model of the account.
# In an agent's definition the same word is no alias: with `--agent` the request asks for a model that is
# called "default". The CLI itself writes to stderr that it does not recognize it.
#
# Output seen:
#   --model default:            claude-opus-5-5
#   agent with model: default:  default
#   agent with model: opus:     claude-opus-5-5
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
asked = []


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked.append(body["model"])
        usage = {"input_tokens": 1, "output_tokens": 1}
        start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": body["model"],
                 "stop_reason": None, "stop_sequence": None, "usage": usage}
        events = [
            {"type": "message_start", "message": start},
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
home, project = Path(sys.argv[1]) / "home", Path(sys.argv[1]) / "project"
(project / ".claude" / "agents").mkdir(parents=True)
home.mkdir()
for name in ("default", "opus"):
    definition = f"---\nname: of-{name}\ndescription: d\ntools: Read\nmodel: {name}\n---\nYou read.\n"
    (project / ".claude" / "agents" / f"of-{name}.md").write_text(definition)
environ = {
    "PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"),
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}", "ANTHROPIC_API_KEY": "dummy",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "IS_SANDBOX": "1",
}


def model_of(*options):
    asked.clear()
    subprocess.run([CLI, "-p", "--no-session-persistence", *options, "hello"], env=environ, cwd=project,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=60)
    return asked[-1]


found = {
    "--model default:": model_of("--model=default"),
    "agent with model: default:": model_of("--agent=of-default"),
    "agent with model: opus:": model_of("--agent=of-opus"),
}
for label, model in found.items():
    print(f"{label:28}{model}")
assert found["--model default:"].startswith("claude-")
assert found["agent with model: default:"] == "default"
assert found["agent with model: opus:"].startswith("claude-")
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
