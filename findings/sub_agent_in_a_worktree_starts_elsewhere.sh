#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): a sub-agent whose file says `isolation: worktree` gets a worktree of
# the last commit. It starts at the top of the repository, also if the session is in a subfolder, so relative paths in
# its task lead elsewhere; what is not committed is missing there; and the repository's hook `post-checkout`, which `git
# worktree add` runs, does not run. The same file given to `--agent` has no worktree: the work is done in the session's
# own folder, without a message.
#
# Output seen; the session is in the subfolder "package", whose file "a.txt" is edited and whose file "new.txt" is new:
#   as a sub-agent: in a worktree, at its top: True; package/a.txt: committed; package/new.txt is there: False
#   post-checkout has run: False
#   with --agent: in package: True; a.txt: edited
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

reports = {}
LOOK = 'for f in a.txt package/a.txt; do [ ! -e $f ] || cat $f; done; [ ! -e package/new.txt ] || echo new; echo "at $PWD"'


def answer(body):
    """Let the agent "worker" look around; without it, call it as a sub-agent."""
    is_worker = "WORKER" in json.dumps(body["system"])
    last = [message for message in body["messages"] if message["role"] == "user"][-1]["content"]
    results = [block for block in last if block["type"] == "tool_result"] if isinstance(last, list) else []
    if results:
        if is_worker:
            reports["worker"] = str(results[0]["content"])
        return text("done")
    if is_worker:
        return calls(tool_use("Bash", command=LOOK, description="d"))
    return calls(tool_use("Agent", description="d", prompt="go", subagent_type="worker", run_in_background=False))


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


def git(*arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)


git("init", "-q", "-b", "main")
package = project / "package"
package.mkdir()
(package / "a.txt").write_text("committed\n")
git("add", ".")
git("commit", "-qm", "first")
(package / "a.txt").write_text("edited\n")
(package / "new.txt").write_text("new\n")
hook = project / ".git" / "hooks" / "post-checkout"
hook.parent.mkdir(exist_ok=True)
hook.write_text(f"#!/bin/sh\ntouch '{home}/hook-has-run'\n")
hook.chmod(0o755)
agents = project / ".claude" / "agents"
agents.mkdir(parents=True)
(agents / "worker.md").write_text("---\nname: worker\ndescription: d\nisolation: worktree\n---\nWORKER\n")
ask_alone("go", cwd=package)
*words, place = reports.pop("worker").split("\n")
folder = Path(place.removeprefix("at "))
sub_agent = folder.parent == (project / ".claude" / "worktrees").resolve(), words
has_run = (home / "hook-has-run").exists()
print(f"as a sub-agent: in a worktree, at its top: {sub_agent[0]}; package/a.txt: {words[0]}; "
      f"package/new.txt is there: {'new' in words}")
print(f"post-checkout has run: {has_run}")
ask_alone("go", "--agent=worker", cwd=package)
*words, place = reports.pop("worker").split("\n")
main_agent = Path(place.removeprefix("at ")) == package.resolve(), words
print(f"with --agent: in package: {main_agent[0]}; a.txt: {words[0]}")
expected = (True, ["committed"]), False, (True, ["edited"])
sys.exit(0 if (sub_agent, has_run, main_agent) == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
