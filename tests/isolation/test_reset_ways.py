"""Which way a worker forgets by, and that each task reads its files as they are then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_pool import PoolStats
from support.model_scripts import as_text, bash, tool
from support.npm_cli import cli_from_npm
from support.pool_harness import PoolHarness
from support.variants import later

OpenHarness = Callable[..., PoolHarness]


@pytest.fixture
def fresh(open_harness: OpenHarness) -> PoolHarness:
    """Open a pool of its own, whose figures belong to one test and whose requests begin alike."""
    return open_harness(max_size=1, attribution=False)


async def figures(harness: PoolHarness) -> PoolStats:
    """Wait until the last reset has ended; return the figures then."""
    await harness.wait_until_idle()
    return await harness.pool.stats()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_task_is_taken_back_and_leaves_no_trace(fresh: PoolHarness) -> None:
    async def main() -> None:
        # The probe ends during the first task, so the second one is sent as text already.
        await fresh.ask(fresh.plan(bash("echo canary-one")))
        again = [await fresh.ask("the same task canary-two") for _ in range(3)]
        requests = [one.requests[0].body for one in again]
        for body in requests:
            assert "canary-one" not in str(body)
            assert "<local-command" not in str(body)
            assert (body["messages"], body["system"]) == (
                requests[0]["messages"],
                requests[0]["system"],
            )
        assert len({one.pid for one in again}) == 1
        stats = await figures(fresh)
        assert (stats.resets, stats.rewinds) == (4, 4)

    fresh.run(main())


def test_the_attribution_line_stays_the_same_from_task_to_task(open_harness: OpenHarness) -> None:
    harness = open_harness(max_size=1)

    async def main() -> None:
        await harness.ask(harness.plan())
        others = ("Alpha is the first letter.", "Who wrote this?", "Please count to ten now.")
        said = [await harness.ask(task) for task in others]
        lines = [one.requests[0].body["system"][0]["text"] for one in said]
        assert "x-anthropic-billing-header" in lines[0]
        assert len(set(lines)) == 1
        # The prompt cache has all but the task itself.
        usages = [one.requests[0].usage for one in said[1:]]
        assert all(usage is not None and usage.cache_read_input_tokens for usage in usages)
        stats = await figures(harness)
        assert (stats.resets, stats.rewinds) == (4, 3)

    harness.run(main())


def test_a_task_that_is_a_command_reaches_the_model_as_text(fresh: PoolHarness) -> None:
    async def main() -> None:
        await fresh.ask(fresh.plan())
        write(fresh.project.root / "secret.txt", "content-of-the-file")
        for task in ("/clear", "/cost now", "!ls", "@secret.txt"):
            one = await fresh.ask(task)
            (message,) = [m for m in one.requests[0].messages if task in str(m)]
            assert message["content"][-1]["text"] == task
            assert "content-of-the-file" not in as_text(one.requests[0])

    fresh.run(main())


@pytest.mark.long
def test_a_list_of_tasks_is_ended_by_clear(open_harness: OpenHarness) -> None:
    # Without the variable these tools do not exist (2.1.332).
    variables = {"CLAUDE_CODE_ENABLE_TODO_TOOLS": "1"}
    fresh = open_harness(max_size=1, attribution=False, environ=variables)
    fresh.project.agent("planner", tools="TaskCreate, TaskList")

    async def main() -> None:
        await fresh.ask("the first", agent="planner")
        made = fresh.plan(tool("TaskCreate", subject="canary-item", description="x"))
        outcome = await fresh.ask(made, agent="planner")
        assert "Task #1 created successfully" in as_text(outcome.requests[-1])
        listed = await fresh.ask(fresh.plan(tool("TaskList")), agent="planner")
        assert "canary-item" not in as_text(listed.requests[-1])
        stats = await figures(fresh)
        # TaskList too: it is no tool of which a rewind is known to undo everything.
        assert (stats.resets, stats.rewinds) == (3, 1)

    fresh.run(main())


def test_a_conversation_of_several_turns_is_ended_by_clear(fresh: PoolHarness) -> None:
    async def main() -> None:
        for _ in range(3):
            await fresh.ask(f"{fresh.plan()} canary-talk", conversation="talk")
        await fresh.pool.end_conversation("tester", "talk")
        await fresh.wait_until_idle()
        one = await fresh.ask(fresh.plan())
        assert "canary-talk" not in as_text(one.requests[0])
        stats = await figures(fresh)
        assert (stats.resets, stats.rewinds) == (2, 1)

    fresh.run(main())


def test_a_skill_of_a_subfolder_is_forgotten_after_its_task(fresh: PoolHarness) -> None:
    fresh.project.agent("skilled", tools="Read, Skill")
    folder = fresh.project.root / "sub"
    write(folder / "notes.txt", "notes")
    write(
        folder / ".claude/skills/deep/SKILL.md",
        "---\nname: deep\ndescription: canary-skill\n---\nx\n",
    )

    async def main() -> None:
        reads = fresh.plan(tool("Read", file_path=str(folder / "notes.txt")))
        found = await fresh.ask(reads, agent="skilled")
        after = await fresh.ask(fresh.plan(), agent="skilled")
        assert "canary-skill" in as_text(found.requests[-1])
        assert "canary-skill" not in as_text(after.requests[0])
        assert after.pid == found.pid

    fresh.run(main())


@pytest.mark.long
def test_a_forked_sub_agent_leaves_nothing_to_the_next_task(fresh: PoolHarness) -> None:
    fresh.project.agent("leader", tools="Agent, Read", description="Leads.")

    async def main() -> None:
        await fresh.ask(fresh.plan(), agent="leader")
        same = fresh.plan("done")
        before = await fresh.ask(same, agent="leader")
        forked = tool("Agent", description="Fork.", prompt="canary-fork", subagent_type="fork")
        asked = await fresh.ask(fresh.plan(forked), agent="leader")
        assert "Subagent hand-back" in asked.text
        assert any("canary-fork" in r.last_user_text for r in fresh.api.requests)
        after = await fresh.ask(same, agent="leader")
        assert after.requests[0].body["messages"] == before.requests[0].body["messages"]
        assert after.requests[0].body["tools"] == before.requests[0].body["tools"]
        assert after.pid == before.pid

    fresh.run(main())


def test_words_of_a_session_start_hook_are_not_kept_for_later_tasks(fresh: PoolHarness) -> None:
    words = fresh.project.root / "words.txt"
    words.write_text("word-one")
    hook = {"type": "command", "command": f"cat {words}"}
    settings = {"hooks": {"SessionStart": [{"hooks": [hook]}]}}
    write(fresh.project.root / ".claude/settings.json", json.dumps(settings))

    async def main() -> None:
        first = await fresh.ask(fresh.plan())
        assert "word-one" in as_text(first.requests[0])
        await fresh.wait_until_idle()
        words.write_text("word-two")
        # The hook runs at the reset after a task, so the words are those of that moment.
        await fresh.ask(fresh.plan())
        third = await fresh.ask(fresh.plan())
        assert "word-two" in as_text(third.requests[0])
        assert "word-one" not in as_text(third.requests[0])
        stats = await figures(fresh)
        assert (stats.resets, stats.rewinds) == (3, 0)

    fresh.run(main())


@pytest.mark.long
def test_quick_start_hooks_say_their_words_again_before_a_later_task(
    fresh: PoolHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = fresh.project.root / "branch.txt"
    branch.write_text("branch-one")
    hook = {"type": "command", "command": f"cat {branch}"}
    settings = {"hooks": {"SessionStart": [{"hooks": [hook]}]}}
    write(fresh.project.root / ".claude/settings.json", json.dumps(settings))
    monkeypatch.setattr("agent_pool.claude.start_hooks.FRESH_SECONDS", 0.0)

    async def main() -> None:
        first = await fresh.ask(fresh.plan())
        await fresh.wait_until_idle()
        branch.write_text("branch-two")
        second = await fresh.ask(fresh.plan())
        assert second.pid == first.pid
        assert "branch-two" in as_text(second.requests[0])
        assert "branch-one" not in as_text(second.requests[0])

    fresh.run(main())


@pytest.mark.parametrize("is_used", [later(False), True], ids=["first-task", "later-task"])
def test_a_task_reads_memory_files_as_they_are_when_it_begins(
    fresh: PoolHarness, is_used: bool
) -> None:
    root = fresh.project.root
    names = ("CLAUDE.md", "imported.md", ".claude/rules/rule.md", "CLAUDE.local.md")

    def edit(edition: str) -> None:
        for number, name in enumerate(names):
            write(root / name, f"canary-{edition}-{number}\n@imported.md\n")

    async def main() -> None:
        edit("old")
        warm = await fresh.pool.warmup("tester")
        if is_used:
            for _ in range(2):
                await fresh.ask(fresh.plan())
            await fresh.wait_until_idle()
        edit("new")
        one = await fresh.ask(fresh.plan())
        sent = as_text(one.requests[0])
        assert [f"canary-new-{number}" in sent for number in range(4)] == [True] * 4
        assert "canary-old" not in sent
        if is_used:
            assert one.pid == warm.pid

    fresh.run(main())


def test_edited_settings_give_the_next_task_a_new_process(fresh: PoolHarness) -> None:
    settings = fresh.project.root / ".claude/settings.json"
    shows = bash('echo "[$CANARY_VARIABLE]"')

    async def main() -> None:
        write(settings, json.dumps({"env": {"CANARY_VARIABLE": "old"}}))
        first = await fresh.ask(fresh.plan(shows))
        await fresh.wait_until_idle()
        write(settings, json.dumps({}))
        second = await fresh.ask(fresh.plan(shows))
        assert "[old]" in first.text
        assert "[]" in second.text
        assert second.pid != first.pid
        assert (await figures(fresh)).retired == {"edited": 1}

    fresh.run(main())


@pytest.mark.long
def test_a_plugin_with_a_module_gets_a_process_for_each_task(
    open_harness: OpenHarness, tmp_path: Path
) -> None:
    plugin = tmp_path / "plugin"
    write(plugin / ".claude-plugin/plugin.json", json.dumps({"name": "noter", "version": "1.0.0"}))
    write(plugin / "hooks/hooks.json", json.dumps({"modules": ["./register.js"]}))
    write(
        plugin / "hooks/register.js",
        "const seen = []\n"
        "export const register = (on) => {\n"
        "  on('prompt.submit', async ($, e, next) => {\n"
        "    seen.push(e.text)\n"
        "    return next({ ...e, text: `${e.text} seen: ${seen.join()}` })\n"
        "  })\n"
        "}\n",
    )
    other = open_harness(max_size=1, environ={"CLAUDE_CODE_PLUGIN_DIRS": str(plugin)})

    async def main() -> None:
        first = await other.ask(f"{other.plan()} canary-module")
        second = await other.ask(other.plan())
        assert "seen:" in as_text(first.requests[0])
        assert "canary-module" not in as_text(second.requests[0])
        assert second.pid != first.pid

    other.run(main())


@pytest.mark.long
@pytest.mark.old_cli
@pytest.mark.parametrize(
    ("version", "rewinds"),
    [
        ("2.1.229", 0),
        ("2.1.270", 3),
        ("2.1.300", 3),
    ],
)
def test_a_version_is_reset_by_the_way_that_the_probe_found(
    open_harness: OpenHarness, version: str, rewinds: int
) -> None:
    harness = open_harness(cli=cli_from_npm(version), max_size=1, attribution=False)
    harness.project.agent("reader", tools="Read, Bash")

    async def main() -> None:
        canaries, said = [], []
        for _ in range(3):
            canaries.append(harness.word("canary"))
            task = f"{harness.plan(bash(f'echo {canaries[-1]}'))} {canaries[-1]}"
            said.append(await harness.ask(task, agent="reader"))
        for number, one in enumerate(said):
            assert canaries[number] in one.text
            sent = as_text(one.requests[-1])
            assert [canary in sent for canary in canaries] == [n == number for n in range(3)]
        assert len({one.pid for one in said}) == 1
        stats = await figures(harness)
        assert (stats.resets, stats.rewinds) == (3, rewinds)

    harness.run(main())
