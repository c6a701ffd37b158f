from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.claude.accounts import Account, Usage, running_account
from claude import frames

COUNTS = st.integers(0, 10**9)
ACCOUNTS = st.builds(
    Account,
    st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS),
    st.integers(0, 1000).map(lambda cents: cents / 4),
)


def test_the_totals_of_a_result_are_read_field_by_field() -> None:
    entry = {
        "inputTokens": 1,
        "outputTokens": 2,
        "cacheCreationInputTokens": 3,
        "cacheReadInputTokens": 4,
        "webSearchRequests": 5,
    }
    frame = {"type": "result", "modelUsage": {"m": entry}, "total_cost_usd": 0.5}
    usage = Usage(input_tokens=1, output_tokens=2, cache_write_tokens=3, cache_read_tokens=4)
    assert running_account(frame) == Account(usage, 0.5)


def test_the_totals_of_all_models_are_added() -> None:
    account = running_account(frames.HELLO_2_0_77.last)
    assert account == Account(Usage(input_tokens=40, output_tokens=20), 0.00035)


def test_what_a_turn_took_is_the_difference_of_the_running_totals() -> None:
    first = running_account(frames.HELLO_2_1_119.last)
    second = running_account(frames.AGAIN_2_1_119.last)
    assert second - first == Account(Usage(input_tokens=10, output_tokens=5), 0.000105)


def test_the_totals_begin_again_after_a_reset() -> None:
    assert running_account(frames.CLEAR.last) == Account()


@given(first=ACCOUNTS, second=ACCOUNTS)
def test_taking_away_what_was_added_gives_what_was_there(first: Account, second: Account) -> None:
    assert (first + second) - second == first
    assert first + Account() == first


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"modelUsage": None, "total_cost_usd": None},
        {"modelUsage": [1], "total_cost_usd": "0.5"},
        {"modelUsage": {"m": None, "n": "x", "o": {"inputTokens": "7", "outputTokens": None}}},
        {"modelUsage": {"m": {"inputTokens": float("nan")}}, "total_cost_usd": float("inf")},
        {"modelUsage": {"m": {"inputTokens": 10**400}}},
    ],
)
def test_totals_that_are_no_numbers_count_as_nothing(frame: dict[str, Any]) -> None:
    assert running_account(frame) == Account()


@given(before=ACCOUNTS, gained=ACCOUNTS)
def test_what_came_since_is_what_was_added(before: Account, gained: Account) -> None:
    assert (before + gained).since(before) == gained


@given(before=ACCOUNTS, after=ACCOUNTS)
def test_totals_that_have_restarted_are_never_taken_for_less_than_nothing(
    before: Account, after: Account
) -> None:
    found = after.since(before)
    assert min(*asdict(found.usage).values(), found.cost_usd) >= 0
    assert found in (after, after - before)
