"""Finds the daemon, and starts it if there is none.

Only the standard library, `runtime` and `client.environment`: the MCP relay imports this module,
and a session's relay must stay small.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from agent_pool import runtime
from agent_pool.client.environment import client_environment
from agent_pool.errors import ConfigError, DaemonUnavailable
from agent_pool.runtime import DaemonAddress

START_TIMEOUT: Final = 30.0
"""Seconds in which a daemon must have started; it takes less than one on an idle machine."""
POLL_SECONDS: Final = 0.02
DRAIN_WAIT: Final = 5.0
"""Seconds to wait for a daemon that finishes its running tasks."""
ENDING: Final = "ending"
"""The word in the lock file of such a daemon."""
ANSWER_TIMEOUT: Final = 5.0
"""Seconds for one small request to the daemon."""
MOST_STARTS: Final = 3
"""Starts by one caller; another starter, or a daemon that just ends, can be in the way of one."""
LOG_NAME: Final = "daemon.log"
TAIL_LINES: Final = 5
_TAIL_BYTES: Final = 4096
_MAX_REPLY: Final = 1 << 20
_DEPTH: Final = "AGENT_POOL_DEPTH"
_NOT_INHERITED: Final = frozenset(
    f"AGENT_POOL_{name}" for name in ("COOKIE", "DAEMON", "DEPTH", "PROJECT_DIR", "SERVER")
)
"""Variables of the pool that belong to one client, and not to the daemon."""
_SETTINGS: Final = ("AGENTS_DIR", "SKILLS_DIR", "EXPERTISE_DIR", "CLAUDE_CLI", "TASK_TIMEOUT_MS")
_DISTRIBUTION: Final = "claude_agent_pool-"


class Reply(NamedTuple):
    """The daemon's answer to a small request: the HTTP status and the body."""

    status: int
    body: bytes


def ensure_daemon(
    environ: Mapping[str, str], timeout: float = START_TIMEOUT, version: str | None = None
) -> DaemonAddress:
    """Return the address of a running daemon; start one if there is none.

    An outdated daemon, which has an older version or read another content of the settings file,
    is asked to finish its tasks, and a new one is started. Blocks, so call it in a thread.

    Args:
        environ: the environment of the caller.
        timeout: seconds until the daemon must have an address.
        version: the version of the caller; by default that of the package.

    Raises:
        DaemonUnavailable: there is no daemon that this caller can use, and none can be started.
        ConfigError: the runtime folder or the state folder cannot be used.
    """
    began = time.monotonic()
    deadline = began + timeout
    folder = runtime.runtime_folder(environ)
    wanted = package_version() if version is None else version
    starts = 0
    while True:
        address = usable_daemon(environ)
        if address is not None:
            if not _is_outdated(address, environ, wanted):
                return address
            _drain(address)
        elif not runtime.is_locked(folder) and starts < MOST_STARTS:
            starts += 1
            _start(environ, deadline)
            continue
        else:
            deadline = min(deadline, _ending_deadline(folder, began))
        if time.monotonic() > deadline:
            raise DaemonUnavailable(_explain_delay(environ, folder))
        time.sleep(POLL_SECONDS)


def _ending_deadline(folder: Path, began: float) -> float:
    """Return when to wait no longer for a daemon that finishes its tasks: they can take minutes."""
    return began + DRAIN_WAIT if lock_state(folder)[1] == ENDING else float("inf")


def lock_state(folder: Path) -> tuple[int, str]:
    """Return the pid and the state that the holder of the lock last wrote; 0 and "" without."""
    with suppress(OSError, ValueError):
        pid, state = (folder / runtime.LOCK_FILE).read_text().split()
        return int(pid), state
    return 0, ""


def _explain_delay(environ: Mapping[str, str], folder: Path) -> str:
    pid, state = lock_state(folder)
    if runtime.is_locked(folder) and state == ENDING:
        return (
            f"the daemon (pid {pid}) finishes its running tasks, and the next one can start after "
            "that; try again later, or end them with `agent-pool daemon stop --now`"
        )
    return _explain(environ, "has no address in time")


def usable_daemon(environ: Mapping[str, str]) -> DaemonAddress | None:
    """Return the address of the running daemon; None if none runs, or none accepts connections.

    Raises:
        DaemonUnavailable: it was started with other settings than those of `environ`.
    """
    address = runtime.find_daemon(environ)
    # The file can be that of a daemon that was killed, while the next one has the lock already.
    if address is None or not accepts(address):
        return None
    if not runtime.fits_scope(runtime.config_scope(environ), address.scope):
        raise DaemonUnavailable(
            f"the running daemon (pid {address.pid}) was started with other settings: another "
            "HOME, CLAUDE_CONFIG_DIR or AGENT_POOL_* variable. Use the same, or stop it with "
            "`agent-pool daemon stop`"
        )
    return address


def accepts(address: DaemonAddress) -> bool:
    """Check whether the process of this address accepts connections, and is this user's."""
    try:
        with connect(address) as connection:
            found = peer_credentials(connection)
    except OSError:
        return False
    return found is None or found == (address.pid, os.getuid())


def connect(address: DaemonAddress, timeout: float = ANSWER_TIMEOUT) -> socket.socket:
    """Connect to the daemon's HTTP socket.

    Raises:
        OSError: nothing listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(address.http_socket)
    except BaseException:
        connection.close()
        raise
    return connection


def peer_credentials(connection: socket.socket) -> tuple[int, int] | None:
    """Return pid and uid of the process at the other end; None where the system does not say."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, 12))
    return pid, uid


def ask(address: DaemonAddress, method: str, path: str, timeout: float = ANSWER_TIMEOUT) -> Reply:
    """Send the daemon a request without a body, on its Unix socket.

    `http.client` would make a relay a megabyte larger.

    Raises:
        DaemonUnavailable: it does not answer.
    """
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    try:
        with connect(address, timeout) as connection:
            connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            data = bytearray()
            while len(data) < _MAX_REPLY and (part := connection.recv(65536)):
                data += part
    except OSError as error:
        raise DaemonUnavailable(
            f"the daemon (pid {address.pid}) does not answer: {error or type(error).__name__}"
        ) from None
    first, _, rest = bytes(data).partition(b"\r\n")
    words = first.split()
    if len(words) < 2 or not words[1].isdigit():
        raise DaemonUnavailable(f"the daemon (pid {address.pid}) sent no answer to {path}")
    return Reply(int(words[1]), rest.partition(b"\r\n\r\n")[2])


def package_version() -> str:
    """Return the version of agent-pool on this disk; ``unknown`` if it is not installed.

    From the name of the folder that the installer wrote: `importlib.metadata` needs 35 ms and
    makes a relay 6 MB larger.
    """
    for place in sys.path:
        try:
            names = os.listdir(place or ".")  # noqa: PTH208 - no more than names is needed
        except OSError:
            continue
        for name in names:
            if name.startswith(_DISTRIBUTION) and name.endswith(".dist-info"):
                return name.removeprefix(_DISTRIBUTION).removesuffix(".dist-info")
    return "unknown"


def is_older(version: str, other: str) -> bool:
    """Check whether a version comes before another one: 0.9.1 before 0.10.0."""
    return _numbers(version) < _numbers(other)


def _numbers(version: str) -> list[int]:
    parts = version.split(".")
    return [int("".join(filter(str.isdecimal, part)) or 0) for part in parts]


def _is_outdated(address: DaemonAddress, environ: Mapping[str, str], version: str) -> bool:
    # Not every other version: two installations would replace each other's daemon for ever.
    if is_older(address.version, version):
        return True
    return address.stamp != runtime.config_stamp(environ)


def _drain(address: DaemonAddress) -> None:
    reply = ask(address, "POST", "/v1/daemon/drain")
    if reply.status not in (200, 202):
        raise DaemonUnavailable(
            f"the outdated daemon (pid {address.pid}) refused to be replaced: {reply.status} "
            f"{reply.body.decode('utf-8', 'replace')[:300]}"
        )


def daemon_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a daemon that a caller with this environment starts."""
    own = {
        name: value
        for name, value in environ.items()
        if name in _SETTINGS or (name.startswith("AGENT_POOL_") and name not in _NOT_INHERITED)
    }
    return {**client_environment(environ), **own}


def _start(environ: Mapping[str, str], deadline: float) -> None:
    """Start a daemon in the background, and wait until it is ready or another one has the lock.

    Raises:
        DaemonUnavailable: it ended, or was not ready in time.
        ConfigError: a folder cannot be used.
    """
    if environ.get(_DEPTH, "0") not in ("", "0"):
        raise DaemonUnavailable(
            "no daemon runs, and a process of a worker never starts one; start it outside with "
            "`agent-pool daemon start`"
        )
    import subprocess  # only a starter needs it

    runtime.make_private(runtime.runtime_folder(environ))
    log = log_file(environ)
    try:
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DaemonUnavailable(f"the daemon's log cannot be written: {error}") from None
    try:
        # -P: the working folder `/` is not searched for modules.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "agent_pool", "daemon", "run", "--detach"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            cwd="/",
            env=daemon_environment(environ),
            start_new_session=True,
        )
    except OSError as error:
        raise DaemonUnavailable(f"the daemon cannot be started: {error}") from None
    finally:
        os.close(output)
    try:
        # This process only forks the daemon; it ends when that one is ready, or has failed.
        status = process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise DaemonUnavailable(_explain(environ, "was not ready in time")) from None
    if status:
        raise DaemonUnavailable(_explain(environ, f"ended with exit status {status}"))


def log_file(environ: Mapping[str, str]) -> Path:
    """Return the daemon's log file, in a folder that exists.

    Raises:
        ConfigError: the folder cannot be used.
    """
    return runtime.make_private(runtime.state_folder(environ)) / LOG_NAME


def log_tail(path: Path, lines: int = TAIL_LINES, max_bytes: int = _TAIL_BYTES) -> str:
    """Return the last lines of the log; empty if it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - max_bytes))
        text = file.read().decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])
    return ""


def _explain(environ: Mapping[str, str], problem: str) -> str:
    try:
        path = log_file(environ)
    except ConfigError as error:
        return f"the daemon {problem}; {error}"
    tail = log_tail(path)
    ending = f" ends with:\n{tail}" if tail else " is empty"
    return f"the daemon {problem}; its log {path}{ending}"
