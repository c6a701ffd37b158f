from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool import Usage
from agent_pool.claude.protocol.results import Spend, TurnResult, read_result, running_totals
from support import recorded_frames as frames
from support.session_states import with_fields

COUNTS = st.integers(0, 10**9)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS)
# Quarters of a dollar are exact as floats, so sums and differences can be compared by ==.
SPENDS = st.builds(Spend, USAGES, st.integers(0, 1000).map(lambda quarters: quarters / 4))
SOME = Spend(Usage(1, 2, 3, 4), 0.5)


# The running totals


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
    assert running_totals(frame) == Spend(usage, 0.5)


def test_the_totals_of_all_models_are_added() -> None:
    totals = running_totals(frames.HELLO_2_0_77.last)
    assert totals == Spend(Usage(input_tokens=40, output_tokens=20), 0.00035)


def test_the_usage_of_a_turn_is_the_difference_of_totals() -> None:
    first = running_totals(frames.HELLO_2_1_119.last)
    second = running_totals(frames.AGAIN_2_1_119.last)
    assert second.since(first) == Spend(Usage(input_tokens=10, output_tokens=5), 0.000105)


def test_the_running_totals_start_at_zero_after_a_reset() -> None:
    assert running_totals(frames.CLEAR.last) == Spend()


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
def test_totals_that_are_no_valid_numbers_count_as_zero(frame: dict[str, Any]) -> None:
    assert running_totals(frame) == Spend()


# Sums and differences


@given(first=SPENDS, second=SPENDS)
def test_subtracting_added_usage_gives_the_first_usage_back(first: Spend, second: Spend) -> None:
    both = first + second
    assert both.usage - second.usage == first.usage
    assert both.cost_usd - second.cost_usd == first.cost_usd
    assert first + Spend() == first


@given(before=SPENDS, gained=SPENDS)
def test_the_growth_since_earlier_totals_is_the_added_amount(before: Spend, gained: Spend) -> None:
    assert (before + gained).since(before) == gained


@given(before=SPENDS, after=SPENDS)
def test_restarted_totals_never_give_a_negative_difference(before: Spend, after: Spend) -> None:
    difference = Spend(after.usage - before.usage, after.cost_usd - before.cost_usd)
    found = after.since(before)
    assert min(*asdict(found.usage).values(), found.cost_usd) >= 0
    assert found in (after, difference)


@pytest.mark.parametrize("field", [*asdict(Usage()), "cost_usd"])
def test_one_total_below_the_earlier_one_means_a_restart(field: str) -> None:
    grown = dict.fromkeys([*asdict(Usage()), "cost_usd"], 5) | {field: 1}
    cost = grown.pop("cost_usd")
    after = Spend(Usage(**grown), cost)
    assert after.since(Spend(Usage(2, 2, 2, 2), 2.0)) == after


# The result of a turn


def test_a_result_frame_is_read_field_by_field() -> None:
    frame = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "result": "the answer",
        "num_turns": 3,
        "session_id": "dbbf91ef",
        "structured_output": {"name": "quince"},
        "api_error_status": 529,
    }
    assert read_result(frame, SOME) == TurnResult(
        text="the answer",
        is_error=False,
        subtype="success",
        turns=3,
        spend=SOME,
        session_id="dbbf91ef",
        structured={"name": "quince"},
        api_status=529,
    )


def test_a_recorded_answer_is_read_without_structure_or_api_error() -> None:
    assert read_result(frames.BASH.last, SOME) == TurnResult(
        "done with tool",
        is_error=False,
        subtype="success",
        turns=2,
        spend=SOME,
        session_id="7242a9b6",
        terminal_reason="completed",
    )


def test_a_result_without_a_text_has_the_texts_of_its_errors() -> None:
    result = read_result(frames.INTERRUPTED.last, SOME)
    assert result.text == "[ede_diagnostic] result_type=user last_content_type=n/a stop"
    assert (result.is_error, result.subtype) == (True, "error_during_execution")
    several = with_fields(frames.INTERRUPTED.last, errors=["the first", {"code": 2}])
    assert read_result(several, SOME).text == "the first\n{'code': 2}"


@pytest.mark.parametrize(
    ("fields", "is_error"),
    [
        ({}, False),
        ({"is_error": True}, True),
        ({"subtype": "error_max_turns"}, True),
        ({"subtype": None}, True),
    ],
)
def test_a_result_is_an_error_unless_it_is_a_plain_success(
    fields: dict[str, Any], is_error: bool
) -> None:
    assert read_result(with_fields(frames.HELLO.last, **fields), SOME).is_error is is_error


@pytest.mark.parametrize("junk", [None, [], {}, 1.5, True])
def test_fields_of_a_wrong_type_are_read_as_empty(junk: object) -> None:
    names = ("num_turns", "api_error_status", "result", "errors", "session_id", "subtype")
    result = read_result(dict.fromkeys(names, junk), SOME)
    expected = TurnResult("", is_error=True, subtype="", turns=0, spend=SOME, session_id="")
    assert result == replace(expected, code="task_failed")
    words = read_result({"num_turns": "x", "api_error_status": "529"}, SOME)
    assert (words.turns, words.api_status) == (0, 0)
