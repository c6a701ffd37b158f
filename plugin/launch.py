"""Start the plugin's MCP server; install it first if that was not done yet.

    python3 -I launch.py            for Claude Code: the MCP server on stdin and stdout
    python3 -I launch.py install    only the installation, with its messages on stdout
    python3 -I launch.py command …  the command line, from the installed environment

The server gets a virtual environment of its own in CLAUDE_PLUGIN_DATA, made with uv if it is
installed, otherwise with venv and pip. This folder is installed into it as "editable", so the code
always comes from this folder; after a change of pyproject.toml a new environment is made.

An installation can take longer than Claude Code waits for a server, and longer than its session
lasts. So it runs in a process of its own. Until it is done, this process answers Claude Code's
questions about the tools. All other requests stay unread in the socket, for the server: this
process becomes the server as soon as it can.

Only the standard library, and code for Python 3.8 and later: the server needs 3.11, and a user
with an older Python must get a message that says so.
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
PROBE_TIMEOUT = 30  # seconds for the probe of one Python
STEP_TIMEOUT = 900  # seconds for a step of the installation
UNUSED = 30 * 24 * 3600  # seconds after which an environment of another version is removed
POLL = 0.1
MAX_LINE = 64 * 1024  # bytes; the requests for the tools are much shorter
PROTOCOL = "2026-07-28"


def main() -> NoReturn:
    """Become the server, or report to Claude Code why that is not possible."""
    try:
        place = Place(data_folder(), ROOT)
        if not place.is_ready():
            wait_for_installation(place)
        os.utime(place.mark)
        os.execv(place.python, [str(place.python), "-I", "-m", "agent_pool", "serve"])
    except (LaunchError, OSError) as error:
        tell(str(error))
        refuse(f"agent-pool cannot start: {error}")


def run_command(arguments: list[str]) -> NoReturn:
    """Become the command line of an installed environment; exit with 1 if there is none."""
    for folder in data_folders():
        place = Place(folder, ROOT)
        if place.is_ready():
            os.execv(place.python, [str(place.python), "-I", "-m", "agent_pool", *arguments])
    sys.exit(
        "agent-pool: not installed yet. The plugin's server installs it at its first start, which "
        "takes up to a minute; try again then. /mcp shows whether the server runs."
    )


class LaunchError(Exception):
    """A problem that the user can correct."""


class Place:
    """The paths of the environment for one version of one plugin folder.

    Args:
        data: the folder that holds all environments.
        root: the plugin's folder, which is installed.
    """

    def __init__(self, data: Path, root: Path) -> None:
        source = os.fsencode(root) + b"\0" + (root / "pyproject.toml").read_bytes()
        self.data = data
        self.root = root
        self.venv = data / hashlib.sha256(source).hexdigest()[:16]
        self.python = self.venv / "bin" / "python"
        self.mark = self.venv / "complete"  # made last, so it shows a finished installation
        self.log = data / "install.log"

    def is_ready(self) -> bool:
        """Check whether the installation was finished and its Python still exists."""
        return self.mark.exists() and os.access(self.python, os.X_OK)


def data_folder() -> Path:
    """Return the folder of the environments; updates of the plugin keep it."""
    named = os.environ.get("CLAUDE_PLUGIN_DATA")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "agent-pool" / "plugin"


def data_folders() -> list[Path]:
    """Return the folders in which the server of this plugin can have installed itself."""
    # The Bash tool does not name the data folder, whose name depends on the marketplace.
    home = os.environ.get("CLAUDE_CONFIG_DIR") or "~/.claude"
    return [data_folder(), *(Path(home).expanduser() / "plugins" / "data").glob("*")]


def wait_for_installation(place: Place) -> None:
    """Start the installation in another process, and answer Claude Code until it is done."""
    place.data.mkdir(parents=True, exist_ok=True)
    tell(f"installing in {place.venv}; see {place.log}")
    with place.log.open("ab") as log:
        installer = subprocess.Popen(
            [sys.executable, "-I", __file__, "install"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=place.data,  # not the project: its pyproject.toml or uv.toml would apply
            start_new_session=True,
        )
    client = WaitingClient()
    while installer.poll() is None:
        client.attend(POLL)
    if installer.returncode != 0 or not place.is_ready():
        raise LaunchError(f"its installation failed: {complaint(place.log)} (see {place.log})")


class WaitingClient:
    """Claude Code at the other end of stdin, while it waits for its server.

    Only requests that are answered here are read; all others must stay for the server. That needs
    a socket, which Claude Code gives its servers. With a pipe, or with an older Claude Code, which
    begins with `initialize`, this class only waits.
    """

    def __init__(self) -> None:
        self._stdin: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._stdin = socket.socket(fileno=os.dup(0))

    def attend(self, seconds: float) -> None:
        """Wait up to `seconds` for a request, and answer it if it is one for this class."""
        if self._stdin is None:
            time.sleep(seconds)
        elif select.select([self._stdin], [], [], seconds)[0] and not self._answer(self._stdin):
            self._stdin = None

    def _answer(self, stdin: socket.socket) -> bool:
        """Answer the next request if possible; return False if it is for the server."""
        seen = stdin.recv(MAX_LINE, socket.MSG_PEEK)
        if not seen:
            sys.exit("agent-pool: Claude Code closed the connection")
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
    """Return the answer to `server/discover` of the newest protocol."""
    return {
        "resultType": "complete",
        "supportedVersions": [PROTOCOL],
        # With listChanged the client would subscribe first, before it asks for the tools.
        "capabilities": {
            "tools": {"listChanged": False},
            "extensions": {"io.modelcontextprotocol/tasks": {}},
        },
        "cacheScope": "private",
        "ttlMs": 0,
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "agent-pool", "version": "0"}},
    }


def tool_list() -> dict[str, Any]:
    """Return the tools that the server will have; it lists the agents as soon as it runs."""
    file = ROOT / "src" / "agent_pool" / "mcp" / "tools.json"
    tools = json.loads(file.read_text(encoding="utf-8"))
    return {"resultType": "complete", "tools": tools, "cacheScope": "private", "ttlMs": 0}


def refuse(problem: str) -> NoReturn:
    """Answer every request with the problem, until Claude Code closes stdin."""
    for line in sys.stdin.buffer:
        request = parsed(line)
        if not request and line.strip():
            reply(request, error={"code": -32700, "message": "Parse error: not a JSON object"})
        elif "method" in request and "id" in request:
            reply(request, error={"code": -32603, "message": problem})
    sys.exit(1)


def parsed(line: bytes) -> dict[str, Any]:
    """Parse a line as a message; return an empty one if it is no message."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def reply(request: dict[str, Any], **answer: Any) -> None:
    """Answer a request with a result or an error."""
    message = {"jsonrpc": "2.0", "id": request.get("id"), **answer}
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def tell(what: str) -> None:
    """Write a line to stderr, where it does not disturb the protocol."""
    sys.stderr.write(f"agent-pool: {what}\n")
    sys.stderr.flush()


def complaint(log: Path) -> str:
    """Return the error message of the tool that failed, from the log."""
    text = log.read_text(encoding="utf-8", errors="replace")
    # pip writes several lines with "ERROR:", the cause last; uv and this file write "error:".
    for marker in ("ERROR:", "error:"):
        _, found, after = text.rpartition(marker)
        if found:
            return after.split("\n")[0].strip()
    return text.strip().rpartition("\n")[2] or "it wrote no message"


def install() -> None:
    """Make the environment unless another process has made it; exit with 1 if that fails."""
    place = Place(data_folder(), ROOT)
    place.data.mkdir(parents=True, exist_ok=True)
    with (place.data / "install.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.is_ready():
            return
        with contextlib.suppress(OSError):
            os.ftruncate(1, 0)  # remove the messages of earlier installations
        if not install_into(place):
            sys.exit(1)
        place.mark.touch()
        remove_unused(place)


def install_into(place: Place) -> bool:
    """Install with uv, else with venv and pip; return whether that succeeded."""
    uv, python = shutil.which("uv"), find_python()
    if uv is None and python is None:
        tell(
            f"error: no Python {OLDEST_PYTHON} with venv was found among {', '.join(PYTHONS)}; "
            "install one (Debian and Ubuntu: with python3-venv), or uv"
        )
    with_uv = uv is not None and run_steps(place, *uv_steps(place, uv, python or OLDEST_PYTHON))
    return with_uv or (python is not None and run_steps(place, *pip_steps(place, python)))


def uv_steps(place: Place, uv: str, python: str) -> tuple[list[str], ...]:
    """Return the commands for uv; it finds or downloads `python` if that is a version."""
    return (
        [uv, "venv", "--no-project", "--python", python, str(place.venv)],
        [uv, "pip", "install", "--python", str(place.python), "--editable", str(place.root)],
    )


def pip_steps(place: Place, python: str) -> tuple[list[str], ...]:
    """Return the commands for venv and pip."""
    pip = [str(place.python), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check"]
    return (
        [python, "-I", "-m", "venv", str(place.venv)],
        [*pip, "install", "--no-compile", "--editable", str(place.root)],
    )


def find_python() -> str | None:
    """Return the real path of a Python that is new enough and has venv; None if there is none."""
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
    """Run the commands in an empty folder; return whether all of them succeeded."""
    shutil.rmtree(place.venv, ignore_errors=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ["PIP_USER"] = "0"  # with 1 pip refuses to install into an environment
    for step in steps:
        tell(" ".join(step))
        try:
            subprocess.run(step, check=True, env=environ, timeout=STEP_TIMEOUT)
        except subprocess.CalledProcessError:
            return False  # the command has written the reason to the log
        except (OSError, subprocess.TimeoutExpired) as error:
            tell(f"error: {error}")
            return False
    return True


def remove_unused(place: Place) -> None:
    """Remove environments of other versions and folders that were not used for UNUSED seconds."""
    for venv in place.data.iterdir():
        if venv == place.venv or not venv.is_dir():
            continue
        mark = venv / "complete"
        used = (mark if mark.exists() else venv).stat().st_mtime
        if time.time() - used > UNUSED:
            shutil.rmtree(venv, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["command"]:
        run_command(sys.argv[2:])
    install() if sys.argv[1:] == ["install"] else main()
