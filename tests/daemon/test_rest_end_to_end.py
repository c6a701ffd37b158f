"""The whole way: a client, the daemon in a process of its own, the real CLI."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agent_pool import (
    Ended,
    Started,
    TaskEvent,
    TaskInterrupted,
    TaskRequest,
    Text,
    connect,
)
from agent_pool.loopback import LoopbackAPI, ModelRequest
from agent_pool.sync import connect as connect_blocking
from support.daemons import DaemonProject, wait_gone
from support.model_scripts import Gate
from support.shared_daemons import SharedDaemon
from support.waiting import run, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "rest.md"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedDaemon]:
    with SharedDaemon.opened(tmp_path_factory.mktemp("rest")) as project:
        project.agent("code-reviewer", description="Reviews.")
        yield project


@pytest.fixture
def project(shared: SharedDaemon) -> SharedDaemon:
    """Return the shared project with its plain model."""
    shared.reset()
    return shared


def test_a_task_of_a_program_runs_in_the_daemon(project: SharedDaemon) -> None:
    async def main() -> None:
        events: list[TaskEvent] = []
        async with connect(environ=project.env) as pool:
            result = await pool.invoke("tester", "quince", on_event=events.append)
        async with connect(environ=project.env) as pool:  # another program finds it
            assert (await pool.task(result.task_id)).result == result
            assert (await (await pool.attach(result.task_id)).result()).text == result.text
            (worker,) = [one for one in await pool.workers() if one.worker == result.worker]

        assert result.text == "echo: quince"
        assert [one.text for one in events if isinstance(one, Text)] == ["echo: quince"]
        assert isinstance(events[-1], Ended)
        assert (worker.agent, worker.pid) == ("tester", result.pid)

    project.run(main())


def test_the_port_of_the_daemon_needs_its_token(project: SharedDaemon) -> None:
    async def main() -> None:
        address = await asyncio.to_thread(project.start, project.api.url)
        async with connect(environ=project.env, url=address.url, token=address.token) as pool:
            assert (await pool.invoke("tester", "quince")).text == "echo: quince"
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{address.url}/v1/tasks")
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "unauthorized"

    project.run(main())


def test_a_queued_task_keeps_its_key_when_another_client_starts_the_daemon(
    daemon_project: DaemonProject,
) -> None:
    keys: dict[str, object] = {}

    async def main() -> None:
        gate = Gate("the answer")

        async def script(request: ModelRequest) -> Any:
            keys[request.last_user_text.strip()] = request.headers.get("x-api-key")
            return await gate(request) if "hang" in request.last_user_text else "done"

        daemon_project.configure(max_workers=1)
        async with LoopbackAPI(script) as api:
            environ = daemon_project.daemon_environment(api.url)
            first = {**environ, "ANTHROPIC_API_KEY": "sk-first"}
            async with connect(environ=first) as pool:
                await pool.submit(TaskRequest("tester", "hang"))
                await gate.reached.wait()
                queued = await pool.submit(TaskRequest("tester", "queued"))
                address = daemon_project.address()
                assert address is not None
            os.kill(address.pid, signal.SIGKILL)
            await asyncio.to_thread(wait_gone, address.pid)
            async with connect(environ={**environ, "ANTHROPIC_API_KEY": "sk-second"}) as pool:
                assert (await (await pool.attach(queued.id)).result()).text == "done"
                assert (await pool.invoke("tester", "later")).text == "done"
            await asyncio.to_thread(daemon_project.stop, now=True)

    run(main())
    assert keys == {"hang": "sk-first", "queued": "sk-first", "later": "sk-second"}


def test_a_submitted_task_outlives_its_program(project: SharedDaemon) -> None:
    async def main() -> None:
        gate = Gate("the answer")
        project.use_model(gate)
        async with connect(environ=project.env) as pool:
            handle = await pool.submit(TaskRequest("tester", "think"))
            await gate.reached.wait()
        gate.open()
        async with connect(environ=project.env) as pool:
            result = await (await pool.attach(handle.id)).result()

        assert result.text == "the answer"

    project.run(main())


def test_a_client_whose_daemon_is_killed_starts_the_next_one(project: SharedDaemon) -> None:
    async def main() -> None:
        gate = Gate("the answer")
        project.use_model(gate)
        async with connect(environ=project.env) as pool:
            once, again = list[TaskEvent](), list[TaskEvent]()
            request = TaskRequest("tester", "think")
            broken = await pool.submit(request, on_event=once.append)
            await gate.reached.wait()
            repeated = await pool.submit(replace(request, idempotent=True), on_event=again.append)
            await wait_until(lambda: any(isinstance(one, Started) for one in again))
            address = await asyncio.to_thread(project.address)
            assert address is not None
            os.kill(address.pid, signal.SIGKILL)
            with pytest.raises(TaskInterrupted):
                await broken.result()
            gate.open()
            result = await repeated.result()

        assert result.text == "the answer"
        for events in (once, again):
            numbers = [one.number for one in events]
            assert numbers == sorted(set(numbers))
            assert [isinstance(one, Ended) for one in events].count(True) == 1
            assert isinstance(events[-1], Ended)

    project.run(main(), 100)


def test_a_script_without_async_uses_the_daemon(project: SharedDaemon) -> None:
    def script(environ: dict[str, str]) -> list[str]:
        with connect_blocking(environ=environ) as pool:
            texts = [pool.invoke("tester", "quince").text]
            texts += [one.text for one in pool.stream("tester", "plum") if isinstance(one, Text)]
            return texts

    async def main() -> None:
        texts = await asyncio.to_thread(script, project.env)

        assert texts == ["echo: quince", "echo: plum"]

    project.run(main())


def test_every_command_of_the_page_works(project: SharedDaemon, tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = tmp_path / "bin" / "agent-pool"
    commands.parent.mkdir()
    commands.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m agent_pool "$@"\n')
    commands.chmod(0o700)
    # Each line is a command; an answer with an error ends the script.
    script = "set -euo pipefail\n" + "\n".join(blocks)

    def run_page(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        path = f"{commands.parent}{os.pathsep}{environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", script],
            cwd=project.root,
            env={**environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    async def main() -> None:
        done = await asyncio.to_thread(run_page, project.env)

        assert done.returncode == 0, done.stderr + done.stdout
        assert "echo: Review src/app.py" in done.stdout
        assert done.stdout.count("event: task.ended") == 3
        assert "agent_pool_tasks_total" in done.stdout
        assert '"openapi":"3.1.0"' in done.stdout

    project.run(main(), 100)
