from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isolation.lab import Lab


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all tests, so that each canary is paid once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Callable[..., Lab]]:
    """Opens labs that live as long as the module; afterwards no process of them may be left."""
    opened: list[Lab] = []

    def open_lab(**options: Any) -> Lab:
        lab = Lab(tmp_path_factory.mktemp("lab"), cache, **options)
        opened.append(lab)
        lab.open()
        return lab

    yield open_lab
    left = []
    for lab in opened:
        lab.close()
        left += lab.world.processes()
    for process in left:
        process.kill()
    assert left == []


@pytest.fixture(scope="module")
def lab(labs: Callable[..., Lab]) -> Lab:
    """The current CLI, and one worker that must serve all tasks of the module."""
    return labs(max_size=1)
