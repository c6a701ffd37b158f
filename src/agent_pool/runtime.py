"""Where the daemon of a user is: its folders, its sockets, and the file that describes it.

Only the standard library, and `platformdirs` where the system is not Linux: the MCP relay imports
this module, and a session's relay must stay small.

The runtime folder is private to its user (mode 0700). It holds ``daemon.json`` (mode 0600), two
Unix sockets and the lock that makes the daemon the only one. `AGENT_POOL_RUNTIME_DIR` and
`AGENT_POOL_STATE_DIR` name other folders.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from agent_pool.errors import ConfigError

try:
    # `hashlib` loads OpenSSL, which makes every relay 3.7 MB larger.
    from _blake2 import blake2b
except ImportError:  # a Python that was built without its own hash functions
    from hashlib import blake2b

DAEMON_SWITCH: Final = "AGENT_POOL_DAEMON"
"""The variable that is ``off`` where everything stays in one process."""
RUNTIME_DIR: Final = "AGENT_POOL_RUNTIME_DIR"
STATE_DIR: Final = "AGENT_POOL_STATE_DIR"

ADDRESS_FILE: Final = "daemon.json"
LOCK_FILE: Final = "daemon.lock"
HTTP_SOCKET: Final = "http.sock"
MCP_SOCKET: Final = "mcp.sock"
_SETTING_VARIABLES: Final = frozenset(
    ("AGENTS_DIR", "SKILLS_DIR", "EXPERTISE_DIR", "CLAUDE_CLI", "TASK_TIMEOUT_MS")
)
_OTHER_VARIABLES: Final = frozenset(
    f"AGENT_POOL_{name}"
    for name in ("COOKIE", "DAEMON", "DEPTH", "LOG", "PROJECT_DIR", "RUNTIME_DIR", "SERVER")
)
"""Variables that do not change what a daemon does for a client: a call names its project."""
_CLUSTER_VARIABLES: Final = frozenset(
    f"AGENT_POOL_{name}" for name in ("PROJECT_SOURCE", "RAY", "RAY_ENV", "RAY_WORKERS")
)
"""Variables that name the place of tasks; a client that has none leaves that to the daemon."""
_NAME: Final = "agent-pool"
MAX_ADDRESS: Final = 16 * 1024
"""Bytes of `ADDRESS_FILE`; a larger file is not one of ours."""


class DaemonAddress(NamedTuple):  # a dataclass imports `inspect`, 1.4 MB of every relay
    """How the daemon is reached.

    Attributes:
        pid: its process id.
        version: of agent-pool.
        started: when, in seconds since 1970.
        http_socket: the Unix socket of its HTTP server.
        mcp_socket: the Unix socket of MCP relays.
        url: its HTTP server on TCP, ``http://127.0.0.1:PORT``; empty before it listens.
        token: the bearer token for TCP; it changes with each start.
        scope: equal for clients that this daemon can serve, see `config_scope`.
        stamp: of its settings file, see `config_stamp`; another one means that it is outdated.
    """

    pid: int
    version: str
    started: float
    http_socket: str
    mcp_socket: str
    url: str
    token: str
    scope: str = ""
    stamp: str = ""

    def __repr__(self) -> str:
        return f"DaemonAddress(pid={self.pid}, version={self.version!r}, url={self.url!r})"


def is_daemon_wanted(environ: Mapping[str, str]) -> bool:
    """Return whether clients use a daemon: unless ``AGENT_POOL_DAEMON`` is ``off``.

    Raises:
        ConfigError: the variable has another value than ``on`` and ``off``.
    """
    value = environ.get(DAEMON_SWITCH, "") or "on"
    if value not in ("on", "off"):
        raise ConfigError(f"{DAEMON_SWITCH}: expected on or off, found {value!r}")
    return value == "on"


def config_scope(environ: Mapping[str, str]) -> str:
    """Return a text that is equal for environments with the same settings and the same user.

    A client whose scope does not fit the daemon's needs other settings than the daemon has, so it
    must not be served by it; see `fits_scope`.
    """
    home = _claude_home(environ)
    chosen = {name: environ[name] for name in environ if _is_setting(name)}
    user = (str(os.getuid()), environ.get("HOME", ""), str(home))
    cluster = sorted(repr(one) for one in chosen.items() if one[0] in _CLUSTER_VARIABLES and one[1])
    others = sorted(repr(one) for one in chosen.items() if one[0] not in _CLUSTER_VARIABLES)
    return ".".join([_digest_of([*user, *others]), *(_digest_of([one]) for one in cluster)])


def fits_scope(client: str, daemon: str) -> bool:
    """Check whether a daemon of one scope can serve a client of another one.

    The settings of both are the same, except that a client can leave it to the daemon where tasks
    run: the daemon can have been started with a cluster on its command line.
    """
    wanted, *chosen = client.split(".")
    found, *cluster = daemon.split(".")
    return wanted == found and set(chosen) <= set(cluster)


def _digest_of(parts: list[str]) -> str:
    return _digest("\0".join(parts).encode("utf-8", "surrogateescape"))


def config_stamp(environ: Mapping[str, str]) -> str:
    """Return a text that changes with the content of the settings file; empty without one."""
    path = environ.get("AGENT_POOL_CONFIG") or _claude_home(environ) / "agent-pool.toml"
    try:
        return _digest(Path(path).read_bytes())
    except OSError:
        return ""


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def _claude_home(environ: Mapping[str, str]) -> Path:
    # As `settings.claude_home`, whose module takes too long to import for a relay.
    named = environ.get("CLAUDE_CONFIG_DIR")
    return Path(named) if named else Path(environ.get("HOME") or Path.home()) / ".claude"


def _is_setting(name: str) -> bool:
    if name in _OTHER_VARIABLES:
        return False
    return name.startswith("AGENT_POOL_") or name in _SETTING_VARIABLES


def runtime_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the daemon's address and sockets; it need not exist."""
    if named := environ.get(RUNTIME_DIR):
        return Path(named)
    if sys.platform == "linux":
        # As `platformdirs`, which makes a relay 1.8 MB larger and warns on stderr. Always in /tmp:
        # clients with another TMPDIR must find the same daemon.
        own = f"/run/user/{os.getuid()}"
        places = (environ.get("XDG_RUNTIME_DIR", ""), own)
        found = next(filter(_is_private, places), f"/tmp/runtime-{os.getuid()}")
        return Path(found) / _NAME
    from platformdirs import user_runtime_path

    return user_runtime_path(_NAME)


def _is_private(folder: str) -> bool:
    """Check whether this is a folder of this user that no other one can enter."""
    try:
        found = os.stat(folder)  # noqa: PTH116 - an empty text is no folder
    except OSError:
        return False
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return is_own and stat.S_IMODE(found.st_mode) == 0o700


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the daemon's log and of the store of tasks; it need not exist."""
    if named := environ.get(STATE_DIR):
        return Path(named)
    if sys.platform == "linux":
        home = environ.get("HOME") or str(Path.home())
        named = environ.get("XDG_STATE_HOME", "")
        return Path(named if named.startswith("/") else f"{home}/.local/state") / _NAME
    from platformdirs import user_state_path

    return user_state_path(_NAME)


def make_private(folder: Path) -> Path:
    """Make a folder that only this user can enter, and return it.

    Raises:
        ConfigError: it cannot be made, is a link, or belongs to another user, or the folder that
            holds it does.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found, holder = folder.lstat(), folder.parent.stat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{folder}: expected a folder of this user, not a link; remove it")
        # Its owner could put another folder in its place.
        if holder.st_uid not in (os.getuid(), 0):
            raise ConfigError(f"{folder.parent}: belongs to another user (uid {holder.st_uid})")
        if stat.S_IMODE(found.st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made private: {error}") from None
    return folder


def write_address(folder: Path, address: DaemonAddress) -> None:
    """Write the address; a reader sees the old one or the new one, never a part.

    Raises:
        OSError: it cannot be written.
    """
    temporary = folder / f"{ADDRESS_FILE}.{address.pid}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(address._asdict(), file)
    temporary.replace(folder / ADDRESS_FILE)


def read_address(folder: Path) -> DaemonAddress | None:
    """Return the address that the folder holds; None if there is none, or it is not this user's.

    The daemon that wrote it can have died: see `is_locked`.
    """
    try:
        # Opened first: a check of the name alone could be about another file.
        descriptor = os.open(folder / ADDRESS_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            return None
        content = file.read(MAX_ADDRESS)
    try:
        data = json.loads(content)
        address = DaemonAddress(**{name: data[name] for name in DaemonAddress._fields})
    except (ValueError, KeyError, TypeError):
        return None
    return address if type(address.pid) is int and address.pid > 1 else None


def is_locked(folder: Path) -> bool:
    """Return whether a daemon runs: it holds the lock until its process has ended, however."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        # Shared: two clients that ask at the same moment must not take each other for a daemon.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def find_daemon(environ: Mapping[str, str]) -> DaemonAddress | None:
    """Return the address of the daemon that runs; None if none does."""
    folder = runtime_folder(environ)
    address = read_address(folder)
    return address if address is not None and is_locked(folder) else None
