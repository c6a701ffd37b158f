"""The file that lets the system start the daemon: a unit of systemd, or a job of launchd."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

UNIT: Final = "agent-pool.service"
LABEL: Final = "com.github.claude-agent-pool"
COMMAND_SECONDS: Final = 30.0
_KEPT: Final = ("PATH", "LANG", "CLAUDE_CONFIG_DIR", "CLAUDE_CLI")
"""Variables that a service does not get from the session. No secret: the file is readable."""
_KEPT_PREFIX: Final = "AGENT_POOL_"
_LEFT_OUT: Final = frozenset(
    f"AGENT_POOL_{name}" for name in ("COOKIE", "DAEMON", "DEPTH", "PROJECT_DIR", "SERVER")
)


@dataclass(frozen=True)
class Service:
    """A service of this user.

    Attributes:
        path: of its file.
        text: the content of the file.
        enabling: the commands that start it now and at each login.
        disabling: the commands that stop it for good.
    """

    path: Path
    text: str
    enabling: Sequence[Sequence[str]]
    disabling: Sequence[Sequence[str]]

    def enable(self) -> list[str]:
        """Run the commands as far as the system has them; return a line for each."""
        return [_run(command) for command in self.enabling]

    def disable(self) -> list[str]:
        """Run the commands as far as the system has them; return a line for each."""
        return [_run(command) for command in self.disabling]


def find_service(environ: Mapping[str, str]) -> Service:
    """Return the service for this system and environment."""
    return _launchd(environ) if sys.platform == "darwin" else _systemd(environ)


def write_service(service: Service) -> None:
    """Write the file.

    Raises:
        OSError: it cannot be written.
    """
    service.path.parent.mkdir(parents=True, exist_ok=True)
    service.path.write_text(service.text, encoding="utf-8")


def _arguments() -> list[str]:
    return [sys.executable, "-P", "-m", "agent_pool", "daemon", "run", "--stay"]


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(environ.items())
        if name in _KEPT or (name.startswith(_KEPT_PREFIX) and name not in _LEFT_OUT)
    }


def _systemd(environ: Mapping[str, str]) -> Service:
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "~")) / ".config")
    variables = "".join(
        f"Environment={_quoted(f'{name}={value}')}\n" for name, value in _variables(environ).items()
    )
    text = (
        "[Unit]\n"
        "Description=agent-pool: warm Claude Code agents for all sessions\n\n"
        "[Service]\n"
        f"ExecStart={' '.join(map(_quoted, _arguments())).replace('$', '$$')}\n"
        "ExecReload=/bin/kill -HUP $MAINPID\n"
        f"{variables}"
        # Not `always`: a daemon that was drained makes room for the next version.
        "Restart=on-failure\n"
        "RestartSec=5\n"
        # The daemon ends its workers itself; what is left after the time is killed.
        "KillMode=mixed\n"
        "TimeoutStopSec=60\n\n"
        "[Install]\n"
        "WantedBy=default.target\n"
    )
    control = ["systemctl", "--user"]
    return Service(
        home / "systemd" / "user" / UNIT,
        text,
        ([*control, "daemon-reload"], [*control, "enable", "--now", UNIT]),
        ([*control, "disable", "--now", UNIT], [*control, "daemon-reload"]),
    )


def _quoted(text: str) -> str:
    """Return a word of a unit file, where `%` has a meaning."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{safe}"'


def _launchd(environ: Mapping[str, str]) -> Service:
    path = Path(environ.get("HOME", "~")) / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    job = {
        "Label": LABEL,
        "ProgramArguments": _arguments(),
        "EnvironmentVariables": _variables(environ),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": 60,
    }
    domain = f"gui/{os.getuid()}"
    return Service(
        path,
        plistlib.dumps(job).decode(),
        (["launchctl", "bootstrap", domain, str(path)],),
        (["launchctl", "bootout", f"{domain}/{LABEL}"],),
    )


def _run(command: Sequence[str]) -> str:
    """Run a command; return a line about it."""
    shown = " ".join(command)
    if shutil.which(command[0]) is None:
        return f"left out    {shown}: there is no {command[0]}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"failed      {shown}: {error}"
    if done.returncode:
        return f"failed      {shown}: {(done.stderr or done.stdout).strip()}"
    return f"done        {shown}"
