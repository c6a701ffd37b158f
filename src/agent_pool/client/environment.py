"""The variables of a client: those that its tasks need, and how they differ from the daemon's.

A daemon serves sessions with different credentials, and its own environment is that of the client
that started it. So each client sends its variables, and a task gets those that differ. Two clients
that differ in one of them never share a worker.

Only the standard library: the MCP relay imports this module, and a session's relay must stay small.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

_SESSION: Final = re.compile(
    # As `claude.launch.SESSION_VARIABLES`, whose module takes too long to import for a relay.
    r"CLAUDECODE|CLAUDE_PID|CLAUDE_EFFORT|AI_AGENT|CLAUDE_PROJECT_DIR|CLAUDE_ENV_FILE"
    r"|CLAUDE_PLUGIN_\w+|CLAUDE_AGENT_SDK_\w+"
    r"|\w+_FILE_DESCRIPTOR|CCR_\w*TOKEN_FILE"
    r"|(?:CLAUDE_(?:CODE_|BRIDGE_)?)?SESSION_INGRESS\w*"
    r"|CLAUDE_CODE_(?:ENTRYPOINT|EXECPATH|SSE_PORT|SIMPLE|\w*(?:SESSION|MESSAGING|CHILD|PARENT|LAUNCHED)\w*)"
)
"""Variables of a client's Claude Code session."""
_POOL: Final = re.compile(
    r"AGENT_POOL_\w+|(?:AGENTS|SKILLS|EXPERTISE)_DIR|TASK_TIMEOUT_MS|CLAUDE_CLI"
)
"""Variables of the pool; as `claude.launch.POOL_VARIABLES`."""
_OF_WORKERS: Final = re.compile(
    r"DISABLE_AUTOUPDATER"
    r"|CLAUDE_CODE_DISABLE_(?:FILE_MENTIONS|CRON)|CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"
)
"""Variables that the pool sets for each worker; as `claude.launch.WORKER_VARIABLES`."""
_TERMINAL: Final = re.compile(
    r"_|SHLVL|PWD|OLDPWD|COLUMNS|LINES|TERM|COLORTERM|COLORFGBG|TERM_\w+|TERMINFO\w*|TERMCAP"
    r"|TMUX\w*|STY|WINDOW|WINDOWID|WINDOWPATH|VTE_VERSION|GPG_TTY|SSH_TTY|SSH_CLIENT"
    r"|SSH_CONNECTION|PS[0-4]|PROMPT\w*|RPROMPT|LS_COLORS|LSCOLORS|HISTFILE\w*|HISTSIZE|HISTCONTROL"
    r"|(?:ITERM|KITTY|ALACRITTY|WEZTERM|KONSOLE|GNOME_TERMINAL|WT|ZELLIJ|GHOSTTY)_\w+"
    r"|(?:VSCODE|STARSHIP|LC_TERMINAL|BYOBU|ZSH|BASH|FISH|P9K|POWERLEVEL9K)_?\w*"
    r"|XDG_(?:SESSION|SEAT|VTNR)\w*|DESKTOP_STARTUP_ID|XDG_ACTIVATION_TOKEN"
    r"|SECURITYSESSIONID|Apple_PubSub_Socket_Render|XPC_\w+|__CF\w+"
    # Of a service of systemd, which a daemon can be.
    r"|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_EXEC_PID|NOTIFY_SOCKET|LISTEN_\w+|WATCHDOG_\w+"
    r"|MANAGERPID|MEMORY_PRESSURE_\w+"
)
"""Variables of a terminal, a shell or a login: almost every client has others, and no task needs
them."""
_LEFT_OUT: Final = (_SESSION, _POOL, _OF_WORKERS, _TERMINAL)


def client_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that tasks of a client need.

    Left out are those of its Claude Code session, of the pool and of its terminal, and those whose
    name or value is not UTF-8: JSON cannot carry them.
    """
    return {name: value for name, value in environ.items() if _is_wanted(name, value)}


def changed_variables(
    client: Mapping[str, str],
    daemon_environ: Mapping[str, str],
    blocked: Iterable[str] = (),
    sent: Iterable[str] | None = None,
) -> dict[str, str] | None:
    """Return the variables that a client has differently from the daemon; None if there are none.

    A variable that only the daemon has is empty in what is returned, so that tasks do not have it:
    they must not use the key of another client.

    Args:
        client: the client's variables, as it sent them; those that `client_environment` leaves out
            are left out again.
        daemon_environ: the environment of the daemon.
        blocked: patterns of variables that workers never get, the setting `env_block`.
        sent: patterns of the only variables that may leave this machine; None if workers are here.
    """
    wanted, own = client_environment(client), client_environment(daemon_environ)
    # An empty variable counts as one that is not set: programs treat both alike.
    names = [name for name in {**own, **wanted} if own.get(name, "") != wanted.get(name, "")]
    changed = {name: wanted.get(name, "") for name in names}
    never, only = tuple(blocked), None if sent is None else tuple(sent)
    kept = {
        name: value
        for name, value in changed.items()
        if not _matches(name, never) and (only is None or _matches(name, only))
    }
    return kept or None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_wanted(name: str, value: str) -> bool:
    if not name or "=" in name or "\0" in f"{name}{value}":
        return False
    if any(pattern.fullmatch(name) for pattern in _LEFT_OUT):
        return False
    try:
        f"{name}{value}".encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 are halves of surrogate pairs here
        return False
    return True
