"""The daemon's side of the relays: hostile clients, clients that leave, and who sees what."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent_pool import Settings, TaskFilter, TaskRecord, ToolUse
from agent_pool.client.hello import MAX_HELLO, RelayHello
from agent_pool.daemon import relay_server
from agent_pool.daemon.relay_server import RelayServer
from agent_pool.mcp.stored_tasks import SharedTasks
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.fake_pool import FakePool, make_result
from support.mcp_client import legacy_call, modern_request
from support.mcp_task_client import EXTENSION
from support.waiting import run, wait_until

TASKS: dict[str, Any] = {"extensions": {EXTENSION: {}}}
A_TASK = {"agent": "reviewer", "task": "look"}


class HeldTasks:
    """Tasks that run until `open` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.running = 0

    async def __call__(self, agent: str, task: str, on_event: Any) -> Any:
        self.running += 1
        on_event(ToolUse("1", "Bash", {"command": "make"}))
        try:
            await self.open.wait()
        finally:
            self.running -= 1
        return make_result(f"did {task}")


@dataclass
class Served:
    """A server in this process."""

    server: RelayServer
    pool: DurablePool
    fake: FakePool
    path: Path
    lines: list[Line] = field(default_factory=list)

    async def connect(self, first: bytes | None = None, **fields: Any) -> Line:
        """Connect, and send the first line."""
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 24)
        hello = RelayHello(str(self.path.parent), True, "", os.getpid(), {}, "scope")
        writer.write(hello._replace(**fields).line() if first is None else first)
        self.lines.append(Line(reader, writer))
        return self.lines[-1]

    async def accepted(self, **fields: Any) -> Line:
        """Connect as a client that is accepted."""
        line = await self.connect(**fields)
        assert (await line.read())["is_accepted"] is True
        return line

    async def records(self) -> list[TaskRecord]:
        """Return all tasks, the oldest first."""
        return (await self.pool.tasks(TaskFilter()))[::-1]


@dataclass
class Line:
    """A client's end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self.writer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def read(self) -> dict[str, Any]:
        return dict(json.loads(await self.reader.readline()))

    async def answer(self, number: int) -> dict[str, Any]:
        while True:
            message = await self.read()
            if message.get("id") == number:
                return message

    async def close(self) -> None:
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def served(folder: Path, run_task: Any = None) -> AsyncIterator[Served]:
    settings, fake, shared = Settings(), FakePool(run_task), SharedTasks()
    async with DurablePool(fake, Store(folder / "tasks.db"), settings) as pool:
        server = RelayServer(
            pool, settings, scope="scope", shared=lambda: shared, environ={"PATH": "/bin"}
        )
        await server.start(folder / "s")
        here = Served(server, pool, fake, folder / "s")
        try:
            yield here
        finally:
            await server.close()
            for line in here.lines:
                await line.close()


HOSTILE = {
    "no JSON": (b"hello\n", "not JSON"),
    "no object": (b"[1]\n", "no JSON object"),
    "no fields": (b"{}\n", "has no protocol"),
    "an endless line": (b"x" * (MAX_HELLO + 100_000), "has more than"),
    "another scope": (None, "has other settings"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_client_with_a_wrong_first_line_is_refused(short_folder: Path, case: str) -> None:
    first, reason = HOSTILE[case]

    async def main() -> None:
        async with served(short_folder) as here:
            line = await here.connect(first, scope="other")
            answer = await line.read()
            assert answer["is_accepted"] is False
            assert reason in answer["reason"]
            assert await line.reader.read() == b""
            await wait_until(lambda: here.server.client_count == 0)

    run(main())


def test_a_client_that_says_nothing_is_dropped_in_time(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_server, "HELLO_SECONDS", 0.05)

    async def main() -> None:
        async with served(short_folder) as here:
            line = await here.connect(b'{"protocol"')
            assert await line.reader.read() == b""
            assert here.server.client_count == 0

    run(main())


def test_a_client_that_never_reads_is_dropped_and_others_served(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_server, "MAX_UNREAD", 200_000)
    monkeypatch.setattr(relay_server, "UNREAD_SECONDS", 0.5)

    async def main() -> None:
        async with served(short_folder) as here:
            deaf, other = await here.accepted(), await here.accepted()
            deaf.send(*legacy_call("list"))
            deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
            ending = asyncio.create_task(ask_without_reading(deaf))
            other.send(*legacy_call("list"))
            for number in range(10, 60):
                other.send({"id": number, "method": "tools/list"})
                assert "result" in await other.answer(number)
            await ending
            await wait_until(lambda: here.server.client_count == 1)

    run(main())


async def ask_without_reading(line: Line) -> None:
    """Ask until the connection is closed."""
    number = 100
    try:
        while True:
            line.send(*({"id": number + n, "method": "tools/list"} for n in range(50)))
            number += 50
            await line.writer.drain()
    except ConnectionError:
        pass


def test_a_client_that_leaves_cancels_its_calls_and_no_task(short_folder: Path) -> None:
    async def main() -> None:
        held = HeldTasks()
        async with served(short_folder, held) as here:
            line = await here.accepted()
            line.send(modern_request(1, "tools/call", TASKS, name="invoke", arguments=A_TASK))
            task = (await line.answer(1))["result"]
            line.send(modern_request(2, "tools/call", {}, name="invoke", arguments=A_TASK))
            await wait_until(lambda: held.running == 2)
            await line.close()
            await wait_until(lambda: held.running == 1)
            held.open.set()
            other = await here.accepted()
            state: dict[str, Any] = {"status": "working"}
            number = 10
            while state["status"] == "working":
                number += 1
                other.send(modern_request(number, "tasks/get", TASKS, taskId=task["taskId"]))
                state = (await other.answer(number))["result"]
            assert state["result"]["content"] == [{"type": "text", "text": "did look"}]
            assert [one.state for one in await here.records()] == ["succeeded", "cancelled"]

    run(main())


def test_each_client_has_its_own_project_and_variables(short_folder: Path) -> None:
    async def main() -> None:
        async with served(short_folder) as here:
            one = await here.accepted(folder="/one", environment={"KEY": "1", "PATH": "/bin"})
            two = await here.accepted(folder="/two", environment={"PATH": "/bin"})
            for line in (one, two):
                line.send(*legacy_call("invoke", agent="reviewer", task="look"))
                await line.answer(2)
            found = [(request.project, request.env) for request in here.fake.requests]
            assert found == [("/one", {"KEY": "1"}), ("/two", None)]

    run(main())


def test_a_drained_server_closes_each_client_after_its_calls(short_folder: Path) -> None:
    async def main() -> None:
        held = HeldTasks()
        async with served(short_folder, held) as here:
            idle, busy = await here.accepted(), await here.accepted()
            idle.send(*legacy_call("list"))
            await idle.answer(2)
            busy.send(*legacy_call("invoke", agent="reviewer", task="look"))
            await wait_until(lambda: held.running == 1)
            draining = asyncio.create_task(here.server.drain())
            assert await idle.reader.read() == b""
            assert not draining.done()
            held.open.set()
            assert (await busy.answer(2))["result"]["content"][0]["text"] == "did look"
            assert await busy.reader.read() == b""
            await draining

    run(main())


def test_the_socket_belongs_to_its_user_alone(short_folder: Path) -> None:
    async def main() -> None:
        (short_folder / "s").write_text("left by a daemon that was killed")
        async with served(short_folder) as here:
            assert here.path.stat().st_mode & 0o777 == 0o600
            await (await here.accepted()).close()

    run(main())


def test_a_hundred_clients_are_served_side_by_side(short_folder: Path) -> None:
    async def main() -> None:
        async with served(short_folder) as here:
            lines = await asyncio.gather(*(here.accepted() for _ in range(100)))
            for line in lines:
                line.send(*legacy_call("invoke", agent="reviewer", task="look"))
            answers = await asyncio.gather(*(line.answer(2) for line in lines))
            assert all(one["result"]["isError"] is False for one in answers)
            for line in lines:
                await line.close()
            await wait_until(lambda: here.server.client_count == 0)

    run(main())
