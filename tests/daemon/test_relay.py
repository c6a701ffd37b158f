"""The relay of a session: small, quick, and alive when a daemon is not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent_pool import TaskFilter, TaskRequest
from agent_pool.client import start as client
from agent_pool.client.connect import connect
from agent_pool.loopback import ModelRequest, ToolUseBlock
from agent_pool.runtime import RUNTIME_DIR, STATE_DIR
from support.mcp_client import legacy_call, modern_request
from support.mcp_server import ServerProcess
from support.mcp_task_client import EXTENSION
from support.model_scripts import echo_task
from support.process_checks import is_alive
from support.relays import call, initialize, resident_bytes, text_in, wait_for_task
from support.shared_daemons import SharedRelays
from support.variants import by_default
from support.waiting import wait_until

MB = 1_000_000
TASKS: dict[str, Any] = {"extensions": {EXTENSION: {}}}
A_TASK = {"agent": "reviewer", "task": "look"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRelays]:
    with SharedRelays.opened(tmp_path_factory.mktemp("relays")) as project:
        yield project


@pytest.fixture
def relays(shared: SharedRelays) -> SharedRelays:
    """Return the shared project with its plain model."""
    shared.reset()
    return shared


class HeldModel:
    """A model that answers each task when `go` is set; `began` has the tasks."""

    def __init__(self) -> None:
        self.began: asyncio.Queue[str] = asyncio.Queue()
        self.go = asyncio.Event()

    async def __call__(self, request: ModelRequest) -> Any:
        text = request.last_user_text.strip()
        self.began.put_nowait(text)
        await self.go.wait()
        return f"echo: {text}"


@asynccontextmanager
async def session(
    project: SharedRelays, script: Callable[[ModelRequest], Any] = echo_task
) -> AsyncIterator[ServerProcess]:
    """Start a relay for a client of the older protocol."""
    project.use_model(script)
    async with project.server() as server:
        await initialize(server)
        yield server


def test_a_task_goes_through_relay_and_daemon_to_its_answer(relays: SharedRelays) -> None:
    async def main() -> None:
        # The first relay has started the daemon, for which it has loaded more.
        async with session(relays), session(relays) as server:
            server.send(call(1, "invoke", **A_TASK))
            assert text_in(await server.answer(1)) == "echo: look"
            assert resident_bytes(server.process.pid) <= 15 * MB
            assert server.process.stdin is not None
            server.process.stdin.close()
            assert await server.process.wait() == 0

    relays.run(main())
    assert relays.stderr == ""


async def seconds_to_tools(project: SharedRelays) -> float:
    """Return the seconds from the start of a server until it has listed its tools."""
    began = time.perf_counter()
    async with project.server() as server:
        await initialize(server)
        server.send({"id": 1, "method": "tools/list"})
        tools = (await server.answer(1))["result"]["tools"]
        seconds = time.perf_counter() - began
        assert "- reviewer: Reviews code." in tools[0]["description"]
        return seconds


@pytest.mark.long
def test_a_relay_lists_tools_in_a_quarter_of_the_time(relays: SharedRelays) -> None:
    async def main() -> None:
        figures: dict[str, list[float]] = {"on": [], "off": []}
        await seconds_to_tools(relays)  # starts the daemon
        for _ in range(3):
            for switch, found in figures.items():
                relays.use(relays.api, AGENT_POOL_DAEMON=switch)
                found.append(await seconds_to_tools(relays))
        medians = {switch: statistics.median(found) for switch, found in figures.items()}
        assert medians["on"] <= 0.25 * medians["off"]

    relays.run(main())


def sending(number: signal.Signals) -> Callable[[ServerProcess], None]:
    return lambda server: server.process.send_signal(number)


def close_stdin(server: ServerProcess) -> None:
    assert server.process.stdin is not None
    server.process.stdin.close()


ENDINGS = {
    "SIGINT": (sending(signal.SIGINT), 130),
    "SIGTERM": (sending(signal.SIGTERM), 143),
    "SIGHUP": (sending(signal.SIGHUP), 129),
    "SIGKILL": (sending(signal.SIGKILL), -signal.SIGKILL),
    "stdin is closed": (close_stdin, 0),
}


@pytest.mark.parametrize("ending", by_default(["SIGTERM"], ENDINGS))
def test_a_client_that_leaves_ends_its_call_and_no_task(relays: SharedRelays, ending: str) -> None:
    end, status = ENDINGS[ending]
    model = HeldModel()

    async def main() -> None:
        async with session(relays, model) as server, connect(environ=relays.env) as pool:
            kept = await pool.submit(TaskRequest("reviewer", "kept"))
            assert await model.began.get() == "kept"
            server.send(call(1, "invoke", agent="reviewer", task="called"))
            assert await model.began.get() == "called"
            began = time.monotonic()
            end(server)
            assert await server.process.wait() == status
            assert time.monotonic() - began < 3
            called = await wait_for_task(pool, "cancelled")
            assert called.request.task == "called"
            model.go.set()
            assert (await kept.result()).text == "echo: kept"

    relays.run(main())


def test_a_daemon_killed_in_mid_call_costs_only_that_call(relays: SharedRelays) -> None:
    model = HeldModel()

    async def main() -> None:
        async with session(relays, model) as server:
            server.send(call(1, "invoke", **A_TASK))
            await model.began.get()
            killed = await relays.kill_daemon()
            error = (await server.answer(1))["error"]
            assert error["code"] == -32603
            assert "`agent-pool tasks` lists them" in error["message"]
            model.go.set()
            server.send(call(2, "invoke", **A_TASK))
            assert text_in(await server.answer(2)) == "echo: look"
            assert (await relays.wait_for_daemon()).pid != killed.pid
            async with connect(environ=relays.env) as pool:
                states = [one.state for one in await pool.tasks(TaskFilter(limit=2))]
            assert states == ["succeeded", "interrupted"]

    relays.run(main())


def test_a_session_learns_of_new_agents_after_a_new_daemon(relays: SharedRelays) -> None:
    async def main() -> None:
        async with session(relays) as server:
            server.send({"id": 1, "method": "tools/list"})
            await server.answer(1)
            await relays.kill_daemon()
            relays.agent("writer", description="Writes.")
            assert server.process.stdout is not None
            while b"tools/list_changed" not in await server.process.stdout.readline():
                pass
            server.send({"id": 2, "method": "tools/list"})
            (invoke, *_) = (await server.answer(2))["result"]["tools"]
            assert "- writer: Writes." in invoke["description"]

    relays.run(main())


def test_a_session_survives_a_daemon_that_is_replaced(relays: SharedRelays) -> None:
    model = HeldModel()

    async def main() -> None:
        async with session(relays, model) as server, session(relays, model) as idle:
            server.send(call(1, "invoke", **A_TASK))
            await model.began.get()
            first = await relays.wait_for_daemon()
            assert client.ask(first, "POST", "/v1/daemon/drain").status == 202
            model.go.set()
            assert text_in(await server.answer(1)) == "echo: look"
            await wait_until(lambda: not is_alive(first.pid))
            for one in (server, idle):
                one.send(call(2, "invoke", **A_TASK))
                assert text_in(await one.answer(2)) == "echo: look"
            assert (await relays.wait_for_daemon()).pid != first.pid

    relays.run(main())


def test_a_task_outlives_its_session_and_its_daemon(relays: SharedRelays) -> None:
    model = HeldModel()

    async def main() -> None:
        relays.use_model(model)
        async with relays.server() as server:
            server.send(modern_request(1, "tools/call", TASKS, name="invoke", arguments=A_TASK))
            created = (await server.answer(1))["result"]
            assert (created["resultType"], created["status"]) == ("task", "working")
            assert created["taskId"].startswith("reviewer-")
            await model.began.get()
            close_stdin(server)
            assert await server.process.wait() == 0
        async with relays.server() as server:
            state = await task_state(server, created["taskId"], "working")
            assert state["statusMessage"].startswith("reviewer")
            model.go.set()
            state = await task_state(server, created["taskId"], "completed")
            assert state["result"]["content"] == [{"type": "text", "text": "echo: look"}]
            async with connect(environ=relays.env) as pool:
                await pool.tasks()  # it waits until every end is on the disk
            await relays.kill_daemon()
            again = await task_state(server, created["taskId"], "completed")
            assert again["result"]["content"] == state["result"]["content"]

    relays.run(main())


def test_a_task_that_ran_when_its_daemon_was_killed_says_so(relays: SharedRelays) -> None:
    model = HeldModel()

    async def main() -> None:
        relays.use_model(model)
        async with relays.server() as server:
            many = {"tasks": [A_TASK, A_TASK | {"task": "look again"}]}
            server.send(modern_request(1, "tools/call", TASKS, name="invoke", arguments=A_TASK))
            one = (await server.answer(1))["result"]
            server.send(modern_request(2, "tools/call", TASKS, name="invoke_many", arguments=many))
            two = (await server.answer(2))["result"]
            for _ in range(3):
                await model.began.get()
            await relays.kill_daemon()
            for task in (one, two):
                state = await task_state(server, task["taskId"], "completed")
                assert state["result"]["isError"] is True
                assert "agent-pool retry" in state["result"]["content"][0]["text"]

    relays.run(main())


async def task_state(server: ServerProcess, task: str, status: str) -> dict[str, Any]:
    """Poll a task until it has this status."""
    number = 100
    while True:
        number += 1
        server.send(modern_request(number, "tasks/get", TASKS, taskId=task))
        state: dict[str, Any] = (await server.answer(number))["result"]
        if state["status"] == status:
            return state
        assert state["status"] == "working", state
        await asyncio.sleep(0.01)


def test_a_task_in_the_background_is_read_by_its_id(relays: SharedRelays) -> None:
    model = HeldModel()

    async def main() -> None:
        async with session(relays, model) as server:
            server.send(call(1, "invoke", **A_TASK, background=True))
            begun = (await server.answer(1))["result"]
            task = begun["_meta"]["agent-pool/task"]["task_id"]
            assert f'id="{task}"' in begun["content"][0]["text"]
            await model.began.get()
            server.send(call(2, "result", id=task, wait_seconds=0))
            assert "has not ended" in text_in(await server.answer(2))
            server.send(call(3, "result", id=task, wait_seconds=60))
            server.send(call(4, "result", id="reviewer-0"))
            unknown = (await server.answer(4))["result"]
            assert unknown["isError"] is True
            assert "Task not found: reviewer-0" in unknown["content"][0]["text"]
            model.go.set()
            assert text_in(await server.answer(3)) == "echo: look"

    relays.run(main())


REFUSALS = {
    "other settings": ({"AGENT_POOL_MAX_SIZE": "3"}, "started with other settings"),
    "no daemon can start": ({"AGENT_POOL_STATE_DIR": "/proc/nowhere"}, "/proc/nowhere"),
}


@pytest.mark.parametrize("case", by_default(["no daemon can start"], REFUSALS))
def test_without_a_daemon_the_relay_becomes_the_server(relays: SharedRelays, case: str) -> None:
    variables, reason = REFUSALS[case]

    async def main() -> None:
        if case == "other settings":
            relays.start(relays.api.url)
        else:
            relays.stop(now=True)
        relays.env |= variables
        async with relays.server() as server:
            await initialize(server)
            server.send(call(1, "invoke", **A_TASK))
            assert text_in(await server.answer(1)) == "echo: look"
            server.send(call(2, "list"))
            (worker,) = json.loads(text_in(await server.answer(2)))
            close_stdin(server)
            assert await server.process.wait() == 0
            await wait_until(lambda: not is_alive(worker["pid"]))

    relays.run(main())
    assert "this session has a pool of its own: " in relays.stderr
    assert reason in relays.stderr


def test_a_client_that_reads_nothing_still_ends_its_relay(relays: SharedRelays) -> None:
    async def main() -> None:
        unread, stdout = os.pipe()
        async with relays.server(stdout) as server:
            server.call("list")
            server.send(*({"id": n, "method": "tools/list"} for n in range(3, 400)))
            close_stdin(server)
            assert await server.process.wait() == 0
        os.close(unread)

    relays.run(main())


def test_a_process_of_a_worker_gets_no_pool(relays: SharedRelays) -> None:
    async def main() -> None:
        lines = [json.dumps({"jsonrpc": "2.0", **one}) for one in legacy_call("list")]
        (relays.root / "lines").write_text("\n".join(lines) + "\n")

        def script(request: ModelRequest) -> Any:
            # Workers do not have these variables; with them, the relay finds the daemon.
            own = ("AGENT_POOL_DAEMON", "AGENT_POOL_WORKER_MEMORY", "CLAUDE_CLI")
            names = (RUNTIME_DIR, STATE_DIR, *own)
            places = " ".join(f"{name}={relays.env[name]}" for name in names)
            relay = f"{places} {' '.join(relays.server_command)}"
            shell = f"(cat lines; sleep 2) | {relay} >found.txt 2>&1; true"
            return "done" if request.tool_results else ToolUseBlock("Bash", {"command": shell})

        async with session(relays, script) as server:
            server.send(call(1, "invoke", **A_TASK))
            assert text_in(await server.answer(1)) == "done"
        found = (relays.root / "found.txt").read_text()
        assert "and agents cannot use the pool" in found
        assert "this is a pool inside an agent of a pool" in found

    relays.run(main())
