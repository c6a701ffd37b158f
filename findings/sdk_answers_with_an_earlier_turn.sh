#!/usr/bin/env bash
# claude-agent-sdk 0.2.189 (Claude Code 2.1.332): when a background command ends, the CLI starts a turn that nobody
# asked for. ClaudeSDKClient keeps its messages, and receive_response() ends at the first result, which by its
# docstring means that the response is complete. So the next question gets the words of that turn, and each later question
# the answer to the question before. Nothing is raised; one answer stays unread. `origin` of the result tells the
# turns apart; only a `uuid` in the prompt, which query(TEXT) does not send, tells which result answers it.
#
# Output seen:
#   question 1: 'about the background command', origin task-notification
#   question 2: 'answer 1', origin None
#   left over: 'answer 2', origin None
#   results with a prompt's uuid: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189
cat > "$folder/try.py" <<'PYTHON'
import asyncio, json, os, re, sys, threading, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import claude_agent_sdk
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
seen = []


def tool_use(name, **given):
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": name, "input": given}


def answer(body):
    """Start a command in the background for START; else answer the newest of the prompts."""
    last = json.dumps([message for message in body["messages"] if message["role"] == "user"][-1])
    if "tool_result" in last:
        text = "started"
    elif "START" in last:
        return [tool_use("Bash", command="sleep 1", run_in_background=True)]
    elif "task-notification" in last:
        text = "about the background command"
    else:
        text = "answer " + re.findall(r"question (\d)", last)[-1]
    return [{"type": "text", "text": text}]


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


async def main():
    options = ClaudeAgentOptions(cli_path=CLI, cwd=project, env=env, permission_mode="bypassPermissions")
    async with ClaudeSDKClient(options) as client:

        async def ask(prompt):
            await client.query(prompt)
            return await answered()

        async def answered():
            async for message in client.receive_response():
                if isinstance(message, ResultMessage):
                    return message

        await ask("START")
        while not any("task-notification" in json.dumps(body["messages"]) for body in seen):
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        first, second = await ask("question 1"), await ask("question 2")
        return first, second, await asyncio.wait_for(answered(), 20)


results = asyncio.run(main())
found = [(result.result, (result.origin or {}).get("kind")) for result in results]
for label, (text, origin) in zip(("question 1", "question 2", "left over"), found):
    print(f"{label}: {text!r}, origin {origin}")
stamped = sum(bool(result.user_message_uuid or result.user_message_uuids) for result in results)
print(f"results with a prompt's uuid: {stamped}")
expected = [("about the background command", "task-notification"), ("answer 1", None), ("answer 2", None)]
sys.exit(0 if found == expected and stamped == 0 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
