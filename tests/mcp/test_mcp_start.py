"""The start of the server: greetings are answered while it is being loaded, and nothing is lost."""

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
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS, SUPPORTED_PROTOCOL_VERSIONS

from agent_pool.loopback import LoopbackAPI
from agent_pool.mcp.greeting import LONGEST, MOST, NEWEST, VERSIONS, Greeter
from agent_pool.mcp.server import build_server, initialization_options
from agent_pool.mcp.stdio import Unsaid
from mcp_fakes import FakePool
from mcp_world import World, modern
from support import BOUND, run

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


def as_lines(*messages: Any) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def said_to(*messages: Any) -> list[Any]:
    """What the greeter says to messages that come all at once."""
    return [json.loads(line) for line in Greeter().hear(as_lines(*messages)).splitlines()]


async def answered_by_the_server(line: bytes) -> Any:
    """What the server itself says to the first line of a connection."""
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


# The words


@pytest.mark.parametrize(
    "message",
    [*(initialize(protocolVersion=version) for version in VERSIONS), discover("probe-1")],
    ids=[*VERSIONS, NEWEST],
)
def test_a_greeting_is_answered_in_the_server_s_own_words(message: dict[str, Any]) -> None:
    assert said_to(message) == [run(answered_by_the_server(as_lines(message)))]


def test_all_protocols_of_the_sdk_are_greeted() -> None:
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
    """A greeting in which something, somewhere, is not as usual."""
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
def test_whatever_is_answered_early_the_server_would_answer_the_same(
    message: Any, in_ascii: bool
) -> None:
    line = json.dumps(message, ensure_ascii=in_ascii).encode() + b"\n"
    if said := Greeter().hear(line):
        assert json.loads(said) == run(answered_by_the_server(line))


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
def test_what_is_no_plain_greeting_is_left_to_the_server_with_all_after_it(message: Any) -> None:
    greeter = Greeter()
    assert greeter.hear(as_lines(message, discover(), initialize())) == b""
    assert greeter.has_ended


CR = json.dumps(discover()).encode().replace(b" ", b"\r")  # which ends a line for the SDK


@pytest.mark.parametrize("line", [b"\n", b"{", b"\xff", b"[" * 10_000, b"1" * 5000, b"NaN", CR])
def test_what_is_no_message_is_left_to_the_server(line: bytes) -> None:
    greeter = Greeter()
    assert greeter.hear(line + b"\n" + as_lines(initialize())) == b""
    assert greeter.has_ended


def test_after_initialize_nothing_more_is_answered() -> None:
    assert [answer["id"] for answer in said_to(initialize(1), discover(2))] == [1]


def test_discoveries_are_answered_up_to_the_first_other_message() -> None:
    other = modern(3, "tools/list", {})
    told = said_to(discover(1), discover("2"), other, discover(4))
    assert [answer["id"] for answer in told] == [1, "2"]
    assert [answer["id"] for answer in said_to(discover(1), initialize(2))] == [1]
    assert [answer["id"] for answer in said_to(discover(1), discover(1))] == [1]


def test_only_so_much_is_answered_as_fits_into_a_pipe_that_nobody_reads() -> None:
    said = Greeter().hear(as_lines(*map(discover, range(100))))
    assert said.count(b"\n") == MOST
    assert len(said) < 16 * 1024


def test_the_longest_greetings_are_answered_within_what_any_pipe_takes_unread() -> None:
    ids = [f"{number}{'x' * LONGEST}" for number in range(MOST)]
    room = LONGEST - len(json.dumps(discover("")))
    said = Greeter().hear(as_lines(*(discover(number[:room]) for number in ids)))
    assert said.count(b"\n") == MOST
    assert len(said) < 64 * 1024


def test_a_line_that_never_ends_is_left_to_the_server() -> None:
    greeter = Greeter()
    assert greeter.hear(b" " * LONGEST) == b""
    assert not greeter.has_ended
    assert greeter.hear(b" ") == b""
    assert greeter.has_ended


@given(st.data())
def test_the_pieces_that_bytes_come_in_make_no_difference(data: st.DataObject) -> None:
    messages = [discover(1), discover(2), modern(3, "tools/list", {}), discover(4)]
    whole = as_lines(*messages[data.draw(st.integers(0, 3)) :])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    at_once, in_pieces = Greeter(), Greeter()
    said = at_once.hear(whole)
    edges = zip([0, *cuts], [*cuts, len(whole)], strict=True)
    assert b"".join(in_pieces.hear(whole[begin:end]) for begin, end in edges) == said
    assert in_pieces.answered == at_once.answered
    assert in_pieces.heard == at_once.heard == whole


# The process

GATED = """
import os, sys
with open(os.environ["GATE"]) as gate:
    gate.readline()
sys.path.remove(os.path.dirname(__file__))
del sys.modules["anyio"]
import anyio
"""


class Gated:
    """A server that is not loaded before its gate is opened."""

    def __init__(self, world: World, tmp_path: Path) -> None:
        stand_in = tmp_path / "first" / "anyio.py"
        stand_in.parent.mkdir()
        stand_in.write_text(GATED)
        path = tmp_path / "gate"
        os.mkfifo(path)
        self._gate = os.open(path, os.O_RDWR)  # for both, so that nobody waits to open it
        world.env |= {"GATE": str(path), "PYTHONPATH": str(stand_in.parent)}

    def open(self) -> None:
        os.write(self._gate, b"open\n")

    def close(self) -> None:
        os.close(self._gate)


@contextmanager
def gated(tmp_path: Path, api: LoopbackAPI) -> Iterator[tuple[World, Gated]]:
    world = World(tmp_path, api)
    gate = Gated(world, tmp_path)
    try:
        yield world, gate
    finally:
        gate.close()


async def lines_of(process: asyncio.subprocess.Process, count: int) -> list[dict[str, Any]]:
    assert process.stdout is not None
    return [json.loads(await process.stdout.readline()) for _ in range(count)]


async def rest_of(process: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    """What else it says once its client has left."""
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
    *({"jsonrpc": "2.0", **modern(number, "tools/list", {})} for number in (2, 3)),
    discover(4),
]
ERAS = pytest.mark.parametrize(
    ("messages", "early"), [(LEGACY, [1]), (MODERN, ["probe", 1])], ids=["legacy", NEWEST]
)


@ERAS
def test_greetings_are_answered_before_the_server_is_loaded_and_all_else_after_it(
    tmp_path: Path, messages: list[Any], early: list[Any]
) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (world, gate):
                async with world.server() as server:
                    assert server.process.stdin is not None
                    server.process.stdin.write(as_lines(*messages))
                    greeted = await lines_of(server.process, len(early))
                    assert [answer["id"] for answer in greeted] == early
                    gate.open()
                    wanted = [one["id"] for one in messages if "id" in one][len(early) :]
                    answers = await lines_of(server.process, len(wanted))
                    assert sorted(answer["id"] for answer in answers) == wanted
                    assert all("result" in answer for answer in [*greeted, *answers])
                    assert await rest_of(server.process) == []
                    assert await server.process.wait() == 0

    run(main())


@ERAS
def test_a_message_of_which_a_part_has_come_when_the_server_takes_over_is_read_whole(
    tmp_path: Path, messages: list[Any], early: list[Any]
) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (world, gate):
                async with world.server() as server:
                    assert server.process.stdin is not None
                    *first, last = messages
                    piece = as_lines(last)
                    server.process.stdin.write(as_lines(*first) + piece[:10])
                    await lines_of(server.process, len(early))
                    gate.open()
                    wanted = [one["id"] for one in first if "id" in one][len(early) :]
                    await lines_of(server.process, len(wanted))
                    server.process.stdin.write(piece[10:])
                    (answer,) = await lines_of(server.process, 1)
                    assert answer["id"] == last["id"]
                    assert "result" in answer

    run(main())


def test_a_greeting_in_pieces_is_answered_by_whoever_reads_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (world, gate):
                async with world.server() as server:
                    assert server.process.stdin is not None
                    first, second = as_lines(discover(1)), as_lines(discover(2))
                    server.process.stdin.write(first + second[:30])
                    assert [one["id"] for one in await lines_of(server.process, 1)] == [1]
                    gate.open()
                    server.process.stdin.write(second[30:])
                    assert [one["id"] for one in await lines_of(server.process, 1)] == [2]
                    assert await rest_of(server.process) == []

    run(main())


def test_a_client_that_left_before_the_server_was_loaded_ends_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (world, gate):
                async with world.server() as server:
                    assert server.process.stdin is not None
                    server.process.stdin.write(as_lines(discover(1)))
                    server.process.stdin.close()
                    gate.open()
                    assert [one["id"] for one in await rest_of(server.process)] == [1]
                    assert await server.process.wait() == 0

    run(main())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_it_is_being_loaded(tmp_path: Path, number: signal.Signals) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            with gated(tmp_path, api) as (world, _):
                async with world.server() as server:
                    assert server.process.stdin is not None
                    server.process.stdin.write(as_lines(discover(1)))
                    await lines_of(server.process, 1)
                    server.process.send_signal(number)
                    assert await server.process.wait() == -number

    run(main())


def test_what_it_starts_cannot_read_what_its_client_sends() -> None:
    code = (
        "import os, subprocess, sys\n"
        "from agent_pool.mcp.opening import Opening\n"
        "opening = Opening()\n"
        "assert subprocess.run(['cat'], capture_output=True, check=True).stdout == b''\n"
        "assert os.read(0, 1) == b''\n"
        "stdin, answered = opening.hand_over()\n"
        "print(stdin.read(), answered)\n"
    )
    words = "some words, more than are read at once\n" * 10_000
    assert python(code, words) == f"{words} []\n"


def test_the_server_takes_over_from_a_client_that_says_nothing() -> None:
    code = (
        "from agent_pool.mcp.opening import Opening\n"
        "stdin, answered = Opening().hand_over()\n"
        "print('taken over', flush=True)\n"
        "print(stdin.readline(), end='')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            ready, _, _ = select.select([server.stdout], [], [], BOUND)
            assert ready
            assert server.stdout.readline() == b"taken over\n"
            said, _ = server.communicate(b"at last\n", timeout=BOUND)
            assert said == b"at last\n"
        finally:
            server.kill()


def test_only_the_first_answer_to_what_was_answered_is_kept_back() -> None:
    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[SessionMessage](9)
        messages = [
            JSONRPCRequest(jsonrpc="2.0", id=1, method="elicitation/create"),
            JSONRPCResponse(jsonrpc="2.0", id=2, result={}),
            JSONRPCResponse(jsonrpc="2.0", id=1, result={}),
            JSONRPCError(jsonrpc="2.0", id="a", error=ErrorData(code=1, message="no")),
            JSONRPCResponse(jsonrpc="2.0", id=1, result={"again": True}),
        ]
        async with Unsaid(send, [1, "a"]) as stream:
            for message in messages:
                await stream.send(SessionMessage(message))
        async with receive:
            passed = [item.message async for item in receive]
        assert passed == [messages[0], messages[1], messages[4]]

    run(main())


def test_it_greets_without_the_sdk_and_without_the_command_line() -> None:
    code = (
        "import sys\n"
        "import agent_pool.mcp.opening\n"
        "print(sorted({'mcp', 'mcp_types', 'pydantic', 'click', 'asyncio'} & sys.modules.keys()))"
    )
    assert python(code) == "[]\n"
    modules = imported_by("-m", "agent_pool", "serve")
    assert "click" not in modules[: modules.index("agent_pool.mcp.opening")]


def test_it_loads_only_what_it_needs_of_the_sdk_and_the_rest_when_that_is_wanted() -> None:
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
    assert python(code) == "set()\nClient True True\n"


def python(code: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, timeout=BOUND
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_by(*arguments: str) -> list[str]:
    """The modules in the order in which a program imports them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    return [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
