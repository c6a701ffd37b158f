"""Lines that are no messages: the client gets an error for each, and the server continues."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import JSONRPCRequest, jsonrpc_message_adapter
from pydantic import ValidationError

from agent_pool.loopback import LoopbackAPI
from agent_pool.mcp.lines import CheckedLines, refuse
from support.json_lines import as_lines
from support.mcp_client import legacy_call, modern_request
from support.mcp_server import ServerProcess, ServerProject
from support.waiting import run

PARSE_ERROR, INVALID_REQUEST = -32700, -32600
HALF = '{"jsonrpc": "2.0", "id": "h", "method": "tools/call", "params": {"name": "\\ud83d"}}'


def request(**changes: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": "ping"} | changes


REFUSED: list[tuple[str, int, Any]] = [
    ("{", PARSE_ERROR, None),
    ('{"jsonrpc": "2.0", "id": 7, "method": "pi', PARSE_ERROR, None),
    ("\ufeff" + json.dumps(request()), PARSE_ERROR, None),
    ("[" * 100_000, PARSE_ERROR, None),
    (HALF, PARSE_ERROR, "h"),
    (json.dumps(request(id="\ud83d")), PARSE_ERROR, "\ud83d"),
    (json.dumps([]), INVALID_REQUEST, None),
    (json.dumps([request(id=1), request(id=2)]), INVALID_REQUEST, None),
    ("5", INVALID_REQUEST, None),
    (json.dumps(request(params=[1])), INVALID_REQUEST, 7),
    (json.dumps(request(params="x")), INVALID_REQUEST, 7),
    (json.dumps(request(jsonrpc="1.0")), INVALID_REQUEST, 7),
    (json.dumps(request(method=5)), INVALID_REQUEST, 7),
    (json.dumps({"jsonrpc": "2.0", "id": 7}), INVALID_REQUEST, 7),
    (json.dumps(request(id=None)), INVALID_REQUEST, None),
    (json.dumps(request(id=True)), INVALID_REQUEST, None),
    (json.dumps(request(id=[7])), INVALID_REQUEST, None),
    (json.dumps(request(id=1.5)), INVALID_REQUEST, 1.5),
    ('{"jsonrpc": "2.0", "id": 1e400, "method": "ping"}', INVALID_REQUEST, None),
]
ASK_LAST = request(id="last")


@pytest.mark.parametrize("phase", ["before", "after"])
def test_every_malformed_line_is_answered_and_logged(tmp_path: Path, phase: str) -> None:
    lines = "".join(line + "\n" for line, _, _ in REFUSED).encode()
    greeting = as_lines(*({"jsonrpc": "2.0", **one} for one in legacy_call("list")[:2]))

    async def main() -> None:
        async with LoopbackAPI() as api:
            project = ServerProject(tmp_path, api)
            async with project.server() as server:
                assert server.process.stdin is not None
                messages = (lines + greeting) if phase == "before" else (greeting + lines)
                server.process.stdin.write(messages + as_lines(ASK_LAST))
                answers = await read_until(server, "last")
            assert project.stderr.count("refused a line of the client") == len(REFUSED)
        errors = [(one["error"]["code"], one["id"]) for one in answers if "error" in one]
        assert errors == [(code, number) for _, code, number in REFUSED]
        assert sorted(str(one["id"]) for one in answers if "result" in one) == ["1", "last"]

    run(main())


async def read_until(server: ServerProcess, number: str) -> list[dict[str, Any]]:
    """Return all answers up to the one with this id."""
    assert server.process.stdout is not None
    answers: list[dict[str, Any]] = []
    while not answers or answers[-1]["id"] != number:
        answers.append(json.loads(await server.process.stdout.readline()))
    return answers


def test_log_lines_of_the_server_have_escapes_for_foreign_controls(tmp_path: Path) -> None:
    cli = tmp_path / "claude"
    foreign = r"\033]0;owned\007 \302\233 \342\200\256"  # OSC, C1, and an override of direction
    cli.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && exec echo '2.1.332 (Claude Code)'\n"
        f"printf '{foreign}\\n' >&2\nexit 1\n"
    )
    cli.chmod(0o700)

    async def main() -> str:
        async with LoopbackAPI() as api:
            project = ServerProject(tmp_path, api)
            project.env["CLAUDE_CLI"] = str(cli)
            async with project.server() as server:
                server.call("invoke", agent="reviewer", task="look")
                assert (await server.answer(2))["result"]["isError"]
            return project.stderr

    log = run(main())
    assert r"\x1b]0;owned\x07 \x9b \u202e" in log
    assert not set(log) & set("\x1b\x07\x9b\u202e")


def test_request_with_a_wrong_tool_argument_list_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api, ServerProject(tmp_path, api).server() as server:
            params = {"name": "list", "arguments": []}
            server.send(modern_request(1, "tools/call", {}) | {"params": params})
            assert (await server.answer(1))["error"]["code"] in (-32600, -32602)

    run(main())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
MEMBERS = st.fixed_dictionaries(
    {}, optional={"jsonrpc": st.just("2.0") | JSON, "id": JSON, "method": st.text() | JSON}
)


@given(st.one_of(st.text(), JSON.map(json.dumps), MEMBERS.map(json.dumps)))
def test_each_line_is_either_passed_on_or_refused_with_valid_json(line: str) -> None:
    refusal = refuse(line)
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError:
        assert refusal is not None
    else:
        # A request is never lost: what has an id and a method is passed on as a request.
        names = json.loads(line)
        is_request = isinstance(message, JSONRPCRequest)
        assert (refusal is None) == (is_request or "id" not in names or "method" not in names)
    if refusal is not None and refusal.code:
        response = json.loads(refusal.response(), parse_constant=lambda name: 1 / 0)
        assert response["error"]["code"] in (PARSE_ERROR, INVALID_REQUEST)
        assert response["id"] is None or type(response["id"]) in (int, float, str)


def test_wrong_responses_and_blank_lines_are_not_answered() -> None:
    async def main() -> None:
        async def lines() -> Any:
            for line in ("\n", " \r\n", '{"jsonrpc": "2.0", "id": 1, "result": []}', "{"):
                yield line

        written: list[str] = []

        async def write(text: str) -> None:
            written.append(text)

        assert [line async for line in CheckedLines(lines(), write)] == []
        assert [json.loads(one)["error"]["code"] for one in written] == [PARSE_ERROR]

    asyncio.run(main())


def test_carriage_return_inside_a_message_is_white_space(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api, ServerProject(tmp_path, api).server() as server:
            assert server.process.stdin is not None
            hello = json.dumps({"jsonrpc": "2.0", **legacy_call("list")[0]}).encode()
            server.process.stdin.write(hello.replace(b" ", b"\r") + b"\r\n")
            assert "result" in await server.answer(1)

    run(main())
