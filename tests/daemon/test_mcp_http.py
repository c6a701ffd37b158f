"""MCP over HTTP on the daemon: the real Claude Code and the official client."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from agent_pool import ConfigError
from agent_pool.cli.registration import free_port
from agent_pool.client.hello import CLIENT_PID_HEADER, PROJECT_HEADER
from agent_pool.client.mcp_headers import make_headers
from agent_pool.daemon.mcp_http import HttpCallerKey, read_caller
from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock, get_result_text
from support.conformance_server import fixture_server
from support.daemons import bearer
from support.environment import real_cli
from support.mcp_client import text_of
from support.mcp_task_client import (
    EXTENSION,
    TasksOfClient,
    begin_task,
    send_request,
    wait_for_status,
)
from support.model_scripts import Gate, echo_task
from support.relays import RelayProject
from support.shared_daemons import SharedRelays
from support.waiting import run

TOOL = "mcp__agent-pool__invoke"
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


@pytest.fixture
def own(tmp_path: Path, short_folder: Path) -> Iterator[RelayProject]:
    """Return a project with a daemon of its own; afterwards none of its processes lives."""
    project = RelayProject(tmp_path, short_folder)
    yield project
    project.end()
    assert [" ".join(process.cmdline()) for process in project.processes()] == []


@asynccontextmanager
async def http_client(
    project: RelayProject, era: str, pid: int = 0, **options: Any
) -> AsyncIterator[Client]:
    """Connect the official client, as `mcp-headers` describes it."""
    headers = await asyncio.to_thread(make_headers, project.env)
    headers[CLIENT_PID_HEADER] = str(pid)
    address = await project.wait_for_daemon()
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"{address.url}/mcp", http_client=http)
        async with Client(transport, mode=era, **options) as client:
            yield client


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
def test_both_eras_reach_the_agents_of_their_project(relays: SharedRelays, era: str) -> None:
    async def main() -> None:
        async with http_client(relays, era) as client:
            (invoke, *_) = (await client.list_tools()).tools
            assert "- reviewer: Reviews code." in (invoke.description or "")
            answer = await client.call_tool("invoke", A_TASK)
            assert text_of(answer) == "echo: look"

    relays.run(main())


def test_a_task_over_http_is_found_by_another_caller(relays: SharedRelays) -> None:
    gate = Gate(echo_task)

    async def main() -> None:
        extensions = [TasksOfClient()]
        relays.use_model(gate)
        async with http_client(relays, "2026-07-28", 11, extensions=extensions) as one:
            task = await begin_task(one, "invoke", A_TASK)
        async with http_client(relays, "2026-07-28", 12, extensions=extensions) as other:
            state = await send_request(other.session, "tasks/get", taskId=task.task_id)
            assert state["status"] == "working"
            gate.open()
            state = await wait_for_status(other.session, task.task_id, "completed")
            assert state["result"]["content"] == [{"type": "text", "text": "echo: look"}]
            with pytest.raises(MCPError, match="`agent-pool tasks` lists them") as gone:
                await send_request(other.session, "tasks/get", taskId="reviewer-0")
            assert gone.value.code == -32602

    relays.run(main())


def test_a_request_without_a_project_is_refused_in_words(relays: SharedRelays) -> None:
    async def main() -> None:
        headers = await asyncio.to_thread(make_headers, relays.env)
        url = f"{(await relays.wait_for_daemon()).url}/mcp"
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        async with httpx2.AsyncClient() as http:
            unknown = await http.post(url, json=ping)
            del headers[PROJECT_HEADER]
            refused = await http.post(url, json=ping, headers=headers)
        assert unknown.status_code == 401
        assert "resource_metadata" not in str(unknown.headers)  # no OAuth
        assert refused.status_code == 400
        assert "`agent-pool install --http` sets it up" in refused.json()["error"]["message"]

    relays.run(main())


def test_a_folder_in_any_script_reaches_the_daemon(tmp_path: Path) -> None:
    folder = tmp_path / "Проект ü %41"
    folder.mkdir()
    headers = {PROJECT_HEADER.encode(): quote(str(folder)).encode()}
    assert read_caller(headers) == HttpCallerKey(str(folder))
    given = {**headers, CLIENT_PID_HEADER.encode(): b"12"}
    assert read_caller(given) == HttpCallerKey(str(folder), 12)


@pytest.mark.parametrize(
    "folder", [b"", b"relative", b"/nowhere/at/all", b"/%ff", b"/tmp%00", "/ü".encode()]
)
def test_a_header_without_an_existing_folder_is_refused(folder: bytes) -> None:
    with pytest.raises(ConfigError, match=PROJECT_HEADER):
        read_caller({PROJECT_HEADER.encode(): folder})


def test_the_helper_sends_no_token_to_a_foreign_server(relays: SharedRelays) -> None:
    done = headers_process(relays, CLAUDE_CODE_MCP_SERVER_URL="http://127.0.0.1:9/mcp")
    assert (done.returncode, done.stdout) == (1, "")
    assert "run `agent-pool install --http` again" in done.stderr
    done = headers_process(relays, AGENT_POOL_DAEMON="off")
    assert (done.returncode, done.stdout) == (1, "")
    assert "AGENT_POOL_DAEMON is off" in done.stderr


def test_the_helper_names_token_project_and_client(relays: SharedRelays) -> None:
    done = headers_process(relays, CLAUDE_CODE_MESSAGING_SOCKET="/tmp/cc-socks/4711.sock")
    address = relays.address()
    assert address is not None
    assert json.loads(done.stdout) == {
        "Authorization": f"Bearer {address.token}",
        PROJECT_HEADER: quote(str(relays.root)),
        CLIENT_PID_HEADER: "4711",
    }


def headers_process(project: RelayProject, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "agent_pool", "mcp-headers"],
        env=project.env | more,
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.long
def test_claude_code_survives_a_new_token_between_two_calls(own: RelayProject) -> None:
    """The registration is that of `agent-pool install --http`."""
    port = free_port()
    own.configure(daemon_port=port)

    async def main() -> None:
        tokens: set[str] = set()
        results: dict[str, str] = {}

        async def script(request: ModelRequest) -> Any:
            if "You are the reviewer." in request.system_text:
                return echo_task(request)
            if request.is_side:
                return "a title"
            results.update(
                {one["tool_use_id"]: get_result_text(one) for one in request.tool_results}
            )
            if len(results) == 2:
                return "done"
            if results:
                await own.kill_daemon()
                await asyncio.to_thread(own.start, api.url)
            tokens.add((await own.wait_for_daemon()).token)
            return ToolUseBlock(TOOL, A_TASK)

        async with LoopbackAPI(script) as api:
            own.use(api)
            installed = await asyncio.to_thread(agent_pool, own, "install", "--http", "--no-hook")
            assert installed.returncode == 0, installed.stderr
            assert f"http://127.0.0.1:{port}/mcp" in installed.stdout
            again = await asyncio.to_thread(agent_pool, own, "install", "--http", "--no-hook")
            assert again.stdout.startswith("unchanged")
            own.trust()
            async with own.run_program(
                *(str(real_cli()), "-p", "delegate", "--dangerously-skip-permissions"),
            ) as claude:
                assert claude.stdin is not None
                claude.stdin.close()
                assert claude.stdout is not None
                assert (await claude.stdout.read()).strip() == b"done"
            removed = await asyncio.to_thread(agent_pool, own, "uninstall")
            assert "remove the MCP server agent-pool" in removed.stdout
        assert ["echo: look" in result for result in results.values()] == [True, True]
        assert len(tokens) == 2

    run(main(), 100)


def agent_pool(project: RelayProject, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent_pool", *arguments],
        env=project.env,
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_install_over_http_writes_a_port_that_stays(own: RelayProject) -> None:
    done = agent_pool(own, "install", "--http", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"would do    set daemon_port = {free_port()} in {own.settings_file}" in done.stdout
    assert "mcp add-json --scope local agent-pool" in done.stdout
    before = own.settings_file.read_text()
    agent_pool(own, "install", "--http", "--no-hook")
    written = own.settings_file.read_text()
    assert written == f"daemon_port = {free_port()}\n{before}"
    agent_pool(own, "uninstall")


async def get_task(port: int, folder: Path, task: str, **more: str) -> httpx2.Response:
    """Send a `tasks/get` as the newest protocol has it, with more headers."""
    meta = {
        f"io.modelcontextprotocol/{name}": value
        for name, value in {
            "protocolVersion": "2026-07-28",
            "clientCapabilities": {"extensions": {EXTENSION: {}}},
        }.items()
    }
    request = {"method": "tasks/get", "params": {"taskId": task, "_meta": meta}}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tasks/get",
        PROJECT_HEADER: str(folder),
        **bearer(port),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    async with httpx2.AsyncClient() as http:
        return await http.post(
            f"http://127.0.0.1:{port}/mcp",
            json={"jsonrpc": "2.0", "id": 1, **request},
            headers=headers,
        )


def test_a_header_that_names_another_task_is_refused(short_folder: Path) -> None:
    async def main() -> None:
        async with fixture_server(short_folder) as port:
            wrong = await get_task(port, short_folder, "x-1", Mcp_Name="x-2")
            encoded = await get_task(port, short_folder, "x-1", Mcp_Name="=?base64?eC0x?=")
            plain = await get_task(port, short_folder, "x-1", Mcp_Name="x-1")
            missing = await get_task(port, short_folder, "x-1")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, -32020)
        assert "names another task" in wrong.json()["error"]["message"]
        for answer in (encoded, plain, missing):
            assert "Task not found: x-1" in answer.json()["error"]["message"]

    run(main())
