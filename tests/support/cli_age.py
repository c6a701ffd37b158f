"""The age of the CLI under test, for tests that do not apply to older ones."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from agent_pool.claude.binary import bundled_cli, parse_version
from support.environment import UNREACHABLE_URL, cli_environment, named_cli, real_cli

SINCE = "since"
"""A mark: the first tried version that has what a test needs, and what that is."""


def skip_if_older(item: pytest.Item) -> None:
    """Skip a test that needs what the CLI under test is too old for, and say what that is."""
    for mark in item.iter_markers(SINCE):
        version, fact = mark.args
        if not is_at_least(version):
            pytest.skip(f"{fact}: from {version} on")


def is_at_least(version: str) -> bool:
    """Check whether the CLI under test is of this version or newer."""
    return not is_older_cli() or cli_under_test_version() >= parse_version(version)


def is_older_cli() -> bool:
    """Check whether a CLI is named that is older than the one the tests are written for."""
    return named_cli() != "" and cli_under_test_version() < _version(bundled_cli())


def cli_under_test_version() -> tuple[int, ...]:
    """Return the version of the CLI under test as numbers that compare."""
    return _version(real_cli())


@cache
def _version(cli: Path | None) -> tuple[int, ...]:
    assert cli is not None, "pip install -e '.[dev]' brings the CLI"
    with tempfile.TemporaryDirectory() as home:
        environ = cli_environment(Path(home), UNREACHABLE_URL)
        done = subprocess.run(
            [cli, "--version"], env=environ, check=True, capture_output=True, text=True, timeout=60
        )
    return parse_version(done.stdout)
