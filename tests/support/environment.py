"""The CLI under test, and environments for it with almost no variable of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from agent_pool.claude.binary import bundled_cli
from support.npm_cli import cli_from_npm

CLI_UNDER_TEST = "AGENT_POOL_TEST_CLI"
"""A variable that names the CLI that the tests run: a path, or a version that npm has."""

MARK = "TEST_MARK"
"""A variable in the environment of every process of one test, by which they can be counted."""

UNREACHABLE_URL = "http://127.0.0.1:9"
"""The URL of an API at which no server listens, for code that must not ask one."""


def real_cli() -> Path:
    """Return the CLI that the variable `CLI_UNDER_TEST` names, else that of claude-agent-sdk.

    It is never one that the machine has.
    """
    if named := named_cli():
        return cli_named(named)
    cli = bundled_cli()
    assert cli is not None, "pip install -e '.[dev]' brings the CLI"
    return cli


def named_cli() -> str:
    """Return the path or the version in the variable `CLI_UNDER_TEST`; "" if it is not set."""
    return os.environ.get(CLI_UNDER_TEST, "")


def cli_named(name: str) -> Path:
    """Return the CLI of this path, or of this version from npm."""
    return Path(name) if "/" in name else cli_from_npm(name)


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
        # It reads the system's certificates at each start, a twentieth of its time (2.1.332). No
        # test speaks TLS.
        "CLAUDE_CODE_CERT_STORE": "bundled",
        "CLAUDE_CLI": str(real_cli()),
        "AGENT_POOL_DAEMON": "off",
        # A lean worker, which a user has by default, needs a seventh more processor time for the
        # same answers (2.1.332). The tests of isolation and the soak test have lean ones.
        "AGENT_POOL_WORKER_MEMORY": "fast",
        **more,
    }
