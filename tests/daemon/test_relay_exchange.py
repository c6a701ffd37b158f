"""What a relay remembers, so that a client survives the end of a daemon."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent_pool.client.exchange import ACKNOWLEDGED, REPEATABLE, SUBSCRIPTION_ID, OpenMessages

INITIALIZE = {"id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
INITIALIZED = {"method": "notifications/initialized"}
CALL = {"id": 1, "method": "tools/call", "params": {"name": "invoke"}}


def line(message: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"


def answer(number: int | str, **fields: Any) -> bytes:
    """Write a response as the server does, without blanks."""
    message = {"jsonrpc": "2.0", "id": number, "result": fields}
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def messages(lines: bytes) -> list[dict[str, Any]]:
    return [json.loads(one) for one in lines.splitlines()]


def initialized() -> OpenMessages:
    exchange = OpenMessages()
    exchange.from_client(line(INITIALIZE))
    exchange.from_daemon(answer(0))
    exchange.from_client(line(INITIALIZED))
    return exchange


def test_open_calls_get_an_error_when_the_daemon_ends() -> None:
    exchange = initialized()
    exchange.from_client(line(CALL))
    exchange.from_client(line(CALL | {"id": "two"}))
    exchange.from_daemon(answer("two"))
    assert exchange.is_waiting
    (error,) = messages(exchange.lose_daemon("it ended"))
    assert error == {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "it ended"}}
    assert not exchange.is_waiting


def test_requests_that_change_nothing_go_to_the_next_daemon() -> None:
    exchange = OpenMessages()
    asked = [line({"id": number, "method": one}) for number, one in enumerate(sorted(REPEATABLE))]
    for one in asked:
        assert exchange.from_client(one) == one
    assert exchange.lose_daemon("it ended") == b""
    assert exchange.replay() == b"".join(asked)
    assert exchange.from_daemon(answer(0)) == answer(0)
    # All but the answered one and the subscription, for which no client asks again.
    assert len(messages(exchange.lose_daemon("again", is_final=True))) == len(REPEATABLE) - 2


def test_initialize_is_replayed_and_its_second_answer_dropped() -> None:
    exchange = initialized()
    exchange.lose_daemon("it ended")
    assert exchange.replay() == line(INITIALIZE) + line(INITIALIZED)
    assert exchange.from_daemon(answer(0)) == b""
    # An id can be used again by a client.
    exchange.from_client(line({"id": 0, "method": "ping"}))
    assert exchange.from_daemon(answer(0)) == answer(0)


def test_an_initialize_without_answer_is_answered_by_the_next_daemon() -> None:
    exchange = OpenMessages()
    exchange.from_client(line(INITIALIZE))
    assert exchange.lose_daemon("it ended") == b""
    assert exchange.replay() == line(INITIALIZE)
    assert exchange.from_daemon(answer(0)) == answer(0)


def test_a_late_reply_never_reaches_a_question_of_the_next_daemon() -> None:
    exchange = initialized()
    question = line({"id": 0, "method": "elicitation/create", "params": {}})
    reply = line({"id": 0, "result": {"action": "accept"}})
    assert exchange.from_daemon(question) == question
    (withdrawn,) = messages(exchange.lose_daemon("it ended"))
    assert withdrawn["method"] == "notifications/cancelled"
    assert withdrawn["params"]["requestId"] == 0
    exchange.replay()
    (shown,) = messages(exchange.from_daemon(question))
    assert shown["id"] != 0
    assert exchange.from_client(reply) == b""  # to the question of the first daemon
    (passed,) = messages(exchange.from_client(line({"id": shown["id"], "result": {}})))
    assert passed == {"jsonrpc": "2.0", "id": 0, "result": {}}


def test_a_subscription_is_confirmed_to_its_client_only_once() -> None:
    exchange = OpenMessages()
    listen = line({"id": 3, "method": "subscriptions/listen", "params": {}})
    confirmed = line({"method": ACKNOWLEDGED, "params": {"_meta": {SUBSCRIPTION_ID: 3}}})
    exchange.from_client(listen)
    assert exchange.from_daemon(confirmed) == confirmed
    assert not exchange.is_waiting
    assert exchange.lose_daemon("it ended") == b""
    assert exchange.replay() == listen
    assert exchange.from_daemon(confirmed) == b""


def test_a_cancelled_call_is_not_answered_when_the_daemon_ends() -> None:
    exchange = initialized()
    exchange.from_client(line(CALL))
    exchange.from_client(line({"method": "notifications/cancelled", "params": {"requestId": 1}}))
    assert exchange.lose_daemon("it ended") == b""


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["tools/call", "tools/list", "answer", "daemon ends"]), st.integers(0, 9)
    ),
    max_size=60,
)


@given(STEPS)
def test_every_request_is_answered_once_whatever_ends(steps: list[Step]) -> None:
    exchange, open_here, answered = initialized(), {}, []
    at_daemon: list[int] = []
    for number, (step, place) in enumerate(steps, 100):
        if step == "daemon ends":
            answered += [one["id"] for one in messages(exchange.lose_daemon("it ended"))]
            at_daemon = [one["id"] for one in messages(exchange.replay()) if "id" in one]
        elif step == "answer" and at_daemon:
            one = at_daemon.pop(place % len(at_daemon))
            answered += [one["id"] for one in messages(exchange.from_daemon(answer(one)))]
        elif step != "answer":
            exchange.from_client(line({"id": number, "method": step}))
            open_here[number] = step
            at_daemon.append(number)
    answered += [one["id"] for one in messages(exchange.lose_daemon("the end", is_final=True))]
    assert sorted(answered) == sorted(open_here)


@given(st.binary(max_size=200), st.booleans())
def test_any_line_passes_a_relay_without_an_exception(data: bytes, is_client: bool) -> None:
    exchange = OpenMessages()
    assert (exchange.from_client if is_client else exchange.from_daemon)(data) == data


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]),
        JSON | st.sampled_from(["initialize", "notifications/cancelled", ACKNOWLEDGED]),
    ),
    st.booleans(),
)
def test_any_message_passes_a_relay_without_an_exception(
    message: dict[str, Any], is_client: bool
) -> None:
    exchange = OpenMessages()
    for _ in range(2):
        (exchange.from_client if is_client else exchange.from_daemon)(line(message))
        exchange.lose_daemon("it ended")
        exchange.replay()
