"""The CLI under test, and environments for it with almost no variable of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from agent_pool.claude.binary import bundled_cli

MARK = "TEST_MARK"
"""A variable in the environment of every process of one test, by which they can be counted."""

UNREACHABLE_URL = "http://127.0.0.1:9"
"""The URL of an API at which no server listens, for code that must not ask one."""


def real_cli() -> Path:
    """Return the CLI inside the claude-agent-sdk package; never one that the machine has."""
    cli = bundled_cli()
    assert cli is not None, "pip install -e '.[dev]' brings the CLI"
    return cli


def cli_environment(home: Path, url: str, **more: str) -> dict[str, str]:
    """Build an environment in which the real CLI calls the API at `url` and no other server.

    No process uses a daemon, unless `more` says otherwise.
    """
    return {
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "PATH": os.environ["PATH"],
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),  # the one of this run: other pools work in /tmp
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "dummy",
        "IS_SANDBOX": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CLI": str(real_cli()),
        "AGENT_POOL_DAEMON": "off",
        **more,
    }
