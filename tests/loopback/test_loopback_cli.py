"""The real Claude Code CLI against the loopback API."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import (
    ErrorResponse,
    LoopbackAPI,
    ModelReply,
    ModelRequest,
    TextBlock,
    ToolUseBlock,
    call_tools,
)
from support.environment import cli_environment, real_cli
from support.http_client import TIMEOUT
from support.waiting import run

pytestmark = pytest.mark.long

BOUND = 60.0


async def claude(
    api: LoopbackAPI, home: Path, *arguments: str, **variables: str
) -> list[dict[str, Any]]:
    """Run `claude -p` once, and return its frames."""
    process = await asyncio.create_subprocess_exec(
        real_cli(),
        "-p",
        *("--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions"),
        *arguments,
        cwd=home,
        env={**cli_environment(home, api.url), **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), BOUND)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return [json.loads(line) for line in out.splitlines()]


def billed(api: LoopbackAPI) -> dict[str, int]:
    usage = api.usage.total.usage
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "output_tokens": usage.output_tokens,
    }


def reported(result: dict[str, Any]) -> dict[str, int]:
    names = (
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
    )
    return {name: result["usage"][name] for name in names}


def test_the_cli_returns_the_scripted_text_and_the_billed_usage(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(lambda _: "forty-two") as api:
            result = (await claude(api, tmp_path, "what is it?"))[-1]
            assert (result["type"], result["result"]) == ("result", "forty-two")
            assert reported(result) == billed(api)
            assert result["usage"]["cache_creation_input_tokens"] > 0
            (request,) = api.requests
            assert request.last_user_text == "what is it?"
            assert request.session_id == result["session_id"]
            assert (request.is_side, request.subagent_id) == (False, "")
            assert "Bash" in request.tools
            assert request.stream
            assert request.completed

    run(main())


def test_the_cli_runs_the_tool_that_the_script_calls(tmp_path: Path) -> None:
    async def main() -> None:
        call = ToolUseBlock("Bash", {"command": "echo from-$((40 + 2))"})
        async with LoopbackAPI(call_tools(call)) as api:
            result = (await claude(api, tmp_path, "run it"))[-1]
            assert result["result"] == "tool: from-42"
            first, second = api.requests
            assert second.last_user_text == first.last_user_text == "run it"
            assert reported(result) == billed(api)
            assert first.usage is not None
            assert second.usage is not None
            written = first.usage.cache_creation_input_tokens
            assert second.usage.cache_read_input_tokens == written

    run(main())


def test_a_second_process_reads_the_prompt_cache_of_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            for task in ("one", "two"):
                await claude(api, tmp_path, task, CLAUDE_CODE_ATTRIBUTION_HEADER="0")
            first, second = (entry.usage for entry in api.usage.entries)
            assert first.cache_read_input_tokens == 0
            assert 0 < second.cache_read_input_tokens < first.cache_creation_input_tokens

    run(main())


def test_a_session_without_tools_is_not_a_side_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            result = (await claude(api, tmp_path, "hello", "--tools", ""))[-1]
            assert result["result"] == "echo: hello"
            assert [(each.tools, each.is_side) for each in api.requests] == [((), False)]

    run(main())


def test_the_request_of_a_prompt_hook_is_a_side_request(tmp_path: Path) -> None:
    def script(request: ModelRequest) -> ModelReply:
        return ModelReply(json.dumps({"ok": True, "reason": "fine"}) if request.is_side else "done")

    async def main() -> None:
        hook = {"hooks": [{"type": "prompt", "prompt": "Is it done?"}]}
        settings = json.dumps({"hooks": {"Stop": [hook]}})
        async with LoopbackAPI(script) as api:
            result = (await claude(api, tmp_path, "work", "--settings", settings))[-1]
            assert result["result"] == "done"
            assert [request.is_side for request in api.requests] == [False, True]
            assert [entry.is_side for entry in api.usage.entries] == [False, True]

    run(main())


def test_a_scripted_failure_ends_as_an_error_without_a_retry(tmp_path: Path) -> None:
    async def main() -> None:
        final = {"x-should-retry": "false"}
        failure = ErrorResponse(401, message="invalid x-api-key", headers=final)
        async with LoopbackAPI(lambda _: failure) as api:
            result = (await claude(api, tmp_path, "hello"))[-1]
            assert result["is_error"]
            assert len(api.requests) == 1
            assert billed(api) == reported(result)

    run(main())


def test_the_cli_retries_a_request_that_failed_with_529(tmp_path: Path) -> None:
    def script(request: ModelRequest) -> ErrorResponse | TextBlock:
        return ErrorResponse(529, retry_after=0) if request.index == 0 else TextBlock("at last")

    async def main() -> None:
        async with LoopbackAPI(script) as api:
            result = (await claude(api, tmp_path, "hello"))[-1]
            assert result["result"] == "at last"
            assert [each.completed for each in api.requests] == [True, True]

    run(main())


def test_the_cli_does_not_retry_after_a_script_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(lambda request: str(request.body["no such key"])) as api:
            frames.extend(await claude(api, tmp_path, "hello"))
            requests.extend(api.requests)

    frames: list[dict[str, Any]] = []
    requests: list[ModelRequest] = []
    with pytest.raises(KeyError, match="no such key"):
        run(main())
    assert "the loopback script raised KeyError" in frames[-1]["result"]
    assert len(requests) == 1


def test_a_stopped_cli_counts_as_a_disconnected_client(tmp_path: Path) -> None:
    async def script(_: ModelRequest) -> str:
        await asyncio.Event().wait()
        return "never"

    async def main() -> None:
        async with LoopbackAPI(script) as api:
            asking = asyncio.create_task(claude(api, tmp_path, "hello"))
            await api.wait_until(lambda: len(api.requests) == 1, BOUND)
            asking.cancel()
            await api.wait_until(lambda: api.requests[0].disconnected, TIMEOUT)
            await asyncio.wait([asking], timeout=TIMEOUT)
            assert asking.cancelled()

    run(main())
