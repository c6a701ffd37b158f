"""What a task does that a reset would not undo is undone, or the worker goes; real CLI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agent_pool import TaskTimeout, WorkerDied
from agent_pool.claude.states import SURVIVING_TOOLS
from agent_pool.loopback import Reply
from isolation.lab import Gate, Lab, Said, bash, flat, tool
from pool_world import is_alive, until

LINGER = "linger-321.sh"
"""A script of the project that runs for minutes."""
FORKED = "sleep 321.5"


@pytest.fixture(scope="module")
def lab(labs: Callable[..., Lab]) -> Lab:
    lab = labs(max_size=1)
    surviving = ", ".join(sorted(SURVIVING_TOOLS))
    lab.world.agent("scheduler", tools=f"Bash, {surviving}")
    (lab.world.root / LINGER).write_text("sleep 321\n")
    return lab


def test_a_background_shell_ends_with_its_task_and_its_notice_reaches_nobody(lab: Lab) -> None:
    async def main() -> None:
        canary = lab.word("canary")
        shell = bash(f"echo {canary}; sh {LINGER}; echo {canary}", run_in_background=True)
        task = lab.plan(shell, "left it running")
        await _is_left_behind_by(lab, task, canary)

    lab.run(main())


def test_a_background_shell_that_ends_by_itself_reaches_no_later_task(lab: Lab) -> None:
    async def main() -> None:
        canary = lab.word("canary")
        file = lab.world.root / "wait"
        shell = bash(
            f"while [ ! -e {file} ]; do sleep 0.01; done; echo {canary}", run_in_background=True
        )
        gate = Gate("left it running")
        task = lab.plan(shell, gate)
        asking = asyncio.create_task(lab.ask(task))
        await gate.reached.wait()
        file.touch()
        await until(lambda: not lab.processes(str(file)))
        gate.open()
        await _is_not_in_later_tasks(lab, task, canary, await asking)

    lab.run(main())


def test_an_agent_that_delegates_answers_when_its_sub_agent_has_answered(lab: Lab) -> None:
    async def main() -> None:
        found = lab.word("found")
        sub = lab.plan(bash("true"), f"the sub-agent says {found}")
        delegates = tool(
            "Agent", description="Look.", prompt=f"{sub} look", subagent_type="general-purpose"
        )
        task = lab.plan(delegates)
        asked = await lab.ask(task)
        assert found in asked.text
        await _is_not_in_later_tasks(lab, task, found, asked)

    lab.run(main())


def test_a_daemon_is_gone_before_its_worker_is_idle_and_the_worker_serves_on(lab: Lab) -> None:
    commands = [
        f"nohup setsid sh {LINGER} >/dev/null 2>&1 & echo started",
        f"(setsid nohup sh -c 'trap \"\" TERM HUP; sh {LINGER}' </dev/null >/dev/null 2>&1 &)",
        "python3 -c 'import os; os.fork() or os.setsid() or os.fork() or"
        f' os.execlp("sh", "sh", "{LINGER}")\'',
        f"sh {LINGER} >/dev/null 2>&1 & disown; cd /; echo started",
    ]

    async def main() -> None:
        pids = set()
        for command in commands:
            started = Gate()
            asking = asyncio.create_task(lab.ask(lab.plan(bash(command), started)))
            await started.reached.wait()
            await until(lambda: lab.processes(LINGER))
            started.open()
            pids.add((await asking).pid)
            await lab.settled()
            assert lab.processes(LINGER) == []
        assert len(pids) == 1

    lab.run(main())


def test_a_daemon_that_never_stops_forking_is_gone_with_all_its_children(lab: Lab) -> None:
    script = lab.world.root / "forker.sh"
    up = lab.world.root / "up"
    script.write_text(
        f"touch {up}\nwhile :; do setsid {FORKED} </dev/null >/dev/null 2>&1 & sleep 0.003; done\n"
    )

    async def main() -> None:
        for _ in range(3):
            up.unlink(missing_ok=True)
            command = f"nohup setsid bash {script} >/dev/null 2>&1 &"
            wait = f"while [ ! -e {up} ]; do sleep 0.01; done"
            await lab.ask(lab.plan(bash(f"{command} {wait}")))
            await lab.settled()
            left = lab.processes(FORKED) + lab.processes(str(script))
            for process in left:
                process.kill()
            assert left == []

    lab.run(main())


def test_a_daemon_goes_with_a_worker_that_is_stopped_in_its_task(lab: Lab) -> None:
    async def main() -> None:
        gate = Gate()
        daemon = bash(f"nohup setsid sh {LINGER} >/dev/null 2>&1 & echo started")
        asking = asyncio.create_task(lab.ask(lab.plan(daemon, gate)))
        await gate.reached.wait()
        await until(lambda: lab.processes(LINGER))
        assert await lab.pool.reset("tester") == 1
        with pytest.raises(WorkerDied):
            await asking
        await until(lambda: lab.processes(LINGER) == [])

    lab.run(main())


def test_a_command_that_a_time_out_interrupts_is_gone_before_the_next_task(lab: Lab) -> None:
    async def main() -> None:
        task = lab.plan(bash(f"sh {LINGER}", timeout=600_000))
        asking = asyncio.create_task(lab.pool.invoke("tester", task, timeout=30))
        await until(lambda: lab.processes(LINGER))
        asking.cancel()
        await asyncio.wait([asking])
        next_one = await lab.ask(lab.plan("next"))
        assert next_one.text == "next"
        assert lab.processes(LINGER) == []
        assert task not in flat(next_one.requests[0])

    lab.run(main())


def test_a_late_answer_is_nobodys_and_its_worker_serves_on(lab: Lab) -> None:
    async def main() -> None:
        before = await lab.ask(lab.plan("before"))
        for late in (Gate, _streaming):
            canary = lab.word("late")
            answer = late(f"too late {canary}")
            with pytest.raises(TaskTimeout):
                await lab.pool.invoke("tester", lab.plan(answer), timeout=0.3)
            asking = asyncio.create_task(lab.ask(lab.plan("in time")))
            if isinstance(answer, Gate):
                answer.open()
            assert (await asking).text == "in time"
            after = await lab.ask(lab.plan("afterwards"))
            assert (after.text, after.pid) == ("afterwards", before.pid)
            assert lab.told(canary) == []

    lab.run(main())


def test_tools_that_outlive_a_reset_are_offered_to_nobody_who_does_not_name_them(lab: Lab) -> None:
    lab.world.agent("speaker", tools="Read")

    async def main() -> None:
        sub = lab.plan("seen")
        delegates = tool(
            "Agent", description="Look.", prompt=f"{sub} look", subagent_type="general-purpose"
        )
        task = lab.plan(delegates)
        await lab.ask(task)
        await until(lambda: any(request.subagent_id for request in lab.told(sub)))
        await lab.ask(lab.plan("spoken"), agent="speaker")
        for request in lab.api.requests:
            if "scheduler" not in request.system_text:
                assert SURVIVING_TOOLS & set(request.tools) == set()
                for name in SURVIVING_TOOLS:
                    assert f"\n{name}\n" not in _deferred(flat(request))
        named = await lab.ask(lab.plan("seen"), agent="scheduler")
        assert {"CronCreate", "Monitor", "ScheduleWakeup"} <= set(named.requests[0].tools)

    lab.run(main())


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("CronCreate", {"cron": "0 0 1 1 *", "prompt": "later"}),
        ("ScheduleWakeup", {"delaySeconds": 60, "prompt": "later", "reason": "tests"}),
        ("Monitor", {"command": f"sh {LINGER}", "description": "tests", "timeout_ms": 60_000}),
        ("SendMessage", {"to": "nobody", "message": "tests"}),
    ],
)
def test_who_used_a_tool_that_outlives_a_reset_serves_no_other_task(
    lab: Lab, name: str, given: dict[str, Any]
) -> None:
    async def main() -> None:
        asked = await lab.ask(lab.plan(tool(name, **given), "done"), agent="scheduler")
        assert asked.text == "done"
        assert "No such tool" not in flat(asked.requests[-1])
        after = await lab.ask(lab.plan("after"), agent="scheduler")
        assert (after.text, len(after.requests)) == ("after", 1)
        assert after.pid != asked.pid
        await until(lambda: not is_alive(asked.pid))

    lab.run(main())


def test_it_is_said_why_a_worker_serves_no_other_task(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        sends = tool("SendMessage", to="nobody", message="tests")
        asked = await lab.ask(lab.plan(sends, "done"), agent="scheduler")
        await until(lambda: not is_alive(asked.pid))
        assert "it used SendMessage, whose effect outlives a reset" in caplog.text

    lab.run(main())


def test_a_sub_agents_use_of_such_a_tool_counts_too(lab: Lab) -> None:
    lab.world.agent("manager", tools="Agent, CronCreate")

    async def main() -> None:
        sub = lab.plan(tool("CronCreate", cron="0 0 1 1 *", prompt="later"), "scheduled")
        delegates = tool(
            "Agent", description="Plan.", prompt=f"{sub} plan", subagent_type="general-purpose"
        )
        asked = await lab.ask(lab.plan(delegates, "done"), agent="manager")
        used = any("Scheduled" in flat(request) for request in lab.told(sub))
        after = await lab.ask(lab.plan("after"), agent="manager")
        assert after.text == "after"
        assert used is False or after.pid != asked.pid

    lab.run(main())


async def _is_left_behind_by(lab: Lab, task: str, canary: str) -> None:
    """The task's own process is gone, and so is what it left running, before another serves."""
    asked = await lab.ask(task)
    await _is_not_in_later_tasks(lab, task, canary, asked)
    assert lab.processes(LINGER) == []


async def _is_not_in_later_tasks(lab: Lab, task: str, canary: str, asked: Said) -> None:
    """No request but the task's own ever holds the canary; a worker with unfinished work is
    replaced."""
    later = [await lab.ask(lab.plan("later")) for _ in range(3)]
    assert [one.text for one in later] == ["later"] * 3
    if "running in background" in flat(asked.requests[-1]):
        assert asked.pid not in {one.pid for one in later}
        await until(lambda: not is_alive(asked.pid))
    for request in lab.told(canary):
        assert all(canary not in flat(r) for one in later for r in one.requests)
        assert task in flat(request) or request.subagent_id


def _streaming(text: str) -> Reply:
    return Reply(f"{text} " * 40, pace=0.05)


def _deferred(text: str) -> str:
    """Tool names that the CLI says are there to be loaded, one on a line."""
    _, _, rest = text.replace("\\n", "\n").partition("deferred tools are now available")
    return rest.partition("\n\n")[0] + "\n"
