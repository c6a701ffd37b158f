#!/usr/bin/env bash
# Claude Code 2.1.332 (in claude-agent-sdk 0.2.189): a stdio MCP server that is given by `--mcp-config` gets the
# values of `${NAME}` and `${NAME:-default}`; the same configuration in the control request `mcp_set_servers` is used
# as it is written, and no error says so. And a server that `mcp_set_servers` ends leaves the processes that it has
# started; if one of them has the server's pipes, the answer comes about 4 s later.
#
# Output seen:
#   --mcp-config: the server's variable is 'value default'
#   mcp_set_servers: the server's variable is '${GIVEN} ${NOT_GIVEN:-default}'
#   after mcp_set_servers without it: the server lives: False; what it has started lives: True; more than 2 s: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet claude-agent-sdk==0.2.189
cat > "$folder/try.py" <<'PYTHON'
import json, os, signal, subprocess, sys, time
from pathlib import Path

import claude_agent_sdk

CLI = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"


SERVER = """
import json, os, subprocess, sys
child = subprocess.Popen(["sleep", "60"])
with open(sys.argv[1], "w") as file:
    json.dump({"pid": os.getpid(), "child": child.pid, "word": os.environ["WORD"]}, file)
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        version = asked.get("params", {}).get("protocolVersion")
        info = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
        answers = {"initialize": info, "tools/list": {"tools": []}}
        body = {"result": answers[asked["method"]]} if asked["method"] in answers else {
            "error": {"code": -32601, "message": "unknown"}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **body}), flush=True)
"""
home = Path(sys.argv[1])
(home / ".claude").mkdir(parents=True)
env = {
    "PATH": os.environ["PATH"], "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"), "IS_SANDBOX": "1",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_API_KEY": "none", "GIVEN": "value",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
}
report = home / "report"
configured = {"one": {"command": sys.executable, "args": ["-c", SERVER, str(report)],
                      "env": {"WORD": "${GIVEN} ${NOT_GIVEN:-default}"}}}
(home / "servers.json").write_text(json.dumps({"mcpServers": configured}))


def start(*options):
    cli = subprocess.Popen(
        [CLI, "-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose", "--strict-mcp-config",
         "--no-session-persistence", *options],
        env=env, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    control(cli, subtype="initialize")
    return cli


def control(cli, **request):
    cli.stdin.write(json.dumps({"type": "control_request", "request_id": "r", "request": request}) + "\n")
    cli.stdin.flush()
    for line in cli.stdout:
        frame = json.loads(line)
        if frame["type"] == "control_response":
            return frame["response"]
    raise SystemExit("the CLI ended")


def started():
    for _ in range(600):
        try:
            return json.loads(report.read_text())
        except (FileNotFoundError, ValueError):
            time.sleep(0.05)
    raise SystemExit("the server was not started")


def lives(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


print("Claude Code", subprocess.run([CLI, "--version"], env=env, capture_output=True, text=True).stdout.strip())
cli = start(f"--mcp-config={home / 'servers.json'}")
by_file = started()
cli.kill()
os.kill(by_file["child"], signal.SIGKILL)
report.unlink()
cli = start()
control(cli, subtype="mcp_set_servers", servers=configured)
by_request = started()
began = time.monotonic()
control(cli, subtype="mcp_set_servers", servers={})
is_slow = time.monotonic() - began > 2
left = lives(by_request["pid"]), lives(by_request["child"]), is_slow
cli.kill()
os.kill(by_request["child"], signal.SIGKILL)
print(f"--mcp-config: the server's variable is {by_file['word']!r}")
print(f"mcp_set_servers: the server's variable is {by_request['word']!r}")
print("after mcp_set_servers without it: the server lives: {}; what it has started lives: {}; more than 2 s: {}"
      .format(*left))
expected = "value default", "${GIVEN} ${NOT_GIVEN:-default}", (False, True, True)
sys.exit(0 if (by_file["word"], by_request["word"], left) == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/home"
