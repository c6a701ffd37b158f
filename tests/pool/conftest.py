from __future__ import annotations

import gc
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool_world import PoolWorld, zombies


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[PoolWorld]:
    """A project for pools; after the test nothing of them may be left, and nothing have failed."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    began = time.time()
    world = PoolWorld(tmp_path)
    yield world
    left = world.processes()
    for process in left:
        process.kill()
    gc.collect()  # what was forgotten complains when it is collected
    assert [" ".join(process.cmdline()) for process in left] == []
    assert zombies(since=began) == []
    assert [path.name for path in scratch.iterdir()] == []
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [(record.name, record.getMessage()) for record in errors] == []
