"""What a reset does not undo is undone before it, or the worker is replaced; real CLI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agent_pool import TaskTimeout, WorkerDied
from agent_pool.claude.protocol.states import SURVIVING_TOOLS
from agent_pool.loopback import ModelReply
from support.cli_age import is_at_least, is_older_cli
from support.model_scripts import Gate, as_text, bash, sub_agent, tool
from support.pool_harness import PoolHarness, TaskOutcome
from support.process_checks import is_alive
from support.waiting import wait_until

LINGER = "linger-321.sh"
"""A script of the project that runs for minutes."""
FORKED = "sleep 321.5"


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    harness = open_harness(max_size=1)
    surviving = ", ".join(sorted(SURVIVING_TOOLS))
    harness.project.agent("scheduler", tools=f"Bash, {surviving}")
    (harness.project.root / LINGER).write_text("sleep 321\n")
    return harness


def test_a_background_shell_and_its_notice_end_with_the_task(
    harness: PoolHarness,
) -> None:
    async def main() -> None:
        canary = harness.word("canary")
        shell = bash(f"echo {canary}; sh {LINGER}; echo {canary}", run_in_background=True)
        task = harness.plan(shell, "left it running")
        await _is_left_behind_by(harness, task, canary)

    harness.run(main())


def test_a_finished_background_shell_reaches_no_later_task(harness: PoolHarness) -> None:
    async def main() -> None:
        canary = harness.word("canary")
        file = harness.project.root / "wait"
        shell = bash(
            f"while [ ! -e {file} ]; do sleep 0.01; done; echo {canary}", run_in_background=True
        )
        gate = Gate("left it running")
        task = harness.plan(shell, gate)
        asking = asyncio.create_task(harness.ask(task))
        await gate.reached.wait()
        file.touch()
        await wait_until(lambda: not harness.processes(str(file)))
        gate.open()
        await _is_not_in_later_tasks(harness, task, canary, await asking)

    harness.run(main())


def test_an_agent_answers_only_after_its_sub_agent_has_answered(
    harness: PoolHarness,
) -> None:
    async def main() -> None:
        found = harness.word("found")
        sub = harness.plan(bash("true"), f"the sub-agent says {found}")
        task = harness.plan(sub_agent(f"{sub} look"))
        asked = await harness.ask(task)
        assert found in asked.text
        await _is_not_in_later_tasks(harness, task, found, asked)

    harness.run(main())


def test_a_daemon_is_stopped_before_its_worker_is_idle_again(
    harness: PoolHarness,
) -> None:
    commands = [
        f"nohup setsid sh {LINGER} >/dev/null 2>&1 & echo started",
        f"(setsid nohup sh -c 'trap \"\" TERM HUP; sh {LINGER}' </dev/null >/dev/null 2>&1 &)",
        "python3 -c 'import os; os.fork() or os.setsid() or os.fork() or"
        f' os.execlp("sh", "sh", "{LINGER}")\'',
        f"sh {LINGER} >/dev/null 2>&1 & disown; cd /; echo started",
    ]

    async def main() -> None:
        pids = []
        for command in commands:
            started = Gate()
            asking = asyncio.create_task(harness.ask(harness.plan(bash(command), started)))
            await started.reached.wait()
            await wait_until(lambda: harness.processes(LINGER))
            started.open()
            pids.append((await asking).pid)
            await harness.wait_until_idle()
            assert harness.processes(LINGER) == []
        await harness.check_pids(*pids)

    harness.run(main())


def test_a_forking_daemon_is_stopped_with_all_its_children(
    harness: PoolHarness,
) -> None:
    script = harness.project.root / "forker.sh"
    up = harness.project.root / "up"
    script.write_text(
        f"touch {up}\nwhile :; do setsid {FORKED} </dev/null >/dev/null 2>&1 & sleep 0.003; done\n"
    )

    async def main() -> None:
        for _ in range(3):
            up.unlink(missing_ok=True)
            command = f"nohup setsid bash {script} >/dev/null 2>&1 &"
            wait = f"while [ ! -e {up} ]; do sleep 0.01; done"
            await harness.ask(harness.plan(bash(f"{command} {wait}")))
            await harness.wait_until_idle()
            left = harness.processes(FORKED) + harness.processes(str(script))
            for process in left:
                process.kill()
            assert left == []

    harness.run(main())


def test_a_daemon_ends_with_a_worker_stopped_in_its_task(harness: PoolHarness) -> None:
    async def main() -> None:
        gate = Gate()
        daemon = bash(f"nohup setsid sh {LINGER} >/dev/null 2>&1 & echo started")
        asking = asyncio.create_task(harness.ask(harness.plan(daemon, gate)))
        await gate.reached.wait()
        await wait_until(lambda: harness.processes(LINGER))
        ended = await harness.pool.reset("tester")
        # Where each task has a process of its own, that of the next one can be there too.
        assert ended == 1 or is_older_cli()
        with pytest.raises(WorkerDied):
            await asking
        await wait_until(lambda: harness.processes(LINGER) == [])

    harness.run(main())


def test_the_command_of_a_cancelled_task_ends_before_the_next(
    harness: PoolHarness,
) -> None:
    async def main() -> None:
        task = harness.plan(bash(f"sh {LINGER}", timeout=600_000))
        asking = asyncio.create_task(harness.pool.invoke("tester", task, timeout=30))
        await wait_until(lambda: harness.processes(LINGER))
        asking.cancel()
        await asyncio.wait([asking])
        next_one = await harness.ask(harness.plan("next"))
        assert next_one.text == "next"
        assert harness.processes(LINGER) == []
        assert task not in as_text(next_one.requests[0])

    harness.run(main())


def test_a_late_answer_reaches_no_caller_and_its_worker_stays(harness: PoolHarness) -> None:
    async def main() -> None:
        before = await harness.ask(harness.plan("before"))
        for late in (Gate, _streaming):
            canary = harness.word("late")
            answer = late(f"too late {canary}")
            with pytest.raises(TaskTimeout):
                await harness.pool.invoke("tester", harness.plan(answer), timeout=0.3)
            asking = asyncio.create_task(harness.ask(harness.plan("in time")))
            if isinstance(answer, Gate):
                answer.open()
            assert (await asking).text == "in time"
            after = await harness.ask(harness.plan("afterwards"))
            assert after.text == "afterwards"
            # The result of an interrupted turn has no stamp in 2.1.229, so its worker is replaced.
            if is_at_least("2.1.260"):
                await harness.check_pids(before.pid, after.pid)
            assert harness.requests_with(canary) == []

    harness.run(main())


def test_tools_that_outlive_a_reset_are_offered_only_by_name(
    harness: PoolHarness,
) -> None:
    harness.project.agent("speaker", tools="Read")

    async def main() -> None:
        sub = harness.plan("seen")
        task = harness.plan(sub_agent(f"{sub} look"))
        await harness.ask(task)
        await wait_until(lambda: any(sub in one.last_user_text for one in harness.api.requests))
        await harness.ask(harness.plan("spoken"), agent="speaker")
        for request in harness.api.requests:
            if "scheduler" not in request.system_text:
                assert SURVIVING_TOOLS & set(request.tools) == set()
                for name in SURVIVING_TOOLS:
                    assert f"\n{name}\n" not in _deferred(as_text(request))
        named = await harness.ask(harness.plan("seen"), agent="scheduler")
        since = {"CronCreate": "2.1.112", "ScheduleWakeup": "2.1.112", "Monitor": "2.1.330"}
        known = {name for name, version in since.items() if is_at_least(version)}
        assert known <= set(named.requests[0].tools)

    harness.run(main())


def known_since(version: str, name: str, *marks: pytest.MarkDecorator, **given: Any) -> Any:
    """Build the variant for a tool and what it is given; versions without the tool skip it."""
    since = pytest.mark.since(version, f"it has the tool {name}")
    return pytest.param(name, given, marks=[since, *marks], id=name)


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("name", "given"),
    [
        known_since("2.1.112", "CronCreate", cron="0 0 1 1 *", prompt="later"),
        known_since(
            "2.1.112", "ScheduleWakeup", LONG, delaySeconds=60, prompt="later", reason="tests"
        ),
        known_since(
            *("2.1.330", "Monitor", LONG),
            command=f"sh {LINGER}",
            description="tests",
            timeout_ms=60_000,
        ),
        known_since("2.1.229", "SendMessage", LONG, to="nobody", message="tests"),
    ],
)
def test_using_a_tool_that_outlives_a_reset_replaces_the_worker(
    harness: PoolHarness, name: str, given: dict[str, Any]
) -> None:
    async def main() -> None:
        asked = await harness.ask(harness.plan(tool(name, **given), "done"), agent="scheduler")
        assert asked.text == "done"
        assert "No such tool" not in as_text(asked.requests[-1])
        after = await harness.ask(harness.plan("after"), agent="scheduler")
        assert (after.text, len(after.requests)) == ("after", 1)
        assert after.pid != asked.pid
        await wait_until(lambda: not is_alive(asked.pid))

    harness.run(main())


def test_the_log_names_the_reason_a_worker_is_replaced(
    harness: PoolHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        sends = tool("SendMessage", to="nobody", message="tests")
        asked = await harness.ask(harness.plan(sends, "done"), agent="scheduler")
        await wait_until(lambda: not is_alive(asked.pid))
        assert "it used SendMessage, whose effect outlives a reset" in caplog.text

    harness.run(main())


@pytest.mark.long
def test_a_surviving_tool_used_by_a_sub_agent_counts_too(harness: PoolHarness) -> None:
    harness.project.agent("manager", tools="Agent, CronCreate")

    async def main() -> None:
        sub = harness.plan(tool("CronCreate", cron="0 0 1 1 *", prompt="later"), "scheduled")
        delegates = sub_agent(f"{sub} plan")
        asked = await harness.ask(harness.plan(delegates, "done"), agent="manager")
        used = any("Scheduled" in as_text(request) for request in harness.requests_with(sub))
        after = await harness.ask(harness.plan("after"), agent="manager")
        assert after.text == "after"
        assert used is False or after.pid != asked.pid

    harness.run(main())


async def _is_left_behind_by(harness: PoolHarness, task: str, canary: str) -> None:
    """Check that no later task receives the canary, and that what the task left running ends."""
    asked = await harness.ask(task)
    await _is_not_in_later_tasks(harness, task, canary, asked)
    assert harness.processes(LINGER) == []


async def _is_not_in_later_tasks(
    harness: PoolHarness, task: str, canary: str, asked: TaskOutcome
) -> None:
    """Check that only the task's own requests contain the canary.

    A worker with unfinished work must be replaced.
    """
    later = [await harness.ask(harness.plan("later")) for _ in range(3)]
    assert [one.text for one in later] == ["later"] * 3
    if "running in background" in as_text(asked.requests[-1]):
        assert asked.pid not in {one.pid for one in later}
        await wait_until(lambda: not is_alive(asked.pid))
    for request in harness.requests_with(canary):
        assert all(canary not in as_text(r) for one in later for r in one.requests)
        # 2.0.77 asks a small model about each command before it is run.
        is_check = is_older_cli() and request.is_side
        assert task in as_text(request) or request.subagent_id or is_check


def _streaming(text: str) -> ModelReply:
    return ModelReply(f"{text} " * 40, delta_interval=0.05)


def _deferred(text: str) -> str:
    """Return the names of the tools that the CLI offers for loading, one on a line."""
    _, _, rest = text.replace("\\n", "\n").partition("deferred tools are now available")
    return rest.partition("\n\n")[0] + "\n"
