"""Replies on the wire: JSON, server-sent events, failures and faults."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from agent_pool.errors import ConfigError
from agent_pool.loopback import (
    DroppedConnection,
    ErrorResponse,
    LoopbackAPI,
    ModelReply,
    Script,
    StreamError,
    TextBlock,
    ToolUseBlock,
)
from support.http_client import Response, ask, body_of, connect, send


def reply_to(script: Script, **fields: Any) -> Response:
    with LoopbackAPI(script).in_thread() as api:
        return ask(api, **fields)


def test_the_default_script_echoes_the_task() -> None:
    with LoopbackAPI().in_thread() as api:
        message = ask(api, "good morning").json
    assert message["content"] == [{"type": "text", "text": "echo: good morning"}]
    assert {key: message[key] for key in ("type", "role", "model", "stop_reason")} == {
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "stop_reason": "end_turn",
    }


def test_a_streamed_reply_has_the_api_events_in_order() -> None:
    events = reply_to(
        lambda _: [TextBlock("one"), ToolUseBlock("Bash", {"command": "ls"})], stream=True
    )
    assert [event["type"] for event in events.events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_a_stream_starts_with_prompt_usage_and_ends_with_total() -> None:
    events = reply_to(lambda _: "x" * 400, stream=True).events
    started, ended = events[0]["message"], events[-2]
    assert (started["content"], started["stop_reason"]) == ([], None)
    assert started["usage"]["output_tokens"] == 1
    assert ended["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert ended["usage"] == {**started["usage"], "output_tokens": 107}


def test_a_streamed_tool_call_sends_its_input_as_json_chunks() -> None:
    command = {"command": "echo 'ü'", "timeout": 5}
    call = ToolUseBlock("Bash", command, id="toolu_x")
    events = reply_to(
        lambda _: ModelReply(call, delta_interval=0.0001, delta_size=4), stream=True
    ).events
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert events[2]["content_block"] == {
        "type": "tool_use",
        "id": "toolu_x",
        "name": "Bash",
        "input": {},
    }
    assert {delta["type"] for delta in deltas} == {"input_json_delta"}
    assert json.loads("".join(delta["partial_json"] for delta in deltas)) == command
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_tool_calls_without_an_id_get_different_ids() -> None:
    calls = reply_to(lambda _: [ToolUseBlock("Read"), ToolUseBlock("Read")]).json["content"]
    assert len({call["id"] for call in calls}) == 2


def test_a_paced_text_comes_in_chunks() -> None:
    events = reply_to(
        lambda _: ModelReply("abcdefgh", delta_interval=0.0001, delta_size=3), stream=True
    ).events
    texts = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert texts == ["abc", "def", "gh"]


def test_delay_is_before_the_reply_and_pace_before_each_delta(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    slept: list[float] = []
    monkeypatch.setattr("agent_pool.loopback.exchange.asyncio.sleep", sleep)
    reply_to(lambda _: ModelReply("abcdefgh", delay=5, delta_interval=2, delta_size=3), stream=True)
    reply_to(
        lambda _: ModelReply("abcdefgh", delay=6, delta_interval=2, delta_size=3), stream=False
    )
    reply_to(lambda _: ErrorResponse(500, delay=7))
    assert slept == [5, 2, 2, 2, 6, 7]


def test_a_text_with_lone_surrogates_is_received_and_sent_unchanged() -> None:
    assert reply_to(lambda request: request.last_user_text, text="\ud800").json["content"] == [
        {"type": "text", "text": "\ud800"}
    ]


def test_the_stop_reason_and_the_usage_can_be_set() -> None:
    reply = ModelReply("cut short", stop_reason="max_tokens", usage={"output_tokens": 4096})
    message = reply_to(lambda _: reply).json
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("max_tokens", 4096)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_can_name_a_model_details_and_headers(stream: bool) -> None:
    reply = ModelReply(
        "partly",
        stop_reason="refusal",
        stop_details={"category": "cyber"},
        model="claude-other",
        headers={"anthropic-ratelimit-unified-status": "allowed"},
    )
    response = reply_to(lambda _: reply, stream=stream)
    assert response.headers["anthropic-ratelimit-unified-status"] == "allowed"
    started = response.events[0]["message"] if stream else response.json
    ended = response.events[-2]["delta"] if stream else response.json
    assert started["model"] == "claude-other"
    assert (ended["stop_reason"], ended["stop_details"]) == ("refusal", {"category": "cyber"})


def test_a_script_can_be_an_async_function() -> None:
    async def script(request: Any) -> str:
        return f"late {request.last_user_text}"

    assert reply_to(script, text="bird").text == "late bird"


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (
            ErrorResponse(401, message="invalid x-api-key"),
            "authentication_error",
            "invalid x-api-key",
        ),
        (ErrorResponse(429, retry_after=7), "rate_limit_error", "rate_limit_error"),
        (ErrorResponse(500), "api_error", "api_error"),
        (ErrorResponse(529, message="Overloaded"), "overloaded_error", "Overloaded"),
        (ErrorResponse(418, type="teapot_error"), "teapot_error", "teapot_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_has_the_error_form_of_the_api(
    failure: ErrorResponse, kind: str, message: str, stream: bool
) -> None:
    response = reply_to(lambda _: failure, stream=stream)
    error = response.json
    assert response.status == failure.status
    assert (error["type"], error["error"]) == ("error", {"type": kind, "message": message})
    assert response.headers.get("retry-after") == ("7" if failure.retry_after else None)


def test_a_failure_can_carry_additional_response_headers() -> None:
    failure = ErrorResponse(429, headers={"anthropic-ratelimit-unified-status": "rejected"})
    headers = reply_to(lambda _: failure).headers
    assert headers["anthropic-ratelimit-unified-status"] == "rejected"


def test_an_error_event_ends_a_stream_inside_its_last_block() -> None:
    reply: list[TextBlock | StreamError] = [
        TextBlock("half an ans"),
        StreamError("overloaded_error", "try later"),
        TextBlock("never"),
    ]
    events = reply_to(lambda _: reply, stream=True).events
    assert [event["type"] for event in events[2:]] == [
        "content_block_start",
        "content_block_delta",
        "error",
    ]
    assert events[-1]["error"] == {"type": "overloaded_error", "message": "try later"}


def test_a_stream_error_becomes_a_failure_in_an_unstreamed_reply() -> None:
    response = reply_to(lambda _: [TextBlock("half"), StreamError("overloaded_error", "try later")])
    assert (response.status, response.json["error"]["message"]) == (529, "try later")


def test_a_cut_in_mid_stream_leaves_the_response_unfinished() -> None:
    with LoopbackAPI(lambda _: [TextBlock("half an ans"), DroppedConnection()]).in_thread() as api:
        connection = connect(api.url)
        connection.request("POST", "/v1/messages", json.dumps(body_of(stream=True)))
        response = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead) as broken:
            response.read()
        connection.close()
    assert b"half an ans" in broken.value.partial
    assert b"message_stop" not in broken.value.partial


@pytest.mark.parametrize(
    ("answer", "stream"),
    [
        (DroppedConnection(), True),
        (DroppedConnection(), False),
        ([TextBlock("half"), DroppedConnection()], False),
    ],
)
def test_a_cut_before_the_reply_leaves_no_response(answer: Any, stream: bool) -> None:
    with (
        LoopbackAPI(lambda _: answer).in_thread() as api,
        pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)),
    ):
        ask(api, stream=stream)


def test_a_cut_does_not_count_as_a_client_disconnect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LoopbackAPI(lambda _: DroppedConnection()).in_thread() as api:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            ask(api)
        (request,) = api.requests
        assert (request.completed, request.disconnected) == (True, False)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        ([], "body: expected an object, got list"),
        (body_of(model=None), "model: Field required"),
        (body_of(model=5), "model: expected str, got int"),
        (body_of(stream="yes"), "stream: expected bool, got str"),
        (body_of(max_tokens=True), "max_tokens: expected int, got bool"),
        (body_of(tools={}), "tools: expected list, got dict"),
        (body_of(tools=["Bash"]), "tools.0: expected an object, got str"),
        (body_of(system=[{"text": "x"}]), "system.0: expected an object with a 'type'"),
        (body_of(messages=None), "messages: Field required"),
        (body_of(messages=[]), "messages: at least one message is required"),
        (body_of(messages=["hi"]), "messages.0: expected an object, got str"),
        (body_of(messages=[{"role": "king", "content": "x"}]), "messages.0.role: expected one of"),
        (body_of(messages=[{"role": "user"}]), "messages.0.content: Field required"),
        (body_of(messages=[{"role": "user", "content": 1}]), "messages.0.content: expected a str"),
        (
            body_of(messages=[{"role": "user", "content": [{"type": "text"}]}]),
            "messages.0.content.0.text: expected a string",
        ),
        (body_of(cache_control="yes"), "cache_control.type: expected 'ephemeral'"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_malformed_request_is_refused_with_the_api_error(
    path: str, body: Any, complaint: str
) -> None:
    with LoopbackAPI().in_thread() as api:
        response = send(api, body, path)
        assert (response.status, response.json["error"]["type"]) == (400, "invalid_request_error")
        assert complaint in response.json["error"]["message"]
        assert api.requests == []
        assert [other.status for other in api.other_requests] == [400]


def test_a_request_over_the_size_limit_is_refused() -> None:
    with LoopbackAPI(max_body=1000).in_thread() as api:
        assert ask(api, "x" * 800).status == 200
        refused = ask(api, "x" * 1000)
    assert (refused.status, refused.json["error"]["type"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    "answer", [None, 5, [TextBlock("fine"), 5], ["fine", None], b"bytes"], ids=repr
)
def test_an_invalid_answer_of_a_script_gives_a_config_error(answer: Any) -> None:
    def serve() -> None:
        with LoopbackAPI(lambda _: answer).in_thread() as api:
            responses.append(ask(api))

    responses: list[Response] = []
    with pytest.raises(ConfigError, match="a reply cannot contain"):
        serve()
    (response,) = responses
    assert (response.status, response.headers["x-should-retry"]) == (500, "false")
    assert "a reply cannot contain" in response.json["error"]["message"]


def test_invalid_reply_values_are_refused_at_construction() -> None:
    for make in (
        lambda: ModelReply("x", delay=-1),
        lambda: ModelReply("x", delta_interval=float("nan")),
        lambda: ModelReply("x", delta_size=0),
        lambda: ModelReply("x", usage={"tokens": 5}),
        lambda: ErrorResponse(200),
        lambda: TextBlock(5),  # type: ignore[arg-type]
        lambda: ToolUseBlock("Bash", {"command": object()}),
    ):
        with pytest.raises(ValueError, match=r".+ "):
            make()
