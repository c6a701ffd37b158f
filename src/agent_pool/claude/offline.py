"""Running a CLI where it can reach nothing but the offline model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent_pool.claude.launch import NO_CLAUDE_MD, WORKER_VARIABLES, Launch

_KEPT: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "IS_SANDBOX", "USER", "SHELL", NO_CLAUDE_MD)


def offline_environment(launch: Launch, home: Path, url: str) -> dict[str, str]:
    """The environment of a process with this launch's flags, a home of its own, and no secrets.

    Args:
        launch: how its like is started otherwise.
        home: an empty folder; Claude Code's own is `.claude` in it.
        url: of the offline model.
    """
    return {
        **{name: launch.env[name] for name in _KEPT if name in launch.env},
        **WORKER_VARIABLES,
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",  # should this process be killed, it is to give up soon
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "offline",
    }
