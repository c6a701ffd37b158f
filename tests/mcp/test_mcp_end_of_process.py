"""The end of the server: it ends all processes that it started, whatever ends the server itself."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import LoopbackAPI, ToolUseBlock, call_tools
from support.mcp_client import legacy_call, modern_request
from support.mcp_server import LivenessSocket, ServerProcess, ServerProject
from support.mcp_task_client import EXTENSION
from support.variants import by_default, later
from support.waiting import run


def sending(number: signal.Signals) -> Callable[[ServerProcess], None]:
    return lambda server: server.process.send_signal(number)


def close_stdin(server: ServerProcess) -> None:
    assert server.process.stdin is not None
    server.process.stdin.close()


ENDINGS = {
    "SIGINT": (sending(signal.SIGINT), 130),
    "SIGTERM": (sending(signal.SIGTERM), 143),
    "SIGHUP": (sending(signal.SIGHUP), 129),
    "stdin is closed": (close_stdin, 0),
}


@pytest.mark.parametrize("ending", by_default(["SIGTERM", "stdin is closed"], ENDINGS))
def test_running_task_and_its_child_processes_end_with_the_server(
    tmp_path: Path, ending: str
) -> None:
    end, status = ENDINGS[ending]

    async def main() -> None:
        async with LivenessSocket().open() as line:
            script = call_tools(ToolUseBlock("Bash", {"command": f"bash -c '{line.hold}'"}))
            async with LoopbackAPI(script) as api:
                project = ServerProject(tmp_path, api)
                project.env["AGENT_POOL_SPARES"] = "1"
                async with project.server() as server:
                    server.call("invoke", agent="reviewer", task="hold the line")
                    held = await line.taken()
                    alive = project.processes()
                    assert len(alive) >= 4  # the server, the worker and what its task started
                    with server.without_watchdog():
                        end(server)
                        assert await server.process.wait() == status
                        assert await held.read() == b""
                        await project.wait_until_gone(alive, within=10)

    run(main())


@pytest.mark.parametrize("ending", ["SIGTERM", later("stdin is closed")])
def test_tasks_of_the_tasks_extension_end_with_the_server(tmp_path: Path, ending: str) -> None:
    end, status = ENDINGS[ending]
    able: dict[str, Any] = {"extensions": {EXTENSION: {}}}

    async def main() -> None:
        async with LivenessSocket().open() as line:
            script = call_tools(ToolUseBlock("Bash", {"command": f"bash -c '{line.hold}'"}))
            async with LoopbackAPI(script) as api:
                project = ServerProject(tmp_path, api)
                async with project.server() as server:
                    given = {"agent": "reviewer", "task": "hold the line"}
                    for number in (1, 2):
                        server.send(
                            modern_request(
                                number, "tools/call", able, name="invoke", arguments=given
                            )
                        )
                        created = (await server.answer(number))["result"]
                        assert (created["resultType"], created["status"]) == ("task", "working")
                    held = [await line.taken() for _ in range(2)]
                    alive = project.processes()
                    with server.without_watchdog():
                        end(server)
                        assert await server.process.wait() == status
                        assert [await one.read() for one in held] == [b"", b""]
                        await project.wait_until_gone(alive, within=10)

    run(main())


def test_worker_that_is_still_starting_ends_with_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with LivenessSocket().open() as line, LoopbackAPI() as api:
            project = ServerProject(tmp_path, api)
            slow = tmp_path / "claude"
            slow.write_text(
                "#!/bin/bash\n"
                'if [ "$1" = --version ]; then echo "2.1.330 (Claude Code)"; exit; fi\n' + line.hold
            )
            slow.chmod(0o755)
            project.env["CLAUDE_CLI"] = str(slow)
            async with project.server() as server:
                server.call("warmup", agent="reviewer")
                held = await line.taken()
                server.process.send_signal(signal.SIGTERM)
                assert await server.process.wait() == 143
                assert await held.read() == b""
                await project.wait_until_gone([], within=10)

    run(main())


CLIENT = """
import json, subprocess, sys, time
server = subprocess.Popen(json.loads(sys.argv[1]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
server.stdin.write(sys.argv[2].encode())
server.stdin.flush()
for _ in server.stdout:
    pass
"""


def test_all_processes_end_when_the_client_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        async with LivenessSocket().open() as line:
            script = call_tools(ToolUseBlock("Bash", {"command": f"bash -c '{line.hold}'"}))
            async with LoopbackAPI(script) as api:
                project = ServerProject(tmp_path, api)
                project.env["AGENT_POOL_SPARES"] = "1"
                call = legacy_call("invoke", agent="reviewer", task="hold the line")
                lines = "".join(json.dumps({"jsonrpc": "2.0", **one}) + "\n" for one in call)
                command = sys.executable, "-c", CLIENT, json.dumps(project.server_command), lines
                async with project.run_program(*command) as client:
                    held = await line.taken()
                    alive = project.processes()
                    client.kill()
                    assert await client.wait() == -signal.SIGKILL
                    assert await held.read() == b""
                    await project.wait_until_gone(alive, within=10)

    run(main())


def test_call_is_answered_before_the_server_exits_with_zero(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            project = ServerProject(tmp_path, api)
            async with project.server() as server:
                server.call("list")
                answer = await server.answer(2)
                assert answer["result"]["content"] == [{"type": "text", "text": "[]"}]
                close_stdin(server)
                assert await server.process.wait() == 0

    run(main())


def test_server_exits_even_if_the_client_reads_no_output(tmp_path: Path) -> None:
    async def main() -> None:
        unread, stdout = os.pipe()
        async with LoopbackAPI() as api, ServerProject(tmp_path, api).server(stdout) as server:
            server.call("list")
            server.send(*({"id": n, "method": "tools/list"} for n in range(3, 100)))
            close_stdin(server)
            assert await server.process.wait() == 0
        os.close(unread)

    run(main())


def test_server_exits_when_the_client_closes_the_output_pipe(tmp_path: Path) -> None:
    async def main() -> None:
        unread, stdout = os.pipe()
        async with LoopbackAPI() as api, ServerProject(tmp_path, api).server(stdout) as server:
            os.close(unread)
            server.call("list")
            assert await server.process.wait() == 0

    run(main())
