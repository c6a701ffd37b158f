"""However the server ends, no process that it started outlives it."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_pool.loopback import LoopbackAPI, ToolUse, calling
from mcp_tasks import EXTENSION
from mcp_world import Lifeline, RawServer, World, modern, opening
from support import run


def sending(number: signal.Signals) -> Callable[[RawServer], None]:
    return lambda server: server.process.send_signal(number)


def close_stdin(server: RawServer) -> None:
    assert server.process.stdin is not None
    server.process.stdin.close()


ENDINGS = {
    "SIGINT": (sending(signal.SIGINT), 130),
    "SIGTERM": (sending(signal.SIGTERM), 143),
    "SIGHUP": (sending(signal.SIGHUP), 129),
    "stdin is closed": (close_stdin, 0),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_running_task_ends_with_its_daemons(tmp_path: Path, ending: str) -> None:
    end, status = ENDINGS[ending]

    async def main() -> None:
        async with Lifeline().open() as line:
            script = calling(ToolUse("Bash", {"command": f"bash -c '{line.hold}'"}))
            async with LoopbackAPI(script) as api:
                world = World(tmp_path, api)
                world.env["AGENT_POOL_SPARES"] = "1"
                async with world.server() as server:
                    server.call("invoke", agent="reviewer", task="hold the line")
                    held = await line.taken()
                    alive = world.processes()
                    assert len(alive) >= 4  # the server, the worker and what its task started
                    server.kill_watcher()
                    end(server)
                    assert await server.process.wait() == status
                    assert await held.read() == b""
                    await world.until_gone(alive)

    run(main())


@pytest.mark.parametrize("ending", ["SIGTERM", "stdin is closed"])
def test_tasks_that_run_for_a_client_end_with_the_server(tmp_path: Path, ending: str) -> None:
    end, status = ENDINGS[ending]
    able = {"extensions": {EXTENSION: {}}}

    async def main() -> None:
        async with Lifeline().open() as line:
            script = calling(ToolUse("Bash", {"command": f"bash -c '{line.hold}'"}))
            async with LoopbackAPI(script) as api:
                world = World(tmp_path, api)
                async with world.server() as server:
                    given = {"agent": "reviewer", "task": "hold the line"}
                    for number in (1, 2):
                        server.send(
                            modern(number, "tools/call", able, name="invoke", arguments=given)
                        )
                        created = (await server.answer(number))["result"]
                        assert (created["resultType"], created["status"]) == ("task", "working")
                    held = [await line.taken() for _ in range(2)]
                    alive = world.processes()
                    server.kill_watcher()
                    end(server)
                    assert await server.process.wait() == status
                    assert [await one.read() for one in held] == [b"", b""]
                    await world.until_gone(alive)

    run(main())


def test_a_worker_that_is_just_starting_ends_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with Lifeline().open() as line, LoopbackAPI() as api:
            world = World(tmp_path, api)
            slow = tmp_path / "claude"
            slow.write_text(
                "#!/bin/bash\n"
                'if [ "$1" = --version ]; then echo "2.1.330 (Claude Code)"; exit; fi\n' + line.hold
            )
            slow.chmod(0o755)
            world.env["CLAUDE_CLI"] = str(slow)
            async with world.server() as server:
                server.call("warmup", agent="reviewer")
                held = await line.taken()
                server.process.send_signal(signal.SIGTERM)
                assert await server.process.wait() == 143
                assert await held.read() == b""
                await world.until_gone([])

    run(main())


CLIENT = """
import json, subprocess, sys, time
server = subprocess.Popen(json.loads(sys.argv[1]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
server.stdin.write(sys.argv[2].encode())
server.stdin.flush()
for _ in server.stdout:
    pass
"""


def test_a_client_that_is_killed_takes_everything_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with Lifeline().open() as line:
            script = calling(ToolUse("Bash", {"command": f"bash -c '{line.hold}'"}))
            async with LoopbackAPI(script) as api:
                world = World(tmp_path, api)
                call = opening("invoke", agent="reviewer", task="hold the line")
                lines = "".join(json.dumps({"jsonrpc": "2.0", **one}) + "\n" for one in call)
                command = sys.executable, "-c", CLIENT, json.dumps(world.command), lines
                async with world.start(*command) as client:
                    held = await line.taken()
                    alive = world.processes()
                    client.kill()
                    assert await client.wait() == -signal.SIGKILL
                    assert await held.read() == b""
                    await world.until_gone(alive)

    run(main())


def test_answers_under_way_are_written_before_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            world = World(tmp_path, api)
            async with world.server() as server:
                server.call("list")
                answer = await server.answer(2)
                assert answer["result"]["content"] == [{"type": "text", "text": "[]"}]
                close_stdin(server)
                assert await server.process.wait() == 0

    run(main())


def test_a_client_that_reads_nothing_more_cannot_hold_the_end_up(tmp_path: Path) -> None:
    async def main() -> None:
        unread, stdout = os.pipe()
        async with LoopbackAPI() as api, World(tmp_path, api).server(stdout) as server:
            server.call("list")
            server.send(*({"id": n, "method": "tools/list"} for n in range(3, 100)))
            close_stdin(server)
            assert await server.process.wait() == 0
        os.close(unread)

    run(main())


def test_a_client_that_closes_its_end_of_stdout_ends_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        unread, stdout = os.pipe()
        async with LoopbackAPI() as api, World(tmp_path, api).server(stdout) as server:
            os.close(unread)
            server.call("list")
            assert await server.process.wait() == 0

    run(main())
