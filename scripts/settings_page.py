"""Writes docs/settings.md from the settings class: ``python scripts/settings_page.py``."""

from __future__ import annotations

from pathlib import Path

from agent_pool.settings import ALIASES, ENV_PREFIX, Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings

A value comes from, in this order: an argument (`AgentPool(max_size=2)`, a command-line option), the environment, the settings file, the default.
In the environment a setting is called `AGENT_POOL_` and its name in capitals, for example `AGENT_POOL_MAX_SIZE`.
The file is TOML, `~/.claude/agent-pool.toml`, or the one that `AGENT_POOL_CONFIG` names; its keys are the names below.
Unknown names and values out of bounds are errors that say where they stand.

Durations are seconds or carry a unit: `250ms`, `30s`, `5m`, `2h`.
Sizes are bytes or carry a unit: `512MiB`, `2GiB`.
Lists are names with commas or blanks between.
`none` switches a limit off where its default may be none.

The numbers come from measurements where there were any; [reliability.md](reliability.md) has them.

| setting | means | default |
|---|---|---|
"""
TAIL = """
Besides, `TASK_TIMEOUT_MS` is `task_timeout` in milliseconds.
`AGENT_POOL_DEPTH`, `AGENT_POOL_COOKIE` and `AGENT_POOL_SERVER` are set for workers by the pool and are no settings.
"""
COMPUTED = {
    "project_dir": "the working directory",
    "max_rss_hard": "half of the machine's memory",
    "max_total_rss": "three quarters of the machine's memory",
}
SIZES = {"max_rss", "max_line"}
SECONDS = ("timeout", "grace", "lifetime", "idle")


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_row(name) for name in Settings.model_fields) + TAIL


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    also = [alias for alias, target in ALIASES.items() if target == name]
    called = f"`{name}`" + "".join(f", `{alias}`" for alias in also)
    return f"| {called} | {field.description} | {_default(name)} |\n"


def _default(name: str) -> str:
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
