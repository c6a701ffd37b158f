"""Write docs/settings.md from the settings class: ``python scripts/settings_page.py``."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from agent_pool.settings import ALIASES, ENV_PREFIX, Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings

The value of a setting comes from the first of these that has one: an argument (`AgentPool(max_size=2)`, a command-line option), the environment, the settings file, the default.
In the environment the name of a setting is `AGENT_POOL_` and its name in capitals, for example `AGENT_POOL_MAX_SIZE`.
The file is TOML: `~/.claude/agent-pool.toml`, or the file that `AGENT_POOL_CONFIG` names. Its keys are the names below.
An unknown name, and a value out of bounds, is an error that names the place.

Durations are seconds, or have a unit: `250ms`, `30s`, `5m`, `2h`.
Sizes are bytes, or have a unit: `512MiB`, `2GiB`.
Lists are names, separated by commas or spaces.
The value `none` switches a limit off. These limits can be switched off: LIMITS.

Many defaults come from measurements, see [reliability.md](reliability.md).

| setting | meaning | default |
|---|---|---|
"""
TAIL = """
`TASK_TIMEOUT_MS` is another name for `task_timeout`, in milliseconds.
`AGENT_POOL_DAEMON=off` keeps everything in one process; `AGENT_POOL_RUNTIME_DIR` and `AGENT_POOL_STATE_DIR` name the folders of the daemon, see [daemon.md](daemon.md).
`AGENT_POOL_LOG` sets the log level of the command line and the MCP server.
The pool sets `AGENT_POOL_DEPTH`, `AGENT_POOL_COOKIE` and `AGENT_POOL_SERVER` for its workers; they are not settings. On macOS the last two tell which processes belong to a worker; on Linux they are not read.
"""
# Defaults that depend on the machine or on the working directory.
COMPUTED = {
    "project_dir": "the working directory",
    "max_rss_hard": "half of the machine's memory",
    "max_total_rss": "three quarters of the machine's memory",
}
SIZES = {"max_rss", "max_line", "history_size", "transcript_size"}
SECONDS = ("timeout", "grace", "lifetime", "idle", "history_age")
"""The endings of names of settings that are durations."""


def page() -> str:
    """Return the whole page."""
    return (
        HEAD.replace("LIMITS", _limits())
        + "".join(_row(name) for name in Settings.model_fields)
        + TAIL
    )


def _limits() -> str:
    """Return the names of the limits that `none` switches off, in one line."""
    # The folders can be None too, but that is their default.
    return ", ".join(
        f"`{name}`"
        for name, field in Settings.model_fields.items()
        if type(None) in get_args(field.annotation) and field.default is not None
    )


def _row(name: str) -> str:
    """Return the row of one setting."""
    field = Settings.model_fields[name]
    also = [alias for alias, target in ALIASES.items() if target == name]
    called = f"`{name}`" + "".join(f", `{alias}`" for alias in also)
    return f"| {called} | {field.description} | {_default(name)} |\n"


def _default(name: str) -> str:
    """Return the default value with its unit; empty if the setting has none."""
    if name in COMPUTED:
        return COMPUTED[name]
    default = Settings.model_fields[name].default
    if default is None or default == ():
        return ""
    if name in SIZES:
        return f"{default >> 20} MiB"
    return f"{default:g} s" if name.endswith(SECONDS) else f"{default}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    assert ENV_PREFIX == "AGENT_POOL_"
