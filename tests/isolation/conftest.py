from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from support.cli_age import is_older_cli, skip_if_older
from support.pool_harness import PoolHarness


def pytest_runtest_setup(item: pytest.Item) -> None:
    skip_if_older(item)


@pytest.fixture(scope="module")
def open_harness(open_harness: Callable[..., PoolHarness]) -> Callable[..., PoolHarness]:
    """Open harnesses whose workers treat memory as those of users do by default."""
    return partial(open_harness, worker_memory="lean")


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    """Open a pool on the current CLI, with one worker for all tasks of the module."""
    return open_harness(max_size=1)


@pytest.fixture
def used_again(request: pytest.FixtureRequest) -> None:
    """Skip the test on an older CLI that the probe does not trust with a second task."""
    if is_older_cli():
        harness: PoolHarness = request.getfixturevalue("harness")
        if not harness.run(harness.verdict()).forgets:
            pytest.skip("each task has a process of its own")
