"""Events become JSON and come back the same, and tell each other apart by their tags."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_pool import (
    ConfigError,
    Ended,
    Event,
    PoolClosed,
    Queued,
    StrayResult,
    TaskFailed,
    Text,
    event_from_json,
)
from agent_pool.pool.event_bus import EventBus
from support.fake_pool import make_result
from support.json_values import assert_other_ways_give_json, values_of

EVENTS: tuple[Any, ...] = get_args(Event)


def test_every_event_has_a_tag_of_its_own() -> None:
    tags = [kind.__dataclass_fields__["type"].default for kind in EVENTS]
    assert len(set(tags)) == len(tags) == 22
    assert all(tag.partition(".")[0] in ("task", "worker", "pool") for tag in tags)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@settings(max_examples=30, deadline=None)  # the first example builds the converters
@given(data=st.data())
def test_an_event_survives_the_way_through_json(kind: Any, data: st.DataObject) -> None:
    event = data.draw(values_of(kind))
    made = event_from_json(json.loads(json.dumps(event.as_json(), allow_nan=False)))
    assert type(made) is kind
    if kind is Ended and event.error is not None:  # errors are equal by their JSON only
        assert made.as_json() == event.as_json()
        assert_other_ways_give_json(event, lambda made: made.as_json())
    else:
        assert made == event
        assert_other_ways_give_json(event)


def test_the_error_of_an_ended_task_is_json_for_dataclasses() -> None:
    error = TaskFailed("it failed", result=make_result("half", is_error=True))
    made = json.loads(json.dumps(asdict(Ended(error=error))))
    told = made["error"]
    assert (told["code"], told["message"], told["retryable"]) == ("task_failed", "it failed", False)
    assert told["result"]["text"] == "half"


@pytest.mark.parametrize("wrong", [None, {}, {"type": "task.unknown"}, {"type": "task.text"}])
def test_wrong_json_of_an_event_is_a_config_error(wrong: object) -> None:
    with pytest.raises(ConfigError, match="this is not the JSON of an event"):
        event_from_json(wrong)


@pytest.mark.parametrize(
    ("event", "failure"),
    [
        (Ended(result=make_result()), ""),
        (Ended(result=make_result(is_error=True)), "task_error"),
        (Ended(result=make_result(is_error=True, code="no_credit")), "no_credit"),
        (Ended(error=PoolClosed("closed")), "pool_closed"),
        (Ended(error=TaskFailed("failed", result=make_result())), "task_failed"),
    ],
)
def test_the_end_of_a_task_names_its_failure(event: Ended, failure: str) -> None:
    assert event.failure == failure


def test_the_bus_numbers_events_and_dates_them_in_order() -> None:
    bus, seen = EventBus(), list[Event]()
    bus.publish(Text("before any subscriber"))
    unsubscribe = bus.subscribe(seen.append)
    bus.publish(Text("one"), task_id="t-1", agent="reviewer")
    bus.publish(StrayResult(worker="worker-1"))
    unsubscribe()
    unsubscribe()
    bus.publish(Queued(1))
    assert [event.number for event in seen] == [2, 3]
    assert seen[0].time <= seen[1].time
    assert isinstance(seen[0], Text)
    assert (seen[0].task_id, seen[0].agent) == ("t-1", "reviewer")


def test_a_failing_subscriber_is_logged_and_others_get_the_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, seen = EventBus(), list[Event]()

    def fail(event: Event) -> None:
        raise ValueError("no")

    bus.subscribe(fail)
    bus.subscribe(seen.append)
    bus.publish(Text("one"))
    assert len(seen) == 1
    assert "a listener failed for the event task.text" in caplog.text
    caplog.clear()
