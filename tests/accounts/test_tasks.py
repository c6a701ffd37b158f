"""What a task, its worker, its agent and the pool took is what the API billed for it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accounts.ledger import Ledger, account_of, all_of, same, usage_of, workers_of
from agent_pool import TaskFailed, TaskResult, TaskTimeout, Usage, WorkerDied
from agent_pool import Text as SaidText
from agent_pool.loopback import Cut, Failure, Reply
from isolation.lab import Gate, Lab, bash, tool
from pool_world import pid_in, shell

FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
LONG = "word " * 200


async def told(lab: Lab, agent: str, *steps: Any, **options: Any) -> TaskResult:
    return (await lab.ask(lab.plan(*steps), agent, **options)).result


def test_each_task_takes_what_was_billed_for_it_whatever_came_before(
    lab: Lab, ledger: Ledger, agent: str
) -> None:
    async def main() -> None:
        sub = lab.word("sub")
        lab.world.agent(sub, "You are a sub-agent.", description="Helps.", model="haiku")
        lab.plan_for("subtask", bash("echo sub"), "the sub-agent's answer")
        await ledger.learn_prices("inherit", "haiku")
        began, before = ledger.mark(), lab.pool.stats().total
        given = {"description": "Tests.", "prompt": "subtask", "subagent_type": sub}
        results = []
        for steps in (  # the third takes more of each kind than the second
            ["short"],
            ["short"],
            [bash("echo one"), bash("echo two"), "done"],
            [LONG],
            [tool("Agent", **given), "delegated"],
            ["after"],
        ):
            mark = ledger.mark()
            result = await told(lab, agent, *steps)
            billed = ledger.of(result)
            assert billed == ledger.since(mark)
            assert same((result.usage, result.cost_usd), (usage_of(billed), ledger.cost(billed)))
            results.append(result)
        await lab.settled()
        whole = ledger.since(began)
        assert len({entry.model for entry in whole}) == 2
        assert len({result.session_id for result in results}) == 6
        expected = usage_of(whole), ledger.cost(whole)
        (worker,) = await workers_of(lab, agent)
        account, total = account_of(lab, agent), lab.pool.stats().total
        assert same(all_of(results), expected)
        assert same((worker.usage, worker.cost_usd), expected)
        assert same((account.usage, account.cost_usd), expected)
        gained = total.usage - before.usage, total.cost_usd - before.cost_usd
        assert same(gained, expected)
        assert account.usage.cache_read_tokens > 0
        read, whole_input = account.usage.cache_read_tokens, account.usage.cache_write_tokens
        whole_input += account.usage.input_tokens + read
        assert account.cache_hit_rate == pytest.approx(read / whole_input)

    lab.run(main())


def test_follow_ups_take_what_they_add(lab: Lab, ledger: Ledger, agent: str) -> None:
    async def main() -> None:
        began, results = ledger.mark(), []
        for steps in (["one"], [bash("echo two"), "two"], [LONG], ["four"]):
            mark = ledger.mark()
            results.append(await told(lab, agent, *steps, conversation="talk"))
            assert results[-1].usage == usage_of(ledger.of(results[-1], mark))
            assert results[-1].usage == usage_of(ledger.since(mark))
        assert len({result.session_id for result in results}) == 1
        lab.pool.end_conversation(agent, "talk")
        await lab.settled()
        (worker,) = await workers_of(lab, agent)
        assert worker.usage == account_of(lab, agent).usage == usage_of(ledger.since(began))

    lab.run(main())


def test_a_task_that_fails_takes_what_it_used_until_then(
    lab: Lab, ledger: Ledger, agent: str
) -> None:
    async def main() -> None:
        short = lab.word("short")
        lab.world.agent(short, description="Tests.", maxTurns="1")
        began = ledger.mark()
        refused = await told(lab, agent, bash("echo one"), lambda _: Failure(400))
        assert (refused.is_error, refused.usage) == (True, usage_of(ledger.since(began)))
        after = await told(lab, agent, "yes")
        assert after.usage == usage_of(ledger.of(after))
        await lab.settled()
        account = account_of(lab, agent)
        assert account.usage == usage_of(ledger.since(began)) != refused.usage
        assert (account.tasks, dict(account.failed)) == (2, {"task_error": 1})
        mark = ledger.mark()
        stopped = await told(lab, short, bash("echo one"), bash("echo two"))
        assert stopped.subtype == "error_max_turns"
        assert stopped.usage == usage_of(ledger.since(mark)) == account_of(lab, short).usage

    lab.run(main())


def test_structured_answers_take_what_was_billed_fitting_or_not(
    lab: Lab, ledger: Ledger, agent: str
) -> None:
    async def main() -> None:
        began = ledger.mark()
        right = await told(lab, agent, tool("StructuredOutput", a=1), "done", schema=FORM)
        assert right.structured == {"a": 1}
        assert right.usage == usage_of(ledger.since(began))
        mark = ledger.mark()
        with pytest.raises(TaskFailed) as caught:
            await told(lab, agent, *["no"] * 9, schema=FORM)
        assert caught.value.result is not None
        assert caught.value.result.usage == usage_of(ledger.since(mark))
        await lab.settled()
        assert account_of(lab, agent).usage == usage_of(ledger.since(began))

    lab.run(main())


def test_what_the_cli_asks_on_its_own_account_is_the_tasks(labs: Callable[..., Lab]) -> None:
    lab = labs(reset="clear")
    hook = '{"hooks": {"Stop": [{"hooks": [{"type": "prompt", "prompt": "Is it $ARGUMENTS?"}]}]}}'
    (lab.world.root / ".claude" / "settings.json").write_text(hook)
    lab.plan_for("Is", '{"ok": true}')

    async def main() -> None:
        ledger = Ledger(lab)
        result = await told(lab, "tester", "yes")
        billed = ledger.since()
        assert [entry.is_side for entry in billed] == [False, True]
        assert result.usage == usage_of(billed) == usage_of(ledger.of(result))

    lab.run(main())


# What is interrupted


def test_a_task_that_is_stopped_while_a_tool_works_takes_the_requests_before_it(
    lab: Lab, ledger: Ledger, agent: str, tmp_path: Path
) -> None:
    async def main() -> None:
        began = ledger.mark()
        with pytest.raises(TaskTimeout):
            await told(lab, agent, bash("echo one"), bash(shell(tmp_path / "pid")), timeout=1.5)
        await lab.settled()
        billed = ledger.since(began)
        assert billed != []
        account = account_of(lab, agent)
        (worker,) = await workers_of(lab, agent)
        assert account.usage == worker.usage == usage_of(billed)
        assert (account.tasks, dict(account.failed)) == (1, {"task_timeout": 1})
        after = await told(lab, agent, "yes")
        assert (after.pid, after.usage) == (worker.pid, usage_of(ledger.of(after)))

    lab.run(main())


def test_of_an_interrupted_answer_the_prompt_counts_and_what_had_arrived(
    lab: Lab, ledger: Ledger, agent: str
) -> None:
    async def main() -> None:
        began, heard = ledger.mark(), asyncio.Event()
        answer = Reply(["a beginning", LONG], pace=0.05)
        task = lab.plan(answer)
        call = asyncio.create_task(
            lab.pool.invoke(
                agent, task, on_event=lambda e: heard.set() if isinstance(e, SaidText) else None
            )
        )
        await heard.wait()
        call.cancel()
        await asyncio.wait([call])
        await lab.settled()
        assert_only_output_is_less(account_of(lab, agent).usage, usage_of(ledger.since(began)))

    lab.run(main())


def test_of_an_answer_whose_connection_broke_counts_what_had_arrived(
    lab: Lab, ledger: Ledger, agent: str
) -> None:
    async def main() -> None:
        began = ledger.mark()
        answers = iter([Reply(["half an answer, and more", Cut()], pace=0.1), Reply("whole")])
        result = await told(lab, agent, lambda _: next(answers))
        broken, whole = ledger.since(began)
        assert result.text == "whole"
        if result.usage != whole.usage:  # or nothing had arrived
            assert_only_output_is_less(result.usage - whole.usage, broken.usage)

    lab.run(main())


def assert_only_output_is_less(found: Usage, billed: Usage) -> None:
    assert 0 < found.output_tokens < billed.output_tokens
    missing = billed - found
    assert (missing.input_tokens, missing.cache_write_tokens, missing.cache_read_tokens) == (0,) * 3


def test_a_request_that_was_not_answered_is_in_no_account(
    lab: Lab, ledger: Ledger, agent: str
) -> None:
    async def main() -> None:
        began, gate = ledger.mark(), Gate()
        call = asyncio.create_task(told(lab, agent, gate))
        await gate.reached.wait()
        call.cancel()
        await asyncio.wait([call])
        await lab.settled()
        assert ledger.since(began) == []
        account = account_of(lab, agent)
        assert (account.usage, account.cost_usd) == (Usage(), 0)
        assert (account.tasks, dict(account.failed)) == (1, {"cancelled": 1})

    lab.run(main())


def test_of_a_turn_whose_process_is_killed_nothing_is_made_up(
    lab: Lab, ledger: Ledger, agent: str, tmp_path: Path
) -> None:
    async def main() -> None:
        first = await told(lab, agent, "yes")
        mark, path = ledger.mark(), tmp_path / "pid"
        call = asyncio.create_task(told(lab, agent, bash(shell(path))))
        await pid_in(path)
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await call
        assert len(ledger.since(mark)) == 1  # the CLI tells of it only when the turn ends
        last = await told(lab, agent, "again")
        await lab.settled()
        account = account_of(lab, agent)
        (worker,) = await workers_of(lab, agent)
        assert account.usage == usage_of([*ledger.of(first), *ledger.of(last)])
        assert worker.usage == last.usage == usage_of(ledger.of(last))
        assert (account.tasks, dict(account.failed)) == (3, {"worker_died": 1})

    lab.run(main())


# Names


def test_an_agent_called_by_its_files_name_has_one_account(lab: Lab, ledger: Ledger) -> None:
    name, file = lab.word("name"), lab.word("file")
    path = lab.world.agent(name, description="Tests.")
    path.rename(path.with_stem(file))

    async def main() -> None:
        began = ledger.mark()
        await told(lab, file, "yes")
        await told(lab, name, "yes")
        await told(lab, file, "yes", conversation="talk")
        lab.pool.end_conversation(name, "talk")
        account = account_of(lab, name)
        assert (account.tasks, account.usage) == (3, usage_of(ledger.since(began)))
        assert file not in [one.agent for one in lab.pool.stats().agents]

    lab.run(main())
