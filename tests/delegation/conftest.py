from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from isolation.conftest import cache as cache  # the same fixtures: pools that live for a module
from isolation.conftest import labs as labs
from isolation.lab import Lab


@pytest.fixture(scope="module")
def lab(labs: Callable[..., Lab]) -> Lab:
    """A pool for many agents; that its resets forget is not asked here."""
    return labs(reset="clear", max_workers=3, max_size=1, acquire_timeout=30)


@pytest.fixture
def define(lab: Lab) -> Callable[..., str]:
    """Defines an agent of its own in the lab; gives its name."""

    def define(body: str = "You test.", **fields: Any) -> str:
        name = lab.word("agent")
        lab.world.agent(name, body, description="Tests.", **fields)
        return name

    return define
