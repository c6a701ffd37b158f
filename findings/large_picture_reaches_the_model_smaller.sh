#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189), stream-json input: a picture in a prompt that is wider or higher than
# 2,000 pixels is made smaller before it is sent, and a text with the factor is added behind the caller's own text. A
# program that asks for positions can get those in the smaller picture or in the original; the frames on
# stdout show neither the new picture nor the text. A picture of at most 2,000 pixels is sent byte for byte.
#
# Output seen:
#   1000x500:  sent as 1000x500, same bytes: True, texts added: 0
#   3000x1500: sent as 2000x1000, same bytes: False, texts added: 1
#   the factor is in the added text: True; in a frame on stdout: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189
cat > "$folder/try.py" <<'PYTHON'
import base64, json, os, struct, subprocess, sys, threading, uuid, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import claude_agent_sdk

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
requests = []


def text(words):
    return [{"type": "text", "text": words}], {"stop_reason": "end_turn"}


def answer(body):
    return text("done")


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


def picture(width, height):
    """Return a PNG of one colour for each row."""
    rows = b"".join(b"\0" + bytes([row % 256, 100, 200]) * width for row in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


found = []
for width, height in ((1000, 500), (3000, 1500)):
    given = base64.b64encode(picture(width, height)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": given}
    requests.clear()
    frames = ask_alone([{"type": "image", "source": source}, {"type": "text", "text": "Where is the button?"}])
    blocks = [block for message in requests[-1]["messages"] if message["role"] == "user" for block in message["content"]]
    (image,) = [block for block in blocks if block["type"] == "image"]
    sent = image["source"]["data"]
    size = struct.unpack(">II", base64.b64decode(sent)[16:24])
    after = [block["text"] for block in blocks[blocks.index(image) + 1 :]][1:]
    found.append((size, sent == given, len(after)))
    place = f"{width}x{height}:"
    print(f"{place:10} sent as {size[0]}x{size[1]}, same bytes: {sent == given}, texts added: {len(after)}")
factor = "1.5" in after[0], "1.5" in json.dumps(frames[:-1])
print(f"the factor is in the added text: {factor[0]}; in a frame on stdout: {factor[1]}")
expected = [((1000, 500), True, 0), ((2000, 1000), False, 1)]
sys.exit(0 if (found, factor) == (expected, (True, False)) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
