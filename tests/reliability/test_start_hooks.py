"""SessionStart hooks run at each start and reset: they are measured, named, and waited for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent_pool import PoolStatus, SpawnError
from agent_pool.claude.start_hooks import StartHooks
from agent_pool.cli.doctor.hooks import hook_finding
from support.model_scripts import Gate, echo_task
from support.pools import PoolProject, wait_until_idle
from support.waiting import WAIT_TIMEOUT, run, wait_until


def hold_hooks(project: PoolProject) -> Path:
    """Set a SessionStart hook that runs while a file exists; return the file's path."""
    held = project.root / "held"
    settings = project.home / ".claude/settings.json"
    settings.parent.mkdir(exist_ok=True)
    command = f"while test -e {held}; do sleep 0.05; done; echo it is now"
    hooks = {"SessionStart": [{"hooks": [{"type": "command", "command": command}]}]}
    settings.write_text(json.dumps({"hooks": hooks}))
    return held


def test_a_hook_longer_than_reset_timeout_costs_a_warning_and_no_worker(
    pool_project: PoolProject, caplog: pytest.LogCaptureFixture
) -> None:
    held = hold_hooks(pool_project)
    gate = Gate("done")

    def warnings() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        return [message for message in found if "longer than reset_timeout" in message]

    async def main() -> None:
        settings = {"max_size": 1, "reset_timeout": 1.5}
        async with pool_project.real(gate, **settings) as (pool, api):
            first = asyncio.create_task(pool.invoke("tester", "one"))
            await gate.reached.wait()
            held.touch()
            gate.open()
            pid = (await first).pid
            await wait_until(lambda: len(warnings()) > 0)
            (worker,) = await pool.workers()
            async with asyncio.timeout(WAIT_TIMEOUT):
                while "SessionStart:clear has run for" not in worker.note:
                    (worker,) = await pool.workers()
            assert worker.state == "resetting"
            held.unlink()
            await wait_until_idle(pool)
            (worker,) = await pool.workers()
            assert worker.hook_seconds > 1
            assert worker.note.startswith("SessionStart hooks take ")
            api.script = echo_task
            assert (await pool.invoke("tester", "two")).pid == pid
            (warning,) = warnings()
            assert "SessionStart:clear" in warning
            stats = await pool.stats()
            assert stats.spawned == 1
            workers = tuple(await pool.workers())
            status = PoolStatus(1, "x", "/x", "1", (worker, *workers[1:]), stats)
            finding = hook_finding(status)
            assert finding is not None
            assert (finding.state, "at each reset" in finding.message) == ("warning", False)
            assert "at each start and each reset" in finding.message

    run(main())


def test_a_hook_longer_than_start_timeout_is_named_at_once(pool_project: PoolProject) -> None:
    hold_hooks(pool_project).touch()

    async def main() -> None:
        async with pool_project.real(echo_task, start_timeout=2.5, kill_grace=0.3) as (pool, _):
            with pytest.raises(SpawnError, match="the hook SessionStart:startup has run") as failed:
                await pool.invoke("tester", "one")
            assert failed.value.is_fatal
            assert (await pool.stats()).spawned == 1

    run(main())


def test_a_slow_hook_is_named_as_soon_as_it_begins_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    stub = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("agent_pool.claude.start_hooks.time", stub)
    hooks = StartHooks()
    hooks.begin("1", "SessionStart:startup")
    clock[0] = 0.3
    assert hooks.note == ""
    clock[0] = 3.0
    hooks.end("1", has_words=False)
    hooks.begin("2", "SessionStart:clear")
    clock[0] = 3.3
    assert hooks.note == ("the hook SessionStart:clear has run for 300 ms; the last run took 3.0 s")


def test_only_quick_hooks_with_words_run_again_before_a_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    stub = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("agent_pool.claude.start_hooks.time", stub)

    def have_old_words(*, lasted: float, words: bool, since: float) -> bool:
        hooks = StartHooks()
        hooks.begin("1", "SessionStart:clear")
        hooks.begin("2", "SessionStart:clear")
        clock[0] += lasted
        hooks.end("1", has_words=words)
        hooks.end("2", has_words=False)
        clock[0] += since
        return hooks.have_old_words

    assert have_old_words(lasted=0.2, words=True, since=2)
    assert not have_old_words(lasted=0.2, words=False, since=2)
    assert not have_old_words(lasted=3, words=True, since=2)
    assert not have_old_words(lasted=0.2, words=True, since=0.5)
    assert not StartHooks().have_old_words
