from __future__ import annotations

import logging
from pathlib import Path

import pytest

from support import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A temporary project with a home of its own."""
    return Project(tmp_path)


@pytest.fixture(autouse=True)
def plain_logging() -> None:
    """The level of the package's logger is that of a program that has said nothing about it:
    commands that were run in this process have set it."""
    logging.getLogger("agent_pool").setLevel(logging.NOTSET)
