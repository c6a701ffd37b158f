"""The words, files, tools and settings of a task do not reach the next one on its process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from agent_pool.loopback import ModelReply, ModelRequest, TextBlock
from support.cli_age import is_older_cli
from support.model_scripts import as_text, bash, tool
from support.pool_harness import PoolHarness


def test_no_word_of_a_task_is_ever_sent_again(harness: PoolHarness) -> None:
    async def main() -> None:
        canaries, pids = [], []
        for _ in range(8):
            asked, written, shown = (harness.word(kind) for kind in ("asked", "written", "shown"))
            task = harness.plan(
                ModelReply([TextBlock(written), *bash(f"echo {shown}").blocks]),
                f"I read {asked}, wrote {written} and saw {shown}",
            )
            one = await harness.ask(f"{task} {asked}")
            assert asked in one.text
            canaries.append({asked, written, shown})
            pids.append(one.pid)
        await harness.check_pids(*pids)
        sent = [
            {w for w in set().union(*canaries) if w in as_text(r)} for r in harness.api.requests
        ]
        for words in sent:
            assert sum(bool(words & canary) for canary in canaries) <= 1
        for canary in canaries:
            assert canary in sent

    harness.run(main())


def test_shell_changes_of_a_task_are_undone_for_the_next(harness: PoolHarness) -> None:
    probe = (
        'pwd; umask; echo "[$CROSSED]"; type crossed 2>&1; alias crossed 2>&1;'
        ' shopt -q nocasematch && echo shopt; git config --get crossed.x; echo "$PATH"; trap'
    )
    change = (
        "cd /; umask 077; export CROSSED=1; crossed() { :; }; alias crossed=ls;"
        " shopt -s nocasematch; export PATH=/nowhere; trap 'echo crossed' EXIT"
    )

    async def main() -> None:
        before = await harness.ask(harness.plan(bash(probe)))
        await harness.ask(harness.plan(bash(change)))
        after = await harness.ask(harness.plan(bash(probe)))
        assert after.text == before.text
        assert str(harness.project.root) in before.text
        await harness.check_pids(before.pid, after.pid)

    harness.run(main())


def test_a_file_from_an_earlier_task_is_read_again(
    harness: PoolHarness,
) -> None:
    old, new = harness.word("old"), harness.word("new")
    file = harness.project.root / "notes.txt"
    file.write_text(f"{old}\n")
    reads = tool("Read", file_path=str(file))

    async def main() -> None:
        first = await harness.ask(harness.plan(reads))
        again = await harness.ask(harness.plan(reads))
        assert old in first.text
        assert again.text == first.text
        file.write_text(f"{new}\n")
        plain = await harness.ask(harness.plan())
        assert old not in as_text(plain.requests[0])
        assert new not in as_text(plain.requests[0])
        assert file.name not in as_text(plain.requests[0])
        await harness.check_pids(first.pid, again.pid, plain.pid)

    harness.run(main())


@pytest.mark.since("2.1.181", "it has the tool TaskCreate")
def test_a_todo_list_ends_with_its_task(open_harness: Callable[..., PoolHarness]) -> None:
    # Without the variable no agent has these tools with `-p` (2.1.332).
    harness = open_harness(max_size=1, environ={"CLAUDE_CODE_ENABLE_TODO_TOOLS": "1"})
    harness.project.agent("planner", tools="TaskCreate, TaskList")
    item = harness.word("item")

    async def main() -> None:
        made = await harness.ask(
            harness.plan(tool("TaskCreate", subject=item, description=item)), agent="planner"
        )
        assert item in made.text
        listed = await harness.ask(harness.plan(tool("TaskList")), agent="planner")
        assert item not in as_text(listed.requests[-1])
        await harness.check_pids(made.pid, listed.pid)

    harness.run(main())


@pytest.mark.since("2.1.330", "some tools are not offered before ToolSearch loads them")
def test_a_loaded_tool_is_not_loaded_for_the_next_task(harness: PoolHarness) -> None:
    async def main() -> None:
        before = await harness.ask(harness.plan())
        loading = await harness.ask(
            harness.plan(tool("ToolSearch", query="select:WebFetch,TaskStop"))
        )
        after = await harness.ask(harness.plan())
        assert loading.requests[-1].tools != before.requests[0].tools
        assert after.requests[0].tools == before.requests[0].tools
        await harness.check_pids(before.pid, loading.pid, after.pid)

    harness.run(main())


@pytest.mark.usefixtures("used_again")
def test_a_cleared_worker_sends_requests_like_a_new_one(
    harness: PoolHarness,
) -> None:
    harness.project.agent("fresh")

    async def main() -> None:
        first, second, third = [await harness.ask("the same task", agent="fresh") for _ in range(3)]
        await harness.check_pids(first.pid, second.pid, third.pid)
        new, cleared, again = (one.requests[0] for one in (first, second, third))
        assert _essence(cleared) == _essence(new)
        assert cleared.body["messages"] == again.body["messages"]
        assert cleared.body["system"] == again.body["system"]

    harness.run(main())


def test_parallel_tasks_on_few_workers_get_only_their_own_words(
    harness: PoolHarness,
) -> None:
    async def main() -> None:
        canaries = [harness.word("canary") for _ in range(8)]
        tasks = [f"{harness.plan(bash(f'echo shell {canary}'))} {canary}" for canary in canaries]
        before = len(harness.api.requests)
        answers = await asyncio.gather(*(harness.ask(task) for task in tasks))
        assert [one.text for one in answers] == [f"tool: shell {canary}" for canary in canaries]
        for request in harness.api.requests[before:]:
            found = sum(canary in as_text(request) for canary in canaries)
            # 2.0.77 also sends requests that belong to no task ("Warmup").
            assert found == 1 or (found == 0 and is_older_cli())

    harness.run(main())


def _essence(request: ModelRequest) -> str:
    """Return a request as text, without its ids and without the note that `/clear` leaves."""
    system = [block["text"] for block in request.body["system"]]
    kept = [text for text in system if not text.startswith("x-anthropic-billing-header")]
    messages = json.loads(json.dumps(request.messages))
    for message in messages:
        if isinstance(message["content"], list):
            message["content"] = [
                block
                for block in message["content"]
                if not block["text"].startswith(("<local-command-", "<command-name>/clear<"))
            ]
    shape = {k: v for k, v in request.body.items() if k not in ("system", "messages", "metadata")}
    return json.dumps([kept, messages, shape], indent=1)
