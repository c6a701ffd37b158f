"""The first line on a connection of an MCP relay: it tells the daemon about the client.

Only the standard library: the MCP relay imports this module, and a session's relay must stay small.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

from agent_pool.client.environment import client_environment
from agent_pool.errors import ConfigError, DaemonUnavailable
from agent_pool.runtime import config_scope

PROTOCOL: Final = 1
"""The number of the relay's protocol; a daemon refuses any other one."""
PROJECT_HEADER: Final = "x-agent-pool-project"
"""The header of MCP over HTTP with the project's absolute folder, percent-encoded."""
CLIENT_PID_HEADER: Final = "x-agent-pool-client-pid"
"""The header of MCP over HTTP with the pid of the client."""
MAX_HELLO: Final = 1 << 20
"""Bytes of the line; an environment has at most some 100 KB where programs can be started."""

_TYPES: Final[Mapping[str, type]] = {
    "protocol": int,
    "folder": str,
    "is_named": bool,
    "session": str,
    "client_pid": int,
    "environment": dict,
    "scope": str,
    "is_resumed": bool,
}


class RelayHello(NamedTuple):
    """What the line holds.

    Attributes:
        folder: the absolute folder of the client's project.
        is_named: the folder was named; otherwise it is only the working directory.
        session: the id of the Claude Code session; empty for other clients.
        client_pid: the process that started the relay.
        environment: the client's environment, without variables of its session.
        scope: see `runtime.config_scope`.
        is_resumed: the client was served by another daemon before.
        protocol: see `PROTOCOL`.
    """

    folder: str
    is_named: bool
    session: str
    client_pid: int
    environment: Mapping[str, str]
    scope: str
    is_resumed: bool = False
    protocol: int = PROTOCOL

    def __repr__(self) -> str:  # the environment holds secrets
        return f"RelayHello(folder={self.folder!r}, client_pid={self.client_pid})"

    @classmethod
    def of(cls, environ: Mapping[str, str], project: str | None = None) -> Self:
        """Describe the client of this process; `project` wins over the variables."""
        named = (
            project or environ.get("AGENT_POOL_PROJECT_DIR") or environ.get("CLAUDE_PROJECT_DIR")
        )
        return cls(
            os.path.abspath(named or "."),  # noqa: PTH100 - `resolve` would follow links
            bool(named),
            environ.get("CLAUDE_CODE_SESSION_ID", ""),
            os.getppid(),
            client_environment(environ),
            config_scope(environ),
        )

    def line(self) -> bytes:
        """Return the line, with its end."""
        fields: dict[str, Any] = {**self._asdict(), "environment": dict(self.environment)}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Read the line of a relay.

        Raises:
            ConfigError: it is not the line of a relay with this protocol.
        """
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise ConfigError("the first line is not JSON; expected the line of a relay") from None
        if not isinstance(found, dict):
            raise ConfigError("the first line is no JSON object; expected the line of a relay")
        for name, kind in _TYPES.items():
            if type(found.get(name)) is not kind:
                raise ConfigError(f"the line of a relay has no {name}, or one of another type")
        if found["protocol"] != PROTOCOL:
            raise ConfigError(
                f"the relay has the protocol {found['protocol']}, the daemon has {PROTOCOL}: they "
                "are of two versions of agent-pool. Start the session again"
            )
        hello = cls(**{name: found[name] for name in _TYPES})
        if not all(type(value) is str for value in hello.environment.values()):
            raise ConfigError("the environment in the line of a relay has a value that is no text")
        if not hello.folder.startswith("/") or "\0" in hello.folder:
            raise ConfigError("the folder in the line of a relay is not absolute")
        return hello


def acceptance(reason: str = "") -> bytes:
    """Return the daemon's answer to the line; with a reason it refuses the client."""
    return json.dumps({"is_accepted": not reason, "reason": reason}).encode() + b"\n"


def check_acceptance(line: bytes) -> None:
    """Do nothing if the daemon has accepted the client.

    Raises:
        DaemonUnavailable: it has refused the client; the message says why.
    """
    try:
        answer = json.loads(line)
        is_accepted, reason = answer["is_accepted"] is True, str(answer["reason"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DaemonUnavailable(f"the daemon answered {line[:100]!r}, not a greeting") from None
    if not is_accepted:
        raise DaemonUnavailable(reason or "the daemon refused this client")
