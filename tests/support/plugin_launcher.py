"""A machine for tests of the plugin's launcher: a copy of the plugin, and a uv that waits."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ANSWER_TIMEOUT = 30.0
"""Seconds for a single answer."""

# A uv that makes an environment at once, with $STAND_IN as its Python, and installs into it as
# soon as the test has opened and closed $GATE.
UV = """#!/bin/sh
echo "$1 $2" >> "$UV_LOG"
if [ "$1" = venv ]; then
    for venv; do :; done
    mkdir -p "$venv/bin" && ln -s "$STAND_IN" "$venv/bin/python"
else
    test -z "$GATE" || cat "$GATE"
fi
"""

# Instead of the server: answers each request with its pid and its arguments.
SERVER = f"""#!{sys.executable}
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    result = {{"method": request["method"], "pid": os.getpid(), "argv": sys.argv[1:]}}
    print(json.dumps({{"id": request["id"], "result": result}}), flush=True)
"""


def copy_of_the_plugin(to: Path) -> Path:
    """Copy the files of the plugin; return the copy."""
    for folder in (".claude-plugin", "bin", "commands", "hooks", "plugin"):
        shutil.copytree(ROOT / folder, to / folder)
    for file in ("pyproject.toml", "src/agent_pool/hook.py", "src/agent_pool/mcp/tools.json"):
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, to / file)
    return to


def executable(path: Path, text: str) -> Path:
    """Write an executable file; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


class Launch:
    """A running launcher, as Claude Code sees it."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: socket.socket | None) -> None:
        self.process = process
        self._stdin = stdin
        self._buffer = b""

    def send(self, message: dict[str, Any], number: int = 0) -> None:
        """Write a request to stdin."""
        data = json.dumps({"jsonrpc": "2.0", "id": number, **message}).encode() + b"\n"
        if self._stdin is not None:
            self._stdin.sendall(data)
        else:
            assert self.process.stdin is not None
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Read the next answer; fail after `ANSWER_TIMEOUT` seconds."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            assert select.select([self.process.stdout], [], [], ANSWER_TIMEOUT)[0], "no answer"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, "it ended without an answer"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line))

    def ask(self, message: dict[str, Any], number: int = 0) -> dict[str, Any]:
        """Send a request; return its answer."""
        self.send(message, number)
        return self.answer()

    def close(self) -> int:
        """Close stdin; return the exit status."""
        if self._stdin is not None:
            self._stdin.close()
        elif self.process.stdin is not None:
            self.process.stdin.close()
        return self.process.wait(ANSWER_TIMEOUT)


class PluginMachine:
    """A copy of the plugin, its data folder, and a uv that waits at a gate."""

    def __init__(self, root: Path) -> None:
        self.plugin = copy_of_the_plugin(root / "the plugin")
        self.data = root / "data"
        self.gate = root / "gate"
        self.uv_log = root / "uv.log"
        self.uv = executable(root / "bin" / "uv", UV)
        os.mkfifo(self.gate)
        self.environ = {
            "PATH": f"{self.uv.parent}:/usr/bin:/bin",
            "HOME": str(root),
            "AGENT_POOL_DAEMON": "off",
            "CLAUDE_PLUGIN_DATA": str(self.data),
            "UV_LOG": str(self.uv_log),
            "GATE": str(self.gate),
            "STAND_IN": str(executable(root / "server", SERVER)),
        }
        self._started: list[Launch] = []

    def start(self, *, pipe: bool = False, **environ: str) -> Launch:
        """Start the launcher, on a socket like Claude Code or on a pipe."""
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(self.plugin / "plugin" / "launch.py")],
            stdin=subprocess.PIPE if pipe else theirs.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environ, **environ},
            start_new_session=True,
        )
        theirs.close()
        if pipe:
            ours.close()
        self._started.append(Launch(process, None if pipe else ours))
        return self._started[-1]

    def open_gate(self) -> None:
        """Wait until the installation is at the gate, and let it continue."""
        with self.gate.open("wb"):
            pass

    def wait_for_installer(self) -> None:
        """Wait until no installation is running."""
        with (self.data / "install.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def install(self) -> None:
        """Install the server by a first start."""
        launch = self.start(GATE="")
        assert launch.ask({"method": "ping"})["result"]["method"] == "ping"
        launch.close()

    def venvs(self) -> list[Path]:
        """Return the folders of environments."""
        return [path for path in self.data.iterdir() if path.is_dir()]

    def installations(self) -> int:
        """Count the installations so far."""
        return self.uv_log.read_text().splitlines().count("pip install")

    def end(self) -> None:
        """Kill all launchers that still run."""
        os.close(os.open(self.gate, os.O_RDWR | os.O_NONBLOCK))  # lets a waiting uv continue
        self.gate.unlink()
        for launch in self._started:
            if launch.process.poll() is None:
                launch.process.kill()
            launch.close()
            assert launch.process.stdout is not None
            assert launch.process.stderr is not None
            launch.process.stdout.close()
            launch.process.stderr.close()
