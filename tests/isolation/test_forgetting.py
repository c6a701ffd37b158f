"""What a task said, read, loaded or set is not there for the next one, on the same process."""

from __future__ import annotations

import asyncio
import json

from agent_pool.loopback import Reply, Request, Text
from isolation.lab import Lab, bash, flat, tool


def test_no_word_of_a_task_is_ever_sent_again(lab: Lab) -> None:
    async def main() -> None:
        canaries, pids = [], set()
        for _ in range(8):
            asked, said, shown = (lab.word(kind) for kind in ("asked", "said", "shown"))
            task = lab.plan(
                Reply([Text(said), *bash(f"echo {shown}").blocks]),
                f"I was told {asked}, said {said} and saw {shown}",
            )
            one = await lab.ask(f"{task} {asked}")
            assert asked in one.text
            canaries.append({asked, said, shown})
            pids.add(one.pid)
        assert len(pids) == 1
        told = [{w for w in set().union(*canaries) if w in flat(r)} for r in lab.api.requests]
        for words in told:
            assert sum(bool(words & canary) for canary in canaries) <= 1
        for canary in canaries:
            assert canary in told

    lab.run(main())


def test_what_a_task_set_in_its_shell_is_unset(lab: Lab) -> None:
    probe = (
        'pwd; umask; echo "[$CROSSED]"; type crossed 2>&1; alias crossed 2>&1;'
        ' shopt -q nocasematch && echo shopt; git config --get crossed.x; echo "$PATH"; trap'
    )
    change = (
        "cd /; umask 077; export CROSSED=1; crossed() { :; }; alias crossed=ls;"
        " shopt -s nocasematch; export PATH=/nowhere; trap 'echo crossed' EXIT"
    )

    async def main() -> None:
        before = await lab.ask(lab.plan(bash(probe)))
        await lab.ask(lab.plan(bash(change)))
        after = await lab.ask(lab.plan(bash(probe)))
        assert after.text == before.text
        assert str(lab.world.root) in before.text
        assert after.pid == before.pid

    lab.run(main())


def test_a_file_that_an_earlier_task_read_is_read_anew_and_its_change_is_no_news(lab: Lab) -> None:
    old, new = lab.word("old"), lab.word("new")
    file = lab.world.root / "notes.txt"
    file.write_text(f"{old}\n")
    reads = tool("Read", file_path=str(file))

    async def main() -> None:
        first = await lab.ask(lab.plan(reads))
        again = await lab.ask(lab.plan(reads))
        assert old in first.text
        assert again.text == first.text
        file.write_text(f"{new}\n")
        plain = await lab.ask(lab.plan())
        assert old not in flat(plain.requests[0])
        assert new not in flat(plain.requests[0])
        assert file.name not in flat(plain.requests[0])
        assert plain.pid == first.pid

    lab.run(main())


def test_a_list_of_things_to_do_ends_with_its_task(lab: Lab) -> None:
    lab.world.agent("planner", tools="TaskCreate, TaskList")
    item = lab.word("item")

    async def main() -> None:
        made = await lab.ask(
            lab.plan(tool("TaskCreate", subject=item, description=item)), agent="planner"
        )
        assert item in made.text
        listed = await lab.ask(lab.plan(tool("TaskList")), agent="planner")
        assert item not in flat(listed.requests[-1])
        assert listed.pid == made.pid

    lab.run(main())


def test_a_tool_that_a_task_loaded_is_not_loaded_for_the_next(lab: Lab) -> None:
    async def main() -> None:
        before = await lab.ask(lab.plan())
        loading = await lab.ask(lab.plan(tool("ToolSearch", query="select:WebFetch,TaskStop")))
        after = await lab.ask(lab.plan())
        assert loading.requests[-1].tools != before.requests[0].tools
        assert after.requests[0].tools == before.requests[0].tools
        assert after.pid == loading.pid

    lab.run(main())


def test_a_cleared_worker_asks_what_a_new_one_asks_but_for_the_note_of_the_clearing(
    lab: Lab,
) -> None:
    lab.world.agent("fresh")

    async def main() -> None:
        first, second, third = [await lab.ask("the same task", agent="fresh") for _ in range(3)]
        assert first.pid == second.pid == third.pid
        new, cleared, again = (one.requests[0] for one in (first, second, third))
        assert _essence(cleared) == _essence(new)
        assert cleared.body["messages"] == again.body["messages"]
        assert cleared.body["system"] == again.body["system"]

    lab.run(main())


def test_eight_tasks_at_once_on_few_workers_get_their_own_answers_and_no_other_words(
    lab: Lab,
) -> None:
    async def main() -> None:
        canaries = [lab.word("canary") for _ in range(8)]
        tasks = [f"{lab.plan(bash(f'echo shell {canary}'))} {canary}" for canary in canaries]
        before = len(lab.api.requests)
        answers = await asyncio.gather(*(lab.ask(task) for task in tasks))
        assert [one.text for one in answers] == [f"tool: shell {canary}" for canary in canaries]
        for request in lab.api.requests[before:]:
            assert sum(canary in flat(request) for canary in canaries) == 1

    lab.run(main())


def _essence(request: Request) -> str:
    """What a request says, without its ids and without the note that `/clear` leaves."""
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
