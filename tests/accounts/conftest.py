from __future__ import annotations

from collections.abc import Callable

import pytest

from accounts.ledger import Ledger
from isolation.conftest import cache as cache  # the same fixtures: pools that live for a module
from isolation.conftest import labs as labs
from isolation.lab import Lab
from pool.conftest import world as world


@pytest.fixture(scope="module")
def lab(labs: Callable[..., Lab]) -> Lab:
    """A pool in which each test has an agent, and so a worker, of its own."""
    return labs(reset="clear", max_workers=4, max_size=1, acquire_timeout=30)


@pytest.fixture(scope="module")
def ledger(lab: Lab) -> Ledger:
    """The API's books of that pool."""
    return Ledger(lab)


@pytest.fixture
def agent(lab: Lab) -> str:
    """An agent without accounts."""
    name = lab.word("agent")
    lab.world.agent(name, description="Tests.")
    return name
