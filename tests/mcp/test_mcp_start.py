"""The start of the server: it answers greetings while it is loaded, and loses no message."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp_types import (
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS, SUPPORTED_PROTOCOL_VERSIONS

from agent_pool.loopback import LoopbackAPI
from agent_pool.mcp.agent_list import AgentNames
from agent_pool.mcp.greeting import MAX_GREETING, MAX_GREETINGS, NEWEST, VERSIONS, Greeter
from agent_pool.mcp.server import EarlyList, build_server, initialization_options
from agent_pool.mcp.stdio import UnansweredOnly
from support.fake_pool import FakePool
from support.json_lines import as_lines
from support.mcp_client import modern_request
from support.mcp_server import ServerProcess, ServerProject
from support.variants import later
from support.waiting import TEST_TIMEOUT, run

CLAUDE_CODE = {
    "name": "claude-code",
    "title": "Claude Code",
    "version": "2.1.330",
    "description": "Anthropic's agentic coding tool",
    "websiteUrl": "https://claude.com/claude-code",
}
ABLE = {
    "roots": {"listChanged": True},
    "elicitation": {"form": {}, "url": {}},
    "extensions": {"io.modelcontextprotocol/tasks": {}},
}


def initialize(number: int | str = 1, **changes: Any) -> dict[str, Any]:
    params = {"protocolVersion": "2025-11-25", "capabilities": ABLE, "clientInfo": CLAUDE_CODE}
    return {"jsonrpc": "2.0", "id": number, "method": "initialize", "params": params | changes}


def discover(number: int | str = 1, **changes: Any) -> dict[str, Any]:
    meta = {
        "protocolVersion": "2026-07-28",
        "clientInfo": CLAUDE_CODE,
        "clientCapabilities": ABLE,
    } | changes
    params = {"_meta": {f"io.modelcontextprotocol/{key}": value for key, value in meta.items()}}
    return {"jsonrpc": "2.0", "id": number, "method": "server/discover", "params": params}


def greeter_answers(*messages: Any) -> list[Any]:
    """Return the greeter's answers to messages that come all at once."""
    return [json.loads(line) for line in Greeter().receive(as_lines(*messages)).splitlines()]


async def server_answer(line: bytes) -> Any:
    """Return the server's own answer to the first line of a connection."""
    server = build_server(FakePool())
    async with (
        create_client_server_memory_streams() as ((answers, requests), server_side),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.run, *server_side, initialization_options(server))
        await requests.send(SessionMessage(jsonrpc_message_adapter.validate_json(line)))
        answer = await answers.receive()
        await requests.aclose()
    assert isinstance(answer, SessionMessage)
    return json.loads(answer.message.model_dump_json(by_alias=True, exclude_unset=True))


# The greeter


@pytest.mark.parametrize(
    "message",
    [*(initialize(protocolVersion=version) for version in VERSIONS), discover("probe-1")],
    ids=[*VERSIONS, NEWEST],
)
def test_greeter_answers_each_protocol_version_as_the_server_does(message: dict[str, Any]) -> None:
    assert greeter_answers(message) == [run(server_answer(as_lines(message)))]


def test_greeter_knows_all_protocol_versions_of_the_sdk() -> None:
    assert set(SUPPORTED_PROTOCOL_VERSIONS) | set(MODERN_PROTOCOL_VERSIONS) == {*VERSIONS, NEWEST}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
EVERYTHING = {**ABLE, "sampling": {"context": {}, "tools": {}}}
WHOLE = [initialize(capabilities=EVERYTHING), discover(clientCapabilities=EVERYTHING)]


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from objects_in(inner)


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """Build a greeting with one change at any place."""
    message = copy.deepcopy(draw(st.sampled_from(WHOLE)))
    place = draw(st.sampled_from(list(objects_in(message))))
    key = draw(st.sampled_from([*place, "more"]))
    if draw(st.integers(0, 3)) == 0:
        place.pop(key, None)
    else:
        place[key] = draw(JSON)
    return message


@given(changed(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_early_answer_to_an_unusual_greeting_matches_the_server_answer(
    message: Any, in_ascii: bool
) -> None:
    line = json.dumps(message, ensure_ascii=in_ascii).encode() + b"\n"
    if answer := Greeter().receive(line):
        assert json.loads(answer) == run(server_answer(line))


@pytest.mark.parametrize(
    "message",
    [
        initialize(protocolVersion="2024-01-01"),
        initialize(capabilities={"roots": 5}),
        initialize(capabilities={"roots": {"listChanged": "yes"}}),
        initialize(clientInfo={"name": "x"}),
        initialize(more=1),
        discover(protocolVersion="2099-01-01"),
        discover(clientCapabilities=None),
        discover(clientInfo={"name": "\ud800", "version": "half a character"}),
        initialize() | {"id": None},
        initialize() | {"id": True},
        initialize() | {"id": 1.5},
        initialize() | {"more": 1},
        {key: value for key, value in initialize().items() if key != "jsonrpc"},
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        [initialize()],
        None,
    ],
)
def test_greeter_stops_at_a_message_that_is_no_plain_greeting(message: Any) -> None:
    greeter = Greeter()
    assert greeter.receive(as_lines(message, discover(), initialize())) == b""
    assert greeter.has_ended


# A carriage return is white space in JSON; the greeter leaves such a line to the server.
CR = json.dumps(discover()).encode().replace(b" ", b"\r")


@pytest.mark.parametrize("line", [b"\n", b"{", b"\xff", b"[" * 10_000, b"1" * 5000, b"NaN", CR])
def test_greeter_stops_at_a_line_that_is_no_message(line: bytes) -> None:
    greeter = Greeter()
    assert greeter.receive(line + b"\n" + as_lines(initialize())) == b""
    assert greeter.has_ended


def test_greeter_answers_no_message_after_initialize() -> None:
    assert [answer["id"] for answer in greeter_answers(initialize(1), discover(2))] == [1]


def test_greeter_answers_discover_requests_until_the_first_other_message() -> None:
    other = modern_request(3, "tools/list", {})
    answers = greeter_answers(discover(1), discover("2"), other, discover(4))
    assert [answer["id"] for answer in answers] == [1, "2"]
    assert [answer["id"] for answer in greeter_answers(discover(1), initialize(2))] == [1]
    assert [answer["id"] for answer in greeter_answers(discover(1), discover(1))] == [1]


def test_greeter_limits_its_answers_to_fit_into_an_unread_pipe() -> None:
    answers = Greeter().receive(as_lines(*map(discover, range(100))))
    assert answers.count(b"\n") == MAX_GREETINGS
    assert len(answers) < 16 * 1024


def test_answers_to_the_longest_greetings_fit_into_an_unread_pipe() -> None:
    ids = [f"{number}{'x' * MAX_GREETING}" for number in range(MAX_GREETINGS)]
    room = MAX_GREETING - len(json.dumps(discover("")))
    answers = Greeter().receive(as_lines(*(discover(number[:room]) for number in ids)))
    assert answers.count(b"\n") == MAX_GREETINGS
    assert len(answers) < 64 * 1024


def test_greeter_stops_at_a_line_that_is_too_long() -> None:
    greeter = Greeter()
    assert greeter.receive(b" " * MAX_GREETING) == b""
    assert not greeter.has_ended
    assert greeter.receive(b" ") == b""
    assert greeter.has_ended


@given(st.data())
def test_greeter_gives_the_same_answer_for_any_split_of_bytes(data: st.DataObject) -> None:
    messages = [discover(1), discover(2), modern_request(3, "tools/list", {}), discover(4)]
    whole = as_lines(*messages[data.draw(st.integers(0, 3)) :])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    at_once, in_pieces = Greeter(), Greeter()
    answers = at_once.receive(whole)
    edges = zip([0, *cuts], [*cuts, len(whole)], strict=True)
    assert b"".join(in_pieces.receive(whole[begin:end]) for begin, end in edges) == answers
    assert in_pieces.answered == at_once.answered
    assert in_pieces.received == at_once.received == whole


# The process

GATED = """
import os, sys
with open(os.environ["GATE"]) as gate:
    gate.readline()
sys.path.remove(os.path.dirname(__file__))
del sys.modules["anyio"]
import anyio
"""


class LoadingGate:
    """A server that cannot load before its gate is opened."""

    def __init__(self, project: ServerProject, tmp_path: Path) -> None:
        stand_in = tmp_path / "first" / "anyio.py"
        stand_in.parent.mkdir()
        stand_in.write_text(GATED)
        path = tmp_path / "gate"
        os.mkfifo(path)
        self._gate = os.open(path, os.O_RDWR)  # read and write, so that no side waits to open it
        places = os.pathsep.join([str(stand_in.parent), project.env["PYTHONPATH"]])
        project.env |= {"GATE": str(path), "PYTHONPATH": places}

    def open(self) -> None:
        os.write(self._gate, b"open\n")

    def close(self) -> None:
        os.close(self._gate)


@contextmanager
def gated(tmp_path: Path, api: LoopbackAPI) -> Iterator[tuple[ServerProject, LoadingGate]]:
    project = ServerProject(tmp_path, api)
    gate = LoadingGate(project, tmp_path)
    try:
        yield project, gate
    finally:
        gate.close()


async def read_lines(process: asyncio.subprocess.Process, count: int) -> list[dict[str, Any]]:
    assert process.stdout is not None
    return [json.loads(await process.stdout.readline()) for _ in range(count)]


async def close_and_read(process: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    """Close stdin; return everything that the server writes after that."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    return [json.loads(line) async for line in process.stdout]


LEGACY = [
    initialize(1),
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    {"jsonrpc": "2.0", "id": 3, "method": "ping"},
]
MODERN = [
    discover("probe"),
    discover(1),
    *({"jsonrpc": "2.0", **modern_request(number, "tools/list", {})} for number in (2, 3)),
    discover(4),
]
ERAS = pytest.mark.parametrize(
    ("messages", "early"),
    [
        later(LEGACY, [1, 2], name="legacy"),
        pytest.param(MODERN, ["probe", 1], id=NEWEST),
    ],
)


@ERAS
def test_greetings_are_answered_before_loading_and_other_requests_after_it(
    tmp_path: Path, messages: list[Any], early: list[Any]
) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (project, gate):
                async with project.server() as server:
                    assert server.process.stdin is not None
                    server.process.stdin.write(as_lines(*messages))
                    greeted = await read_lines(server.process, len(early))
                    assert [answer["id"] for answer in greeted] == early
                    gate.open()
                    wanted = [one["id"] for one in messages if "id" in one][len(early) :]
                    answers = await read_lines(server.process, len(wanted))
                    assert sorted(answer["id"] for answer in answers) == wanted
                    assert all("result" in answer for answer in [*greeted, *answers])
                    assert await close_and_read(server.process) == []
                    assert await server.process.wait() == 0

    run(main())


@ERAS
def test_message_split_across_the_handover_is_read_completely(
    tmp_path: Path, messages: list[Any], early: list[Any]
) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (project, gate):
                async with project.server() as server:
                    assert server.process.stdin is not None
                    *first, last = messages
                    piece = as_lines(last)
                    server.process.stdin.write(as_lines(*first) + piece[:10])
                    await read_lines(server.process, len(early))
                    gate.open()
                    wanted = [one["id"] for one in first if "id" in one][len(early) :]
                    await read_lines(server.process, len(wanted))
                    server.process.stdin.write(piece[10:])
                    (answer,) = await read_lines(server.process, 1)
                    assert answer["id"] == last["id"]
                    assert "result" in answer

    run(main())


def test_greeting_split_across_the_handover_is_answered_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (project, gate):
                async with project.server() as server:
                    assert server.process.stdin is not None
                    first, second = as_lines(discover(1)), as_lines(discover(2))
                    server.process.stdin.write(first + second[:30])
                    assert [one["id"] for one in await read_lines(server.process, 1)] == [1]
                    gate.open()
                    server.process.stdin.write(second[30:])
                    assert [one["id"] for one in await read_lines(server.process, 1)] == [2]
                    assert await close_and_read(server.process) == []

    run(main())


def test_server_exits_if_the_client_leaves_before_it_is_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (project, gate):
                async with project.server() as server:
                    assert server.process.stdin is not None
                    server.process.stdin.write(as_lines(discover(1)))
                    server.process.stdin.close()
                    gate.open()
                    assert [one["id"] for one in await close_and_read(server.process)] == [1]
                    assert await server.process.wait() == 0

    run(main())


@pytest.mark.parametrize("number", [signal.SIGINT, later(signal.SIGTERM)])
def test_signal_ends_the_server_while_it_is_loading(tmp_path: Path, number: signal.Signals) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (project, _):
                async with project.server() as server:
                    assert server.process.stdin is not None
                    server.process.stdin.write(as_lines(discover(1)))
                    await read_lines(server.process, 1)
                    server.process.send_signal(number)
                    assert await server.process.wait() == -number

    run(main())


def test_child_processes_cannot_read_the_input_of_the_server() -> None:
    code = (
        "import os, subprocess, sys\n"
        "from agent_pool.mcp.opening import Opening\n"
        "opening = Opening()\n"
        "assert subprocess.run(['cat'], capture_output=True, check=True).stdout == b''\n"
        "assert os.read(0, 1) == b''\n"
        "opening.read_agents(None)\n"
        "stdin, greeter = opening.hand_over()\n"
        "print(stdin.read(), greeter.answered)\n"
    )
    words = "some words, more than are read at once\n" * 10_000
    assert run_python(code, words) == f"{words} []\n"


def test_server_takes_over_even_if_the_client_sends_no_message() -> None:
    code = (
        "from agent_pool.mcp.opening import Opening\n"
        "stdin, greeter = Opening().hand_over()\n"
        "print('taken over', flush=True)\n"
        "print(stdin.readline(), end='')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            ready, _, _ = select.select([server.stdout], [], [], TEST_TIMEOUT)
            assert ready
            assert server.stdout.readline() == b"taken over\n"
            rest, _ = server.communicate(b"at last\n", timeout=TEST_TIMEOUT)
            assert rest == b"at last\n"
        finally:
            server.kill()


def test_only_the_first_server_answer_to_a_greeting_is_dropped() -> None:
    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[SessionMessage](9)
        messages: list[JSONRPCMessage] = [
            JSONRPCRequest(jsonrpc="2.0", id=1, method="elicitation/create"),
            JSONRPCResponse(jsonrpc="2.0", id=2, result={}),
            JSONRPCResponse(jsonrpc="2.0", id=1, result={}),
            JSONRPCError(jsonrpc="2.0", id="a", error=ErrorData(code=1, message="no")),
            JSONRPCResponse(jsonrpc="2.0", id=1, result={"again": True}),
            confirmation("listen:0"),
            confirmation("listen:0"),
            confirmation("listen:1"),
        ]
        greeter = Greeter()
        greeter.answered, greeter.acknowledged = [1, "a"], ["listen:0"]
        async with UnansweredOnly(send, greeter, EarlyList()) as stream:
            for message in messages:
                await stream.send(SessionMessage(message))
        async with receive:
            passed = [item.message async for item in receive]
        assert passed == [messages[number] for number in (0, 1, 4, 6, 7)]

    run(main())


def confirmation(subscription: str) -> JSONRPCNotification:
    return JSONRPCNotification(
        jsonrpc="2.0",
        method="notifications/subscriptions/acknowledged",
        params={"_meta": {"io.modelcontextprotocol/subscriptionId": subscription}},
    )


# The first list of tools


def listen(number: int | str) -> dict[str, Any]:
    request = discover(number) | {"method": "subscriptions/listen"}
    request["params"]["notifications"] = {"toolsListChanged": True}
    return request


CLAUDE_LEGACY = [
    initialize(1),
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": "list", "method": "tools/list"},
]
CLAUDE_MODERN = [
    discover("probe"),
    listen("listen:0"),
    discover(0),
    discover("list") | {"method": "tools/list"},
]
"""What Claude Code 2.1.332 sends first; it waits for each answer."""
OPENINGS = pytest.mark.parametrize(
    "opening",
    [
        later(CLAUDE_LEGACY, name="legacy"),
        pytest.param(CLAUDE_MODERN, id=NEWEST),
    ],
)
AGENTS = AgentNames([("reviewer", "Reviews code."), ("writer", "Writes.")])


async def open_early(server: ServerProcess, opening: list[Any]) -> dict[str, Any]:
    """Send the first messages one by one; return the early list of tools."""
    assert server.process.stdin is not None
    for message in opening:
        server.process.stdin.write(as_lines(message))
        if "id" in message:
            (answer,) = await read_lines(server.process, 1)
            if message["method"] == "subscriptions/listen":
                meta = answer["params"]["_meta"]
                assert meta == {"io.modelcontextprotocol/subscriptionId": message["id"]}
            else:
                assert answer["id"] == message["id"]
    result: dict[str, Any] = answer["result"]
    return result


@OPENINGS
def test_claude_code_gets_the_list_of_tools_before_the_sdk_is_imported(
    tmp_path: Path, opening: list[Any]
) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (project, gate):
                async with project.server() as server:
                    early = await open_early(server, opening)
                    assert "- reviewer: Reviews code." in early["tools"][0]["description"]
                    gate.open()  # the SDK cannot be imported before
                    assert server.process.stdin is not None
                    server.process.stdin.write(as_lines(opening[-1] | {"id": "again"}))
                    (answer,) = await read_lines(server.process, 1)
                    assert answer["id"] == "again"
                    assert answer["result"] == early  # exactly the server's own list
                    # Only the subscription ends with an answer: nothing was sent twice.
                    rest = [message["id"] for message in await close_and_read(server.process)]
                    assert rest in ([], ["listen:0"])

    run(main())


@OPENINGS
def test_client_learns_that_the_early_list_of_tools_was_not_right(
    tmp_path: Path, opening: list[Any]
) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (project, gate):
                project.agent("writer", description="Writes.", expertise="nowhere")  # unusable
                async with project.server() as server:
                    early = await open_early(server, opening)
                    assert "- writer: Writes." in early["tools"][0]["description"]
                    gate.open()
                    (news,) = await read_lines(server.process, 1)
                    assert news["method"] == "notifications/tools/list_changed"
                    assert server.process.stdin is not None
                    server.process.stdin.write(as_lines(opening[-1] | {"id": "again"}))
                    (answer,) = await read_lines(server.process, 1)
                    description = answer["result"]["tools"][0]["description"]
                    assert description.endswith("says why): writer")

    run(main())


@OPENINGS
@pytest.mark.parametrize(("version", "limit"), [("2.1.197", 2048), ("2.1.332", 4096)])
def test_early_list_is_as_long_as_the_client_takes(
    opening: list[Any], version: str, limit: int
) -> None:
    messages = json.loads(json.dumps(opening).replace("2.1.330", version))
    greeter = Greeter(lambda: AgentNames([("x", "word " * 5000)]))
    listed = json.loads(greeter.receive(as_lines(*messages)).splitlines()[-1])
    assert limit - 10 < len(listed["result"]["tools"][0]["description"]) <= limit


@OPENINGS
def test_greeter_leaves_the_list_of_tools_to_the_server_in_doubt(opening: list[Any]) -> None:
    *first, listing = opening
    other = json.loads(json.dumps(opening).replace("claude-code", "other"))
    cases: list[tuple[list[Any], AgentNames | None]] = [
        (opening, None),  # the agents are not plain
        ([*first, listing | {"params": {"cursor": "x"}}], AGENTS),
        (other, AGENTS),
        ([listing], AGENTS),
    ]
    for messages, agents in cases:
        greeter = Greeter(lambda agents=agents: agents)  # type: ignore[misc]
        assert b'"tools": [' not in greeter.receive(as_lines(*messages))
        assert greeter.has_ended
    assert b'"tools": [' in Greeter(lambda: AGENTS).receive(as_lines(*opening))


def test_greeter_imports_neither_the_sdk_nor_the_command_line() -> None:
    code = (
        "import sys\n"
        "import agent_pool.mcp.opening\n"
        "print(sorted({'mcp', 'mcp_types', 'pydantic', 'click', 'asyncio'} & sys.modules.keys()))"
    )
    assert run_python(code) == "[]\n"
    modules = imported_modules("-m", "agent_pool", "serve")
    assert "click" not in modules[: modules.index("agent_pool.mcp.opening")]


def test_optional_parts_of_the_sdk_are_loaded_only_on_demand() -> None:
    code = (
        "import sys\n"
        "from agent_pool.mcp.loading import load_server\n"
        "load_server()\n"
        "print({'mcp.client.client', 'mcp.server.mcpserver'} & sys.modules.keys())\n"
        "from mcp import Client\n"
        "from mcp.server import MCPServer\n"
        "import mcp.server.lowlevel, mcp\n"
        "print(Client.__name__, mcp.Client is Client, mcp.server.MCPServer is MCPServer)\n"
    )
    assert run_python(code) == "set()\nClient True True\n"


def run_python(code: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=given,
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_modules(*arguments: str) -> list[str]:
    """Return the modules in the order in which a program imports them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
    )
    return [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
