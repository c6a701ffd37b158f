#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): the tool that starts sub-agents is called Agent in requests, in
# `assistant` frames and in the `tool_name` that a hook gets, but Task in the `tools` of `system/init`. In options and in
# the matchers of hooks both names work: a hook with the matcher "Task" runs, and reads "Agent" on its stdin. So a
# program that looks the calls it sees up in the list of `system/init` does not find them.
#
# Output seen:
#   system/init: Task; request: Agent; assistant frame: Agent
#   hook with the matcher Task reads: Agent; hook with the matcher Agent reads: Agent
#   --tools=Task: Agent in the request; --disallowedTools=Task: none in the request
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
    """Delegate once."""
    last = last_user(body)
    if "tool_result" in last or "do not delegate" in last:
        return text("done")
    return calls(tool_use("Agent", description="d", prompt="do not delegate", subagent_type="general-purpose",
                          run_in_background=False))


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


NAMES = ("Task", "Agent")


def hook(matcher):
    return {"matcher": matcher, "hooks": [{"type": "command", "command": f"cat > '{home}/{matcher}.json'"}]}


def names_in_request():
    return [tool["name"] for tool in requests[0]["tools"] if tool["name"] in NAMES]


(project / ".claude").mkdir()
settings = {"hooks": {"PreToolUse": [hook(matcher) for matcher in NAMES]}}
(project / ".claude" / "settings.json").write_text(json.dumps(settings))
frames = ask_alone("go")
(init,) = [frame for frame in frames if frame.get("subtype") == "init"]
listed = [name for name in init["tools"] if name in NAMES]
called = [block["name"] for frame in frames if frame["type"] == "assistant" for block in frame["message"]["content"]
          if block["type"] == "tool_use"]
offered = names_in_request()
read = [json.loads((home / f"{matcher}.json").read_text())["tool_name"] for matcher in NAMES]
print(f"system/init: {listed[0]}; request: {offered[0]}; assistant frame: {called[0]}")
print(f"hook with the matcher Task reads: {read[0]}; hook with the matcher Agent reads: {read[1]}")
by_option = []
for option in ("--tools=Task", "--disallowedTools=Task"):
    requests.clear()
    ask_alone("do not delegate", option)
    by_option.append(names_in_request())
print(f"--tools=Task: {', '.join(by_option[0])} in the request; "
      f"--disallowedTools=Task: {', '.join(by_option[1]) or 'none'} in the request")
found = listed, offered, called, read, by_option
sys.exit(0 if found == (["Task"], ["Agent"], ["Agent"], ["Agent", "Agent"], [["Agent"], []]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
