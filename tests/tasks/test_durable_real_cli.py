"""Stored tasks on the real CLI: their transcript, their questions, a kill in mid-task."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from agent_pool import (
    Ended,
    PermissionAsked,
    Started,
    Submitted,
    TaskEvent,
    TaskInterrupted,
    TaskRequest,
    Text,
    ToolOutput,
    ToolUse,
)
from agent_pool.loopback import LoopbackAPI, ModelRequest
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.environment import MARK
from support.model_scripts import Gate, bash, echo_task
from support.pools import PLAIN, PoolProject
from support.process_checks import is_alive
from support.waiting import WAIT_TIMEOUT, run, wait_until

PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "durable_real_host.py"


def call_shell_first(request: ModelRequest) -> object:
    return echo_task(request) if request.tool_results else bash("echo quince")


def test_the_transcript_of_a_task_is_kept_with_its_tools(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    async def main() -> None:
        path = tmp_path / "tasks.db"
        async with (
            pool_project.real(call_shell_first) as (inner, _),
            DurablePool(inner, Store(path), inner.settings) as pool,
        ):
            live: list[TaskEvent] = []
            handle = await pool.submit(TaskRequest("tester", "look"), on_event=live.append)
            result = await handle.result()
            record = await pool.task(handle.id)
            kept = [event async for event in pool.task_events(handle.id)]
        assert result.text.startswith("tool: quince")
        assert record.result == result
        assert (record.usage, record.cost_usd) == (result.usage, result.cost_usd)
        assert kept == live
        kinds = [type(event) for event in kept]
        assert kinds[0] is Submitted
        assert kinds[-1] is Ended
        wanted = (Started, ToolUse, ToolOutput, Text)
        assert [kind for kind in kinds if kind in wanted] == list(wanted)

    run(main())


def has_asked(events: list[TaskEvent]) -> bool:
    return any(isinstance(event, PermissionAsked) for event in events)


def test_a_permission_request_of_the_cli_is_answered_by_anybody(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    pool_project.agent("asker", description="Asks.", permissionMode="ask")

    def touch(request: ModelRequest) -> object:
        # The CLI does not ask for commands that only read, such as `echo` (2.1.332).
        name = request.last_user_text.strip()
        return "done" if request.tool_results else bash(f"touch {tmp_path / name}")

    async def main() -> None:
        path = tmp_path / "tasks.db"
        async with (
            pool_project.real(touch) as (inner, _),
            DurablePool(inner, Store(path), inner.settings) as pool,
        ):
            for name, answer in (("allowed", True), ("denied", False)):
                events: list[TaskEvent] = []
                request = TaskRequest("asker", name, asks=True)
                handle = await pool.submit(request, on_event=events.append)
                await wait_until(partial(has_asked, events))
                record = await pool.task(handle.id)
                assert record.state == "input_required"
                assert "Bash" in record.line
                assert await pool.answer(handle.id, record.questions[0].key, answer)
                assert (await handle.result()).text == "done"

    run(main())
    assert (tmp_path / "allowed").exists()
    assert not (tmp_path / "denied").exists()


def test_a_task_of_a_killed_program_is_interrupted_without_leftovers(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    async def main() -> None:
        gate = Gate()
        async with LoopbackAPI(gate) as api:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(PROGRAM), str(tmp_path / "tasks.db")),
                json.dumps(pool_project.environment(api.url)),
                json.dumps(PLAIN),
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, MARK: pool_project.mark, "TMPDIR": tempfile.gettempdir()},
            )
            assert process.stdout is not None
            task_id = (await process.stdout.readline()).decode().strip()
            assert await gate.reached_within(WAIT_TIMEOUT)
            workers = [one.pid for one in pool_project.processes() if one.pid != process.pid]
            assert workers != []
            process.kill()
            await process.wait()
            await wait_until(lambda: not any(map(is_alive, workers)))
            async with (
                pool_project.pool(api.url) as inner,
                DurablePool(inner, Store(tmp_path / "tasks.db"), inner.settings) as pool,
            ):
                gate.open()
                assert (await pool.task(task_id)).state == "interrupted"
                handle = await pool.attach(task_id)
                with pytest.raises(TaskInterrupted):
                    await handle.result()
                assert (await (await pool.retry(task_id)).result()).text == "done"
                assert (await pool.task(task_id)).attempts == 2

    run(main())
