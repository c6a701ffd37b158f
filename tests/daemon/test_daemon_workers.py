"""A daemon whose workers run tasks: its ends, its faults, and callers from inside of a worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool import TaskInterrupted, TaskRequest, connect
from agent_pool.client import start as client
from agent_pool.loopback import LoopbackAPI, ModelRequest
from agent_pool.runtime import ADDRESS_FILE, DaemonAddress
from support import fake_cli
from support.daemons import DaemonProject, exchange
from support.model_scripts import Gate, bash, echo_task, shell_first
from support.process_checks import MIB, is_alive, read_pid
from support.waiting import run, wait_until

GONE_SECONDS = 5.0
CLIENTS, TASKS_EACH = 100, 10


async def address_of(project: DaemonProject) -> DaemonAddress:
    address = await asyncio.to_thread(project.address)
    assert address is not None
    return address


async def stop(project: DaemonProject, *options: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(project.command, "stop", *options)


def with_fake_cli(project: DaemonProject, url: str) -> dict[str, str]:
    """Build the environment of a daemon whose workers take a tenth of the real CLI's time."""
    cli = fake_cli.install(project.root / "fake", model="api")
    return project.daemon_environment(url, CLAUDE_CLI=str(cli))


def test_a_killed_daemon_leaves_no_process_and_tells_of_its_task(
    daemon_project: DaemonProject, tmp_path: Path
) -> None:
    async def main() -> None:
        path = tmp_path / "pid"
        async with LoopbackAPI(shell_first(path)) as api:
            environ = daemon_project.daemon_environment(api.url)
            async with connect(environ=environ) as pool:
                running = await pool.submit(TaskRequest("tester", "hang"))
                command = await read_pid(path)
                address = await address_of(daemon_project)
                os.kill(address.pid, signal.SIGKILL)
                await wait_until(lambda: not is_alive(command), GONE_SECONDS)
                # Another client, because this one starts the next daemon.
                await wait_until(
                    lambda: not [p for p in daemon_project.processes() if p.pid == address.pid],
                    GONE_SECONDS,
                )
            async with connect(environ=environ) as pool:
                record = await pool.task(running.id)
                assert record.state == "interrupted"
                assert (await address_of(daemon_project)).pid != address.pid
                assert (await pool.invoke("tester", "quince")).text == "echo: quince"
            await asyncio.to_thread(daemon_project.stop)

    run(main(), 100)


def test_a_stop_lets_the_running_task_end(daemon_project: DaemonProject) -> None:
    async def main() -> None:
        gate = Gate("the answer")
        async with LoopbackAPI(gate) as api:
            environ = with_fake_cli(daemon_project, api.url)
            async with connect(environ=environ, start=True) as pool:
                task = await pool.submit(TaskRequest("tester", "think"))
                result = asyncio.create_task(task.result())
                await gate.reached.wait()
                stopping = asyncio.create_task(stop(daemon_project))
                await wait_until(lambda: daemon_project.files() == [])
                gate.open()
                assert (await result).text == "the answer"
                assert (await stopping).returncode == 0

    daemon_project.configure(close_timeout=30)
    run(main(), 100)


def test_a_stop_at_once_waits_for_no_task(daemon_project: DaemonProject, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "pid"
        async with LoopbackAPI(shell_first(path)) as api:
            environ = daemon_project.daemon_environment(api.url)
            async with connect(environ=environ) as pool:
                await pool.submit(TaskRequest("tester", "hang"))
                await read_pid(path)
            stopped = await stop(daemon_project, "--now")
            assert stopped.returncode == 0
            await wait_until(lambda: not daemon_project.processes(), GONE_SECONDS)

    daemon_project.configure(close_timeout=300)
    run(main(), 100)


def test_the_next_daemon_serves_while_a_drained_one_finishes_its_task(
    daemon_project: DaemonProject,
) -> None:
    async def main() -> None:
        gate = Gate("the answer")
        async with LoopbackAPI(gate) as api:
            environ = with_fake_cli(daemon_project, api.url)
            async with connect(environ=environ) as pool:
                task = await pool.submit(TaskRequest("tester", "think"))
                result = asyncio.create_task(task.result())
                await gate.reached.wait()
                old = await address_of(daemon_project)
                # An edit of the settings file makes it outdated, as an upgrade does.
                daemon_project.configure(max_size=2, close_timeout=0.1)
                new = await asyncio.to_thread(client.ensure_daemon, environ)
                assert new.pid != old.pid
                assert is_alive(old.pid)
                async with connect(environ=environ) as other:
                    assert (await other.task(task.id)).state == "running"
                    waiting = asyncio.create_task((await other.attach(task.id)).result())
                    gate.open()
                    assert (await other.invoke("tester", "more")).text == "the answer"
                    assert (await result).text == (await waiting).text == "the answer"
                    assert (await other.task(task.id)).attempts == 1
            await wait_until(lambda: not is_alive(old.pid))
            # The end of the old one has left the files of the new one.
            assert await address_of(daemon_project) == new
            assert daemon_project.files() == ["daemon.json", "http.sock", "mcp.sock"]
            await asyncio.to_thread(daemon_project.stop)

    # Otherwise the close of the pool would let the task end.
    daemon_project.configure(close_timeout=0.1)
    run(main(), 100)


def test_a_drained_daemon_that_is_killed_leaves_its_task_interrupted(
    daemon_project: DaemonProject,
) -> None:
    async def main() -> None:
        gate = Gate("the answer")
        async with LoopbackAPI(gate) as api:
            environ = with_fake_cli(daemon_project, api.url)
            async with connect(environ=environ) as pool:
                task = await pool.submit(TaskRequest("tester", "think"))
                await gate.reached.wait()
                old = await address_of(daemon_project)
            daemon_project.configure(max_size=2)
            await asyncio.to_thread(client.ensure_daemon, environ)
            async with connect(environ=environ) as other:
                handle = await other.attach(task.id)
                os.kill(old.pid, signal.SIGKILL)
                with pytest.raises(TaskInterrupted):
                    await handle.result()
            gate.open()
            await asyncio.to_thread(daemon_project.stop)

    run(main(), 100)


# Callers from inside of a worker

ASK = """
import json, socket, sys
address = json.load(open(sys.argv[1]))
lines = ["%s %s HTTP/1.1" % (sys.argv[2], sys.argv[3]), "Connection: close"]
body = sys.argv[4] if len(sys.argv) > 4 else ""
if "tcp" in sys.argv[0:1] or sys.argv[-1] == "tcp":
    body = ""
    host, port = address["url"].removeprefix("http://").split(":")
    s = socket.create_connection((host, int(port)))
    lines += ["Host: %s:%s" % (host, port), "Authorization: Bearer " + address["token"]]
else:
    s = socket.socket(socket.AF_UNIX)
    s.connect(address["http_socket"])
    lines += ["Host: localhost"]
lines += ["Content-Length: %d" % len(body), "Content-Type: application/json", "", body]
s.sendall("\\r\\n".join(lines).encode())
print(s.makefile("rb").read().partition(b"\\r\\n\\r\\n")[2].decode())
"""


class Nesting:
    """A model whose agent runs a program that calls the daemon."""

    def __init__(self, project: DaemonProject) -> None:
        self._script = project.root / "ask.py"
        self._script.write_text(ASK)
        self._address = project.runtime / ADDRESS_FILE
        self.ways = ("", "env -i ", "env -i setsid ")

    def __call__(self, request: ModelRequest) -> Any:
        text = request.last_user_text.strip()
        if request.tool_results or not text.startswith("call "):
            return echo_task(request)
        return bash(text.removeprefix("call ").strip())

    def asking(self, way: str, *arguments: str) -> str:
        words = [sys.executable, str(self._script), str(self._address), *arguments]
        return f"{way}{' '.join(words)}"


def test_a_process_of_a_worker_may_not_use_the_daemon(daemon_project: DaemonProject) -> None:
    async def main() -> None:
        model = Nesting(daemon_project)
        commands = [model.asking(way, "GET", "/v1/tasks") for way in model.ways]
        commands += [model.asking(way, "GET", "/v1/tasks", "tcp") for way in model.ways]
        async with LoopbackAPI(model) as api:
            environ = daemon_project.daemon_environment(api.url)
            async with connect(environ=environ) as pool:
                for command in commands:
                    result = await pool.invoke("tester", f"call {command}")
                    # Parsed: a list of tasks would have the refusals of those before.
                    answer = json.loads(result.text.removeprefix("tool: "))
                    assert answer.get("error", {}).get("code") == "nesting_refused", command
                allowed = model.asking("", "GET", "/v1/health")
                result = await pool.invoke("tester", f"call {allowed}")
                assert "nesting_refused" not in result.text
                assert result.worker in (await pool.invoke("tester", f"call {commands[0]}")).text
            await asyncio.to_thread(daemon_project.stop)

    run(main(), 100)


def test_a_task_of_a_worker_belongs_to_the_workers_task(daemon_project: DaemonProject) -> None:
    async def main() -> None:
        model = Nesting(daemon_project)
        request = {"agent": "tester", "task": "quince", "project": str(daemon_project.root)}
        body = json.dumps({"request": request}, separators=(",", ":"))
        command = model.asking("", "POST", "/v1/tasks", f"'{body}'")
        async with LoopbackAPI(model) as api:
            environ = daemon_project.daemon_environment(api.url)
            async with connect(environ=environ) as pool:
                parent = await pool.submit(TaskRequest("tester", f"call {command}"))
                await parent.result()
                children = [one for one in await pool.tasks() if one.request.parent == parent.id]
                assert [one.request.task for one in children] == ["quince"]
            await asyncio.to_thread(daemon_project.stop)

    daemon_project.configure(allow_nested=True)
    run(main(), 100)


# Many clients


def test_a_hundred_clients_queue_a_thousand_tasks_in_bounded_memory(
    daemon_project: DaemonProject, tmp_path: Path
) -> None:
    async def main() -> None:
        fake = fake_cli.install(tmp_path / "fake", {"at": "prompt", "do": "hang"})
        environ = daemon_project.daemon_environment(CLAUDE_CLI=str(fake))
        address = await asyncio.to_thread(client.ensure_daemon, environ)
        path = address.http_socket
        # This one never reads: all events of the pool wait for it.
        _, stuck = await asyncio.open_unix_connection(path)
        stuck.transport.pause_reading()  # type: ignore[attr-defined]
        stuck.write(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        before = psutil.Process(address.pid).memory_info().rss
        answers = await asyncio.gather(*(submit_some(path, number) for number in range(CLIENTS)))
        grown = psutil.Process(address.pid).memory_info().rss - before
        assert set().union(*answers) == {201}
        assert grown < 64 * MIB
        status, _, body = await asyncio.wait_for(ask(path, "/v1/tasks?limit=1000"), 10)
        assert (status, len(json.loads(body)["tasks"])) == (200, CLIENTS * TASKS_EACH)
        stuck.transport.abort()
        with suppress(OSError):
            await stuck.wait_closed()
        await asyncio.to_thread(daemon_project.stop, now=True)

    async def submit_some(path: str, number: int) -> set[int]:
        found = set()
        for index in range(TASKS_EACH):
            request = {
                "agent": "tester",
                "task": f"task {number} {index}",
                "project": str(daemon_project.root),
            }
            body = json.dumps({"request": request}).encode()
            head = {"Content-Type": "application/json"}
            status, _, _ = await ask(path, "/v1/tasks", method="POST", headers=head, body=body)
            found.add(status)
        return found

    async def ask(path: str, target: str, **options: Any) -> tuple[int, dict[str, str], bytes]:
        return await exchange(await asyncio.open_unix_connection(path), target, **options)

    daemon_project.configure(max_workers=1)
    run(main(), 100)
