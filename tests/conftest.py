from __future__ import annotations

import logging
from pathlib import Path

import pytest

from support import Project

LONG = (
    "tests/reliability/",
    "tests/soak/",
    "tests/isolation/test_reset_checks.py",
    "tests/isolation/test_taint.py",
    "tests/isolation/test_old_versions.py",
    "tests/mcp/test_mcp_interactive.py",
    "tests/pool/test_cancellation.py",
    "tests/pool/test_pool_faults.py",
    "tests/pool/test_pool_start_faults.py",
    "tests/pool/test_pool_close.py",
)
"""What would take the default run beyond its eight minutes: ``pytest -m long``."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is long by its place."""
    for item in items:
        if any(place in item.nodeid for place in LONG):
            item.add_marker(pytest.mark.long)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A temporary project with a home of its own."""
    return Project(tmp_path)


@pytest.fixture(autouse=True)
def plain_logging() -> None:
    """The level of the package's logger is that of a program that has said nothing about it:
    commands that were run in this process have set it."""
    logging.getLogger("agent_pool").setLevel(logging.NOTSET)
