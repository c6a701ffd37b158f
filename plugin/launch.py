"""Starts the plugin's MCP server; installs it first, where that has not been done.

    python3 -I launch.py            for Claude Code: the MCP server on stdin and stdout
    python3 -I launch.py install    the installation alone, told on stdout

The server gets a virtual environment of its own in CLAUDE_PLUGIN_DATA, made with uv if there is
one and with venv and pip otherwise. This folder is installed into it as "editable", so the code is
always this folder's; a change of pyproject.toml asks for a new environment.

An installation can take longer than Claude Code waits for a server, and longer than its session
lasts. So it is a process of its own that ends when it is done, and meanwhile this one says to
Claude Code which tools there will be. What else Claude Code sends is left where it is, in the
socket, for the server: this process becomes it as soon as it can.

Standard library alone, for Python 3.8 and later: the server needs 3.11, and who has none should be
told so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = ">=3.11"
PYTHONS = ("python3", "python3.13", "python3.12", "python3.14", "python3.11")
PROBE = (
    "import ensurepip, os, sys, venv; assert sys.version_info >= (3, 11); "
    "print(os.path.realpath(sys.executable))"
)
PROBE_TIMEOUT = 30  # seconds for a Python to say what it is
STEP_TIMEOUT = 900  # seconds for a step of the installation
UNUSED = 30 * 24 * 3600  # seconds after which an environment of another version is removed
POLL = 0.1
MAX_LINE = 64 * 1024  # bytes; what asks for the tools is far shorter
PROTOCOL = "2026-07-28"


def main() -> NoReturn:
    """Become the server, or tell Claude Code what prevents it."""
    try:
        place = Place(data_folder(), ROOT)
        if not place.is_ready():
            wait_for_installation(place)
        os.utime(place.mark)
        os.execv(place.python, [str(place.python), "-I", "-m", "agent_pool", "serve"])
    except (LaunchError, OSError) as error:
        tell(str(error))
        refuse(f"agent-pool cannot start: {error}")


class LaunchError(Exception):
    """What a user must know and can change."""


class Place:
    """Where the environment of one version of one folder is.

    Args:
        data: the folder that holds all of them.
        root: the plugin's folder, which is installed.
    """

    def __init__(self, data: Path, root: Path) -> None:
        source = os.fsencode(root) + b"\0" + (root / "pyproject.toml").read_bytes()
        self.data = data
        self.root = root
        self.venv = data / hashlib.sha256(source).hexdigest()[:16]
        self.python = self.venv / "bin" / "python"
        self.mark = self.venv / "complete"  # the last thing that an installation makes
        self.log = data / "install.log"

    def is_ready(self) -> bool:
        """Whether the installation was finished and its Python is still on this machine."""
        return self.mark.exists() and os.access(self.python, os.X_OK)


def data_folder() -> Path:
    """A folder that outlives updates of the plugin."""
    named = os.environ.get("CLAUDE_PLUGIN_DATA")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "agent-pool" / "plugin"


def wait_for_installation(place: Place) -> None:
    """Have it installed, by another process, and answer Claude Code until that is done."""
    place.data.mkdir(parents=True, exist_ok=True)
    tell(f"being installed in {place.venv}; see {place.log}")
    with place.log.open("ab") as log:
        installer = subprocess.Popen(
            [sys.executable, "-I", __file__, "install"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=place.data,  # not the project, whose pyproject.toml or uv.toml is not for us
            start_new_session=True,
        )
    client = WaitingClient()
    while installer.poll() is None:
        client.attend(POLL)
    if installer.returncode != 0 or not place.is_ready():
        raise LaunchError(f"its installation failed: {complaint(place.log)} (see {place.log})")


class WaitingClient:
    """Claude Code, which waits for its server on the other end of stdin.

    Nothing is read but questions that are answered here: the rest must still be there for the
    server. That takes a socket, which is what Claude Code gives its servers; before a pipe, and
    before an older Claude Code, which begins with `initialize`, this only waits.
    """

    def __init__(self) -> None:
        self._stdin: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._stdin = socket.socket(fileno=os.dup(0))

    def attend(self, seconds: float) -> None:
        """Answer at most one request that comes within so many seconds."""
        if self._stdin is None:
            time.sleep(seconds)
        elif select.select([self._stdin], [], [], seconds)[0] and not self._answer(self._stdin):
            self._stdin = None

    def _answer(self, stdin: socket.socket) -> bool:
        """Whether the next request may be one for us, too."""
        seen = stdin.recv(MAX_LINE, socket.MSG_PEEK)
        if not seen:
            sys.exit("agent-pool: Claude Code left")
        line, newline, _ = seen.partition(b"\n")
        if not newline:
            time.sleep(POLL)  # the rest of the line is on its way
            return len(seen) < MAX_LINE
        request = parsed(line)
        if request.get("method") == "server/discover":
            result = discovery()
        elif request.get("method") == "tools/list":
            result = tool_list()
        else:
            return False
        stdin.recv(len(line) + 1, socket.MSG_WAITALL)
        reply(request, result=result)
        return True


def discovery() -> dict[str, Any]:
    """What a server of the newest protocol says of itself."""
    return {
        "resultType": "complete",
        "supportedVersions": [PROTOCOL],
        # Whom listChanged is promised, subscribes to it before it asks for the tools.
        "capabilities": {
            "tools": {"listChanged": False},
            "extensions": {"io.modelcontextprotocol/tasks": {}},
        },
        "cacheScope": "private",
        "ttlMs": 0,
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "agent-pool", "version": "0"}},
    }


def tool_list() -> dict[str, Any]:
    """The tools that there will be."""
    tools = json.loads(Path(__file__).with_name("tools.json").read_text(encoding="utf-8"))
    return {"resultType": "complete", "tools": tools, "cacheScope": "private", "ttlMs": 0}


def refuse(problem: str) -> NoReturn:
    """Answer every request with the problem, until Claude Code leaves."""
    for line in sys.stdin.buffer:
        request = parsed(line)
        if "method" in request and "id" in request:
            reply(request, error={"code": -32603, "message": problem})
    sys.exit(1)


def parsed(line: bytes) -> dict[str, Any]:
    """The message in a line; an empty one when it is none."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def reply(request: dict[str, Any], **answer: Any) -> None:
    """Answer a request with a result or an error."""
    message = {"jsonrpc": "2.0", "id": request.get("id"), **answer}
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def tell(what: str) -> None:
    """Say something where it does not disturb the protocol."""
    sys.stderr.write(f"agent-pool: {what}\n")
    sys.stderr.flush()


def complaint(log: Path) -> str:
    """What was wrong, in the words of the tool that failed."""
    text = log.read_text(encoding="utf-8", errors="replace")
    for said in ("ERROR:", "error:"):  # pip's own, which are the last of many; uv's and ours
        _, found, after = text.rpartition(said)
        if found:
            return after.split("\n")[0].strip()
    return text.strip().rpartition("\n")[2] or "it said nothing"


def install() -> None:
    """Make the environment, unless another process has just made it; exits with 1 if it fails."""
    place = Place(data_folder(), ROOT)
    place.data.mkdir(parents=True, exist_ok=True)
    with (place.data / "install.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.is_ready():
            return
        with contextlib.suppress(OSError):
            os.ftruncate(1, 0)  # what earlier installations said
        if not install_into(place):
            sys.exit(1)
        place.mark.touch()
        remove_unused(place)


def install_into(place: Place) -> bool:
    """Whether it could be installed, by uv or else by venv and pip."""
    uv, python = shutil.which("uv"), find_python()
    if uv is None and python is None:
        tell(
            f"error: no Python {OLDEST_PYTHON} with venv was found among {', '.join(PYTHONS)}; "
            "install one (Debian and Ubuntu: with python3-venv), or uv"
        )
    with_uv = uv is not None and run_steps(place, *uv_steps(place, uv, python or OLDEST_PYTHON))
    return with_uv or (python is not None and run_steps(place, *pip_steps(place, python)))


def uv_steps(place: Place, uv: str, python: str) -> tuple[list[str], ...]:
    """How uv does it; `python` may be a version, which uv then finds or fetches."""
    return (
        [uv, "venv", "--no-project", "--python", python, str(place.venv)],
        [uv, "pip", "install", "--python", str(place.python), "--editable", str(place.root)],
    )


def pip_steps(place: Place, python: str) -> tuple[list[str], ...]:
    """How venv and pip do it."""
    pip = [str(place.python), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check"]
    return (
        [python, "-I", "-m", "venv", str(place.venv)],
        [*pip, "install", "--no-compile", "--editable", str(place.root)],
    )


def find_python() -> str | None:
    """The real path of a Python that is new enough and can make an environment."""
    for name in (sys.executable, *PYTHONS):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [name, "-I", "-c", PROBE],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=PROBE_TIMEOUT,
            )
            if done.returncode == 0:
                return os.fsdecode(done.stdout).strip()
    return None


def run_steps(place: Place, *steps: list[str]) -> bool:
    """Whether each command succeeded; they start without what earlier attempts left."""
    shutil.rmtree(place.venv, ignore_errors=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ["PIP_USER"] = "0"  # with 1 pip refuses to install into an environment
    for step in steps:
        tell(" ".join(step))
        try:
            subprocess.run(step, check=True, env=environ, timeout=STEP_TIMEOUT)
        except subprocess.CalledProcessError:
            return False  # it said why
        except (OSError, subprocess.TimeoutExpired) as error:
            tell(f"error: {error}")
            return False
    return True


def remove_unused(place: Place) -> None:
    """Remove the environments of other versions and folders that have long not been used."""
    for venv in place.data.iterdir():
        if venv == place.venv or not venv.is_dir():
            continue
        mark = venv / "complete"
        used = (mark if mark.exists() else venv).stat().st_mtime
        if time.time() - used > UNUSED:
            shutil.rmtree(venv, ignore_errors=True)


if __name__ == "__main__":
    install() if sys.argv[1:] == ["install"] else main()
