from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_pool.settings import Settings
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.durable_pools import OpenPool
from support.fake_pool import FakePool, RunTask


@pytest.fixture
def durable(tmp_path: Path) -> OpenPool:
    """Build durable pools over a fake pool, all of them with the same store."""

    def build(run_task: RunTask | None = None, **settings: Any) -> DurablePool:
        wanted = Settings(project_dir=tmp_path, **settings)
        return DurablePool(FakePool(run_task), Store(tmp_path / "tasks.db"), wanted)

    return build
