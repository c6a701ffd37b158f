"""The same promises on CLIs that do not forget, or do not say whose answer an answer is.

A process of 2.0.77 takes seconds to start and serves one task, so each task here serves many ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from agent_pool import TaskTimeout
from agent_pool.claude.states import SURVIVING_TOOLS
from isolation.lab import Gate, Lab, bash, flat, task_blocks, tool
from isolation.npm import cli_from_npm
from pool_world import until

pytestmark = pytest.mark.old_cli

VERSIONS = ("2.0.77", "2.1.119", pytest.param("2.1.197", marks=pytest.mark.long))
"""`/clear` is unknown to the first, seems to work in the second, and works in the third, which does
not stamp its answers; so none of them is trusted to be used again."""
LINGER = "linger-321.sh"


@pytest.fixture(scope="module", params=VERSIONS)
def lab(labs: Callable[..., Lab], request: pytest.FixtureRequest) -> Lab:
    lab = labs(cli=cli_from_npm(request.param), max_size=1, task_timeout=40)
    lab.world.agent("tester", "You speak in riddles.")
    (lab.world.root / LINGER).write_text("sleep 321\n")
    return lab


def test_it_is_known_whether_it_forgets_and_nothing_of_a_task_reaches_the_next(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        canary = lab.word("canary")
        first = await lab.ask(lab.plan(bash(f"echo {canary}"), f"it was {canary}"))
        second = await lab.ask(lab.plan(f"not {canary}"))
        assert (first.text, second.text) == (f"it was {canary}", f"not {canary}")
        assert all(canary not in flat(request) for request in second.requests)
        for request in first.requests:
            assert "You speak in riddles." in request.system_text
            assert SURVIVING_TOOLS & set(request.tools) == set()
        assert caplog.text.count("cannot be trusted to reset") == 1
        assert first.pid != second.pid

    lab.run(main())


def test_no_text_runs_a_command_of_the_cli(lab: Lab) -> None:
    async def main() -> None:
        for task in ("/clear", "\ufeff/compact \u2028!ls\t\n"):
            asked = await lab.ask(task)
            (request,) = asked.requests
            assert task_blocks(request)[-1].lstrip("\n") == task
            assert asked.text == f"echo: {task.strip()}"

    lab.run(main())


def test_mentioned_files_are_not_read_for_the_model(lab: Lab) -> None:
    secret = lab.word("secret")
    (lab.world.root / "notes.md").write_text(f"{secret}\n")

    async def main() -> None:
        await lab.ask("see @notes.md")
        assert lab.told(secret) == []

    lab.run(main())


def test_what_a_task_left_running_or_answers_late_reaches_no_later_task(lab: Lab) -> None:
    daemon = f"nohup setsid sh {LINGER} >/dev/null 2>&1 & echo started"

    async def main() -> None:
        canary, late = lab.word("canary"), lab.word("late")
        shell = bash(f"echo {canary}; sh {LINGER}; echo {canary}", run_in_background=True)
        answer = Gate(f"too late {late}")
        task = lab.plan(bash(daemon), shell, answer)
        asking = asyncio.create_task(lab.pool.invoke("tester", task, timeout=30))
        await answer.reached.wait()
        assert lab.processes(LINGER) != []
        asking.cancel()
        next_one = asyncio.create_task(lab.ask(lab.plan("the next")))
        answer.open()
        assert (await next_one).text == "the next"
        await until(lambda: not lab.processes(LINGER))
        assert lab.told(late) == []
        for request in lab.told(canary):
            assert task in flat(request) or request.is_side

    lab.run(main())


def test_a_time_out_frees_the_worker_for_the_next_task(lab: Lab) -> None:
    async def main() -> None:
        late = Gate("too late")
        with pytest.raises(TaskTimeout):
            await lab.pool.invoke("tester", lab.plan(late), timeout=0.5)
        assert (await lab.ask(lab.plan("in time"))).text == "in time"

    lab.run(main())


def test_a_sub_agent_that_works_on_reaches_no_later_task(lab: Lab) -> None:
    async def main() -> None:
        found = lab.word("found")
        late = Gate(f"the sub-agent says {found}")
        notice = Gate("a notice that nobody asked for")
        lab.plan_for("<task-notification>", notice)
        delegates = tool(
            "Task" if "2.0." in lab.environ["CLAUDE_CLI"] else "Agent",
            description="Look.",
            prompt=f"{lab.plan(late)} look",
            subagent_type="general-purpose",
            run_in_background=True,
        )
        asking = asyncio.create_task(lab.ask(lab.plan(delegates)))
        await late.reached.wait()
        await asyncio.wait([asking], timeout=3)  # where it works beside its parent
        if asking.done():
            await lab.settled()
        late.open()
        await asking
        await notice.reached_within(2)
        next_one = asyncio.create_task(lab.ask(lab.plan("the next")))
        await asyncio.wait([next_one], timeout=0.5)
        notice.open()
        asked = await next_one
        assert asked.text == "the next"
        assert found not in "".join(map(flat, asked.requests))

    lab.run(main())
