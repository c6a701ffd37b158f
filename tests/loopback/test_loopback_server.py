"""The start and end of the server, its other paths, and its records."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from agent_pool.errors import ConfigError
from agent_pool.loopback import (
    DroppedConnection,
    ErrorResponse,
    LoopbackAPI,
    ModelReply,
    ModelRequest,
    OtherRequest,
    PromptCache,
    TextBlock,
)
from support.http_client import TIMEOUT, Response, ask, body_of, connect, request


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def test_the_server_runs_in_the_event_loop_of_the_program() -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            response = await asyncio.to_thread(ask, api, "hi")
            assert response.text == "echo: hi"

    asyncio.run(main())


def test_only_the_loopback_interface_is_bound() -> None:
    with LoopbackAPI().in_thread() as api:
        port = port_of(api.url)
        connections = psutil.Process().net_connections("inet")
        bound = [c.laddr.ip for c in connections if c.laddr.port == port and not c.raddr]
    assert bound == ["127.0.0.1"]


@pytest.mark.parametrize("steps", range(6))
def test_a_server_cancelled_at_any_step_leaves_no_open_socket(steps: int) -> None:
    async def visit() -> None:
        async with LoopbackAPI():
            pass

    async def main() -> None:
        visiting = asyncio.create_task(visit())
        for _ in range(steps):
            await asyncio.sleep(0)
        visiting.cancel()
        await asyncio.wait([visiting])
        assert len(asyncio.all_tasks()) == 1

    before = psutil.Process().net_connections("inet")
    asyncio.run(main())
    assert psutil.Process().net_connections("inet") == before


def test_the_server_leaves_signal_handlers_to_the_program() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def main() -> list[Any]:
        async with LoopbackAPI():
            return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    with asyncio.Runner() as runner:
        runner.get_loop()
        during = runner.run(main())
    assert during[1] == before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_error_for_a_taken_port_names_the_port() -> None:
    with LoopbackAPI().in_thread() as api:
        port = port_of(api.url)
        with (
            pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"),
            LoopbackAPI(port=port).in_thread(),
        ):
            pass


def test_a_port_can_be_chosen_and_is_free_again_afterwards() -> None:
    with LoopbackAPI().in_thread() as api:
        port = port_of(api.url)
    with LoopbackAPI(port=port).in_thread() as api:
        assert port_of(api.url) == port
        assert ask(api).status == 200


def test_an_api_object_can_be_started_only_once() -> None:
    api = LoopbackAPI()
    with pytest.raises(RuntimeError, match="not started"):
        _ = api.url
    with api.in_thread():
        pass
    with pytest.raises(RuntimeError, match="started before"), api.in_thread():
        pass


def test_env_holds_the_url_and_key_for_a_client() -> None:
    with LoopbackAPI().in_thread() as api:
        assert api.env["ANTHROPIC_BASE_URL"] == api.url
        assert api.env["ANTHROPIC_API_KEY"]


def test_count_tokens_gives_the_input_tokens_of_a_message() -> None:
    with LoopbackAPI().in_thread() as api:
        counted = request(
            api, "POST", "/v1/messages/count_tokens", json.dumps(body_of("hello")).encode()
        )
        usage = ask(api, "hello").json["usage"]
        assert counted.json == {"input_tokens": usage["input_tokens"]}
        assert len(api.requests) == 1


def test_other_paths_are_answered_and_recorded() -> None:
    with LoopbackAPI().in_thread() as api:
        models = request(api, "GET", "/v1/models?limit=5").json
        assert models["data"][0]["type"] == "model"
        assert request(api, "GET", "/").status == 200
        assert request(api, "HEAD", "/").body == b""
        unknown = request(api, "POST", "/api/event_logging/batch", b"{}")
        assert unknown.json["error"]["type"] == "not_found_error"
        assert request(api, "GET", "/v1/messages").status == 404
        assert api.other_requests == [
            OtherRequest("GET", "/v1/models?limit=5", 200),
            OtherRequest("GET", "/", 200),
            OtherRequest("HEAD", "/", 200),
            OtherRequest("POST", "/api/event_logging/batch", 404),
            OtherRequest("GET", "/v1/messages", 404),
        ]


def test_a_request_is_recorded_with_its_headers_path_and_time() -> None:
    with LoopbackAPI(clock=lambda: 42.0).in_thread() as api:
        headers = {"X-Claude-Code-Session-Id": "s1"}
        request(api, "POST", "/v1/messages?beta=true", json.dumps(body_of("hi")).encode(), headers)
        (seen,) = api.requests
    assert (seen.index, seen.path, seen.received_at) == (0, "/v1/messages?beta=true", 42.0)
    assert (seen.headers["x-claude-code-session-id"], seen.session_id) == ("s1", "s1")
    assert (seen.model, seen.stream, seen.last_user_text) == ("claude-test", False, "hi")
    assert (seen.completed, seen.disconnected) == (True, False)


def test_a_failure_is_recorded_but_not_billed() -> None:
    with LoopbackAPI(lambda _: ErrorResponse(529)).in_thread() as api:
        ask(api)
        (seen,) = api.requests
        assert (seen.usage, seen.completed, api.usage.entries) == (None, True, [])


def test_the_books_hold_the_usage_that_the_replies_reported() -> None:
    with LoopbackAPI().in_thread() as api:
        reported = [ask(api, "one", model=model).json["usage"] for model in ("a", "b", "b")]
        assert [entry.usage.as_json() for entry in api.usage.entries] == reported
        assert [seen.usage for seen in api.requests] == [entry.usage for entry in api.usage.entries]
        assert {model: sum.requests for model, sum in api.usage.by_model.items()} == {
            "a": 1,
            "b": 2,
        }
        assert api.usage.total.usage.output_tokens == sum(
            each["output_tokens"] for each in reported
        )
        assert api.usage.since(1).requests == 2


def test_only_requests_after_a_first_reply_read_the_cache() -> None:
    system = [{"type": "text", "text": "x" * 200, "cache_control": {"type": "ephemeral"}}]

    async def main() -> None:
        go = asyncio.Event()

        async def script(request: ModelRequest) -> str | ErrorResponse:
            if request.last_user_text == "fail":
                return ErrorResponse(500)
            if request.last_user_text == "hold":
                await go.wait()
            return "fine"

        async with LoopbackAPI(script, cache=PromptCache(minimum=0)) as api:

            async def read_by(task: str) -> int:
                response = await asyncio.to_thread(ask, api, task, system=system)
                return int(response.json["usage"]["cache_read_input_tokens"])

            await asyncio.to_thread(ask, api, "fail", system=system)
            held = asyncio.create_task(read_by("hold"))
            await api.wait_until(lambda: len(api.requests) == 2)
            assert await read_by("before any reply") == 0
            assert await read_by("after a reply") > 50
            go.set()
            assert await held == 0

    asyncio.run(main())


def test_the_number_of_records_is_bounded_but_totals_are_complete() -> None:
    with LoopbackAPI(keep_requests=3).in_thread() as api:
        for number in range(5):
            ask(api, str(number))
            request(api, "GET", f"/{number}")
        assert [seen.last_user_text for seen in api.requests] == ["2", "3", "4"]
        assert [other.path for other in api.other_requests] == ["/2", "/3", "/4"]
        assert [entry.index for entry in api.usage.entries] == [2, 3, 4]
        assert api.usage.total.requests == 5


def test_a_script_can_hold_its_answer_until_an_event() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def script(_: ModelRequest) -> str:
            await go.wait()
            return "gone"

        async with LoopbackAPI(script) as api:
            asking = asyncio.create_task(asyncio.to_thread(ask, api))
            await api.wait_until(lambda: len(api.requests) == 1)
            assert (api.requests[0].completed, api.usage.entries) == (False, [])
            go.set()
            assert (await asking).text == "gone"
            assert api.requests[0].completed

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_disconnect_is_noticed_and_cancels_its_script(stream: bool) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def script(_: ModelRequest) -> str:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return "never"

        async with LoopbackAPI(script) as api:
            connection = connect(api.url)
            body = json.dumps(body_of(stream=stream))
            await asyncio.to_thread(connection.request, "POST", "/v1/messages", body)
            await api.wait_until(lambda: len(api.requests) == 1)
            assert not api.requests[0].disconnected
            connection.close()
            await api.wait_until(lambda: api.requests[0].disconnected)
            await asyncio.wait_for(ended.wait(), TIMEOUT)
            assert not api.requests[0].completed

    asyncio.run(main())


def test_a_disconnect_within_a_request_does_not_harm_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LoopbackAPI().in_thread() as api:
        connection = connect(api.url)
        connection.putrequest("POST", "/v1/messages")
        connection.putheader("content-length", "1000")
        connection.endheaders(b"{")
        connection.close()
        api.block_until(lambda: len(api.other_requests) == 1)
        assert ask(api).status == 200
    assert caplog.records == []


def test_closing_the_server_does_not_wait_for_held_requests() -> None:
    async def main() -> None:
        async def script(_: ModelRequest) -> str:
            await asyncio.Event().wait()
            return "never"

        async with LoopbackAPI(script) as api:
            asking = asyncio.create_task(asyncio.to_thread(ask, api))
            await api.wait_until(lambda: len(api.requests) == 1)
        with pytest.raises(OSError):  # noqa: PT011 - reset or closed, as the system has it
            await asyncio.wait_for(asking, TIMEOUT)
        assert api.requests[0].disconnected

    asyncio.run(asyncio.wait_for(main(), TIMEOUT))


def test_an_error_in_the_script_is_raised_at_the_end() -> None:
    def script(request: ModelRequest) -> str:
        assert request.last_user_text == "expected", "not the expected task"
        return "fine"

    def serve() -> None:
        with LoopbackAPI(script).in_thread() as api:
            responses.extend([ask(api, "another"), ask(api, "expected")])

    responses: list[Response] = []
    with pytest.raises(AssertionError, match="not the expected task"):
        serve()
    refused, answered = responses
    assert refused.status == 500
    assert "AssertionError: not the expected task" in refused.json["error"]["message"]
    assert answered.text == "fine"


def test_a_script_error_becomes_a_note_of_the_test_error() -> None:
    def script(_: ModelRequest) -> str:
        raise LookupError("in the script")

    def serve() -> None:
        with LoopbackAPI(script).in_thread() as api:
            ask(api)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        serve()
    assert "LookupError('in the script')" in caught.value.__notes__[0]


def test_an_unsendable_answer_drops_the_client_and_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def serve() -> None:
        unsendable: Any = object()
        with LoopbackAPI(lambda _: ModelReply("x", stop_reason=unsendable)).in_thread() as api:
            with pytest.raises(OSError):  # noqa: PT011 - reset or closed, as the system has it
                ask(api)
            assert not api.requests[0].completed

    with pytest.raises(TypeError, match="not JSON serializable"):
        serve()
    assert caplog.records == []


def test_the_script_can_be_replaced_while_serving() -> None:
    with LoopbackAPI().in_thread() as api:
        assert ask(api, "a").text == "echo: a"
        api.script = lambda _: "other"
        assert ask(api, "a").text == "other"


def test_wait_until_stops_checking_its_condition_after_its_timeout() -> None:
    looks = []

    def never() -> bool:
        looks.append("look")
        return False

    async def main() -> None:
        async with LoopbackAPI() as api:
            with pytest.raises(TimeoutError):
                await api.wait_until(never, timeout=0.01)
            await asyncio.to_thread(ask, api)
            assert looks == ["look"]
            await api.wait_until(lambda: len(api.requests) == 1, timeout=0)

    asyncio.run(main())


def test_an_error_in_a_condition_reaches_the_waiting_caller() -> None:
    with LoopbackAPI().in_thread() as api, pytest.raises(IndexError):
        api.block_until(lambda: api.requests[0].completed)


def test_many_clients_are_served_at_the_same_time() -> None:
    async def main() -> None:
        async with LoopbackAPI(lambda request: TextBlock(request.last_user_text)) as api:
            asking = (asyncio.to_thread(ask, api, str(n), stream=True) for n in range(20))
            texts = [response.text for response in await asyncio.gather(*asking)]
            assert texts == [str(n) for n in range(20)]
            assert sorted(seen.index for seen in api.requests) == list(range(20))

    asyncio.run(main())


def test_a_cut_does_not_close_the_other_connections() -> None:
    with LoopbackAPI(
        lambda request: DroppedConnection() if request.stream else "fine"
    ).in_thread() as api:
        kept = connect(api.url)
        for _ in range(2):
            kept.request("POST", "/v1/messages", json.dumps(body_of()))
            assert kept.getresponse().read()
            with pytest.raises(OSError):  # noqa: PT011 - reset or closed, as the system has it
                ask(api, stream=True)
        kept.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_module_serves_requests_until_it_gets_a_signal(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "agent_pool.loopback"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(5)]
        env = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines[1:])
        connection = connect(env["ANTHROPIC_BASE_URL"])
        connection.request("POST", "/v1/messages", json.dumps(body_of("hi")))
        assert b"echo: hi" in connection.getresponse().read()
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)
        connection.close()
    assert (process.returncode, out, err) == (0, b"", b"")


def test_the_module_reports_a_taken_port_with_exit_code_2() -> None:
    with LoopbackAPI().in_thread() as api:
        port = str(port_of(api.url))
        command = [sys.executable, "-m", "agent_pool.loopback", "--port", port]
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"cannot listen on 127.0.0.1:{port}".encode() in done.stderr
    assert b"Traceback" not in done.stderr
