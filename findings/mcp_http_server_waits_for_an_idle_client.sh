#!/usr/bin/env bash
# mcp 2.3.0 (uvicorn 0.54.0) and Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): Claude Code, connected by HTTP,
# holds one POST `subscriptions/listen` open all the time, also when it is idle. uvicorn waits for open
# responses without a limit, and MCPServer.run() neither closes these streams nor sets a limit. So a server that got
# SIGTERM lives until its last client leaves: a service manager waits, and kills it in the end.
# uvicorn's `timeout_graceful_shutdown` bounds the wait.
#
# Output seen:
#   run(), no client: ended within 10 s of SIGTERM: True
#   run(), idle client: ended within 10 s of SIGTERM: False, after the client had gone: True
#   timeout_graceful_shutdown=1, idle client: ended within 10 s of SIGTERM: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189 mcp==2.3.0 uvicorn==0.54.0
cat > "$folder/server.py" <<'PYTHON'
import sys

import uvicorn
from mcp.server import MCPServer

port, way = int(sys.argv[1]), sys.argv[2]
server = MCPServer("example")


@server.tool()
def hello() -> str:
    return "hello"


if way == "run":
    server.run(transport="streamable-http", port=port)
else:
    app = server.streamable_http_app()
    uvicorn.run(app, host="127.0.0.1", port=port, timeout_graceful_shutdown=1)
PYTHON
cat > "$folder/try.py" <<'PYTHON'
import json, os, socket, subprocess, sys, time
from pathlib import Path

import claude_agent_sdk

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
home = Path(sys.argv[1])
env = {
    "PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"), "IS_SANDBOX": "1",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
}


def start_server(way):
    """Start the server on a free port; return it and the port when it accepts connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(home / "server.py"), str(port), way]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, port
        time.sleep(0.1)
    raise SystemExit("the server did not start")


def start_client(port):
    """Start Claude Code without a prompt; return it when it is connected to the server."""
    servers = {"mcpServers": {"example": {"type": "http", "url": f"http://127.0.0.1:{port}/mcp"}}}
    cli = subprocess.Popen(
        [CLI, "-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose", "--strict-mcp-config",
         "--no-session-persistence", f"--mcp-config={json.dumps(servers)}"],
        env=env, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )

    def control(subtype):
        request = {"type": "control_request", "request_id": "r", "request": {"subtype": subtype}}
        cli.stdin.write(json.dumps(request) + "\n")
        cli.stdin.flush()
        for line in cli.stdout:
            frame = json.loads(line)
            if frame["type"] == "control_response":
                return frame["response"]["response"]
        raise SystemExit("the CLI ended")

    control("initialize")
    for _ in range(100):
        if control("mcp_status")["mcpServers"][0]["status"] == "connected":
            time.sleep(1)
            return cli
        time.sleep(0.1)
    raise SystemExit("the CLI did not connect")


def ends(process):
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        return False
    return True


def stop(way, with_client):
    """Send SIGTERM; return whether the server ends with the client there, and whether without it."""
    server, port = start_server(way)
    cli = start_client(port) if with_client else None
    server.terminate()
    ended = ends(server)
    if cli:
        cli.kill()
        cli.wait()
    after = ends(server)
    server.kill()
    return ended, after


print("Claude Code", subprocess.run([CLI, "--version"], env=env, capture_output=True, text=True).stdout.strip())
alone, idle, bounded = stop("run", False), stop("run", True), stop("bounded", True)
print(f"run(), no client: ended within 10 s of SIGTERM: {alone[0]}")
print(f"run(), idle client: ended within 10 s of SIGTERM: {idle[0]}, after the client had gone: {idle[1]}")
print(f"timeout_graceful_shutdown=1, idle client: ended within 10 s of SIGTERM: {bounded[0]}")
sys.exit(0 if (alone[0], idle, bounded[0]) == (True, (False, True), True) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
