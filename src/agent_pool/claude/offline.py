"""The environment of a CLI that can reach only the offline model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent_pool.claude.launch import NO_CLAUDE_MD, WORKER_VARIABLES, LaunchConfig

# IS_SANDBOX is kept because root cannot skip permissions without it (all versions).
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "IS_SANDBOX", "USER", "SHELL", NO_CLAUDE_MD)


def offline_environment(launch: LaunchConfig, home: Path, url: str) -> dict[str, str]:
    """Return the environment of a process with this launch's options, its own home and no secrets.

    Args:
        launch: how such a process is started otherwise.
        home: an empty folder; Claude Code's own folder is `.claude` in it.
        url: of the offline model.
    """
    return {
        **{name: launch.env[name] for name in _KEPT if name in launch.env},
        **WORKER_VARIABLES,
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # If the model's program is killed, the CLI must give up soon: its default is ten retries.
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "offline",
    }
