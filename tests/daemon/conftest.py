from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemons import DaemonProject


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return a folder with a short path: that of a Unix socket has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="apd-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def daemon_project(tmp_path: Path, short_folder: Path) -> Iterator[DaemonProject]:
    """Return a project with a daemon of its own; afterwards none of its processes lives."""
    project = DaemonProject(tmp_path, short_folder)
    yield project
    left = [" ".join(process.cmdline()) for process in project.processes()]
    project.end()
    assert left == []


@pytest.fixture
def anyio_backend() -> str:
    """Run tests that are coroutines on asyncio."""
    return "asyncio"
