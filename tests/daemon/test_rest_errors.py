from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from agent_pool import (
    AgentNotFound,
    AgentPoolError,
    ConfigError,
    InternalError,
    NestingRefused,
    PoolClosed,
    PoolTimeout,
    SpawnError,
    StoreFailed,
    TaskFailed,
    TaskNotEnded,
    TaskNotFound,
    TooManyRequests,
    error_from_json,
)
from agent_pool.daemon.http_json import dump_json, status_of
from support.fake_pool import FakePool, make_result
from support.rest_server import Answer, served, task_body
from support.waiting import run

ASK = dict[str, Any]
DEEP = b'{"request":{"agent":"a","task":"t","schema":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_002
WRONG_BODIES = {
    "no body": b"",
    "no json": b"{",
    "no object": b"[]",
    "a text": b'"x"',
    "no request": b"{}",
    "no task": b'{"request":{"agent":"a"}}',
    "null": b'{"request":null}',
    "unknown field": b'{"request":{"agent":"a","task":"t"},"x":1}',
    "unknown inner field": b'{"request":{"agent":"a","task":"t","x":1}}',
    "number as text": b'{"request":{"agent":"a","task":"t","timeout":"5"}}',
    "text as number": b'{"request":{"agent":5,"task":"t"}}',
    "true as number": b'{"request":{"agent":"a","task":"t","priority":true}}',
    "NaN": b'{"request":{"agent":"a","task":"t","timeout":NaN}}',
    "infinity": b'{"request":{"agent":"a","task":"t","timeout":1e999}}',
    "huge number": b'{"request":{"agent":"a","task":"t","priority":1' + b"0" * 30 + b"}}",
    "half of a pair": b'{"request":{"agent":"a","task":"\\ud800"}}',
    "half of a pair in bytes": b'{"request":{"agent":"a","task":"\xed\xa0\x80"}}',
    "not utf-8": b'{"request":{"agent":"a","task":"\xff"}}',
    "deep": DEEP,
    "unknown field of a part": json.dumps(
        task_body(attachments=[{"media_type": "text/plain", "data": "x", "y": 1}])
    ).encode(),
    "environment": json.dumps({**task_body(), "environment": {"A": 1}}).encode(),
    "empty task": json.dumps(task_body(task=" ")).encode(),
}


def ask_all(*asks: tuple[str, str, Any], pool: FakePool | None = None) -> list[Answer]:
    """Send requests to one server; return the answers."""

    async def main() -> list[Answer]:
        async with served(pool or FakePool()) as (server, _):
            return [await server.ask(*one) for one in asks]

    return run(main())


def check_error(answer: Answer, status: int, code: str) -> str:
    """Check that an answer is this error; return its message."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.body) == {"error"}
    assert answer.body["error"]["code"] == code
    error_from_json(answer.body["error"])
    return str(answer.body["error"]["message"])


def test_every_wrong_body_is_refused_with_a_clear_message() -> None:
    # The fake pool checks nothing, so that the interface alone refuses them.
    bodies = {name: body for name, body in WRONG_BODIES.items() if name != "empty task"}
    asks = [("POST", path, body) for path in ("/v1/tasks", "/v1/check") for body in bodies.values()]

    for answer in ask_all(*asks):
        message = check_error(answer, 400, "config_error")
        assert message.startswith("the body is ")


def test_a_message_about_a_body_shows_no_value_of_it() -> None:
    body = {**task_body(env={"KEY": 5}, timeout="hunter2"), "environment": {"A": ["hunter2"]}}

    (answer,) = ask_all(("POST", "/v1/tasks", body))

    message = check_error(answer, 400, "config_error")
    assert "request.timeout" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/tasks?limit=0", "limit"),
        ("/v1/tasks?limit=1001", "limit"),
        ("/v1/tasks?limit=ten", "limit"),
        ("/v1/tasks?limit=1&limit=2", "limit"),
        ("/v1/tasks?before=-1", "before"),
        ("/v1/tasks?since=NaN", "since"),
        ("/v1/tasks?since=1e999", "since"),
        ("/v1/tasks?states=done", "states"),
        ("/v1/tasks?colour=red", "colour"),
        ("/v1/tasks/x?wait=301", "wait"),
        ("/v1/tasks/x?wait=-1", "wait"),
        ("/v1/tasks/x/events?after=x", "after"),
        ("/v1/agents/reviewer/reset-verdict?refresh=yes", "refresh"),
        ("/v1/workers?x=1", "x"),
    ],
)
def test_a_wrong_parameter_is_refused_by_its_name(path: str, name: str) -> None:
    (answer,) = ask_all(("GET", path, None))

    assert name in check_error(answer, 400, "config_error")


def test_a_path_that_does_not_exist_is_answered_in_json() -> None:
    missing, root, wrong = ask_all(
        ("GET", "/v1/nothing", None), ("GET", "/v1/", None), ("PUT", "/v1/tasks", {})
    )

    assert "/v1/openapi.json" in check_error(missing, 404, "no_such_route")
    check_error(root, 404, "no_such_route")
    check_error(wrong, 405, "no_such_route")
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("x"), 400),
        (AgentNotFound("x"), 404),
        (TaskNotFound("x"), 404),
        (TaskNotEnded("x"), 409),
        (NestingRefused("x"), 403),
        (TooManyRequests("x"), 429),
        (StoreFailed("x"), 503),
        (PoolClosed("x"), 503),
        (PoolTimeout("x"), 503),
        (SpawnError("x", worker="w", pid=5, stderr_tail="y"), 503),
        (TaskFailed("x", result=make_result()), 502),
        (InternalError("x"), 500),
    ],
)
def test_each_error_has_a_fitting_status_and_comes_back(error: AgentPoolError, status: int) -> None:
    pool = FakePool()
    pool.error = error

    (answer,) = ask_all(("POST", "/v1/agents/reviewer/warmup", None), pool=pool)

    assert answer.status == status
    found = error_from_json(answer.body["error"])
    assert type(found) is type(error)
    assert found.as_json() == error.as_json()


def test_an_unexpected_error_is_logged_and_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool()
    pool.error = ZeroDivisionError("hunter2")

    (answer,) = ask_all(("GET", "/v1/workers", None), pool=pool)

    message = check_error(answer, 500, "internal_error")
    assert "hunter2" not in message
    assert "ZeroDivision" not in message
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


def test_values_that_utf_8_or_json_lack_are_still_valid_json() -> None:
    value = {"a": "ü\ud800", "b": [float("nan"), float("inf"), 1.5], "c": {"d": None}}

    text = dump_json(value)

    assert json.loads(text.encode()) == {"a": "ü\ud800", "b": [None, None, 1.5], "c": {"d": None}}
    assert dump_json({"a": "ü"}) == '{"a":"ü"}'


def test_an_error_that_is_not_known_is_a_server_error() -> None:
    assert status_of(AgentPoolError("x")) == 500


def test_a_body_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_pool.daemon.http_json.MAX_BODY", 1000)

    fits, large = ask_all(
        ("POST", "/v1/check", task_body(task="x" * 900)),
        ("POST", "/v1/check", task_body(task="x" * 1001)),
    )

    assert fits.status == 200
    check_error(large, 413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/tasks/a%0Ab/retry", "/v1/tasks/a%0A/nothing", "/v1/a%0A/b"])
def test_a_path_with_a_line_feed_is_answered_in_json(path: str) -> None:
    async def main() -> None:
        async with served(FakePool()) as (server, _):
            answer = await server.ask("POST", path)
            assert answer.status == 404
            assert answer.body["error"]["code"] in ("task_not_found", "no_such_route")

    run(main())
