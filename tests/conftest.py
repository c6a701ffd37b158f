from __future__ import annotations

from pathlib import Path

import pytest

from support import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A temporary project with a home of its own."""
    return Project(tmp_path)
