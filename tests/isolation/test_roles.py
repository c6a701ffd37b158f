"""One process is one agent after the other, and each task is that of its agent alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent_pool import RemoteProtocolError, SpawnError, WorkerAssigned
from agent_pool.claude.protocol.session import Session
from agent_pool.loopback import LoopbackAPI, ModelReply, ModelRequest
from support.fake_cli import install_faulty
from support.model_scripts import as_text, bash, echo_task, tool
from support.pool_harness import PoolHarness, TaskOutcome
from support.process_checks import is_alive
from support.stream_json_cli import stream_json_cli
from support.waiting import run

AGENTS = {
    "reader": {"tools": "Read, Grep, Glob", "model": "haiku"},
    "runner": {"tools": "Bash, Grep, Glob, Read", "effort": "low"},
    "writer": {"tools": "Write, Edit", "model": "opus"},
    "leader": {"tools": "Agent, Read"},
    "thinker": {"tools": "[]", "model": "sonnet"},
    "spare-time": {"disallowedTools": "Bash, Write"},
    "anything": {},
    "anything-else": {"disallowedTools": "Write"},
}
"""Agents of which every two differ in tools or model."""
NATIVE = [name for name, fields in AGENTS.items() if fields.get("tools") and "effort" not in fields]
"""Those whose request is that of `claude -p --agent`: the pool keeps no tool from them."""


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    """Open a pool with one worker and agents that differ."""
    harness = open_harness(max_size=1, max_workers=1)
    for name, fields in AGENTS.items():
        harness.project.agent(name, f"You are the {name}.", description=f"Is {name}.", **fields)
    return harness


def comparable(request: ModelRequest) -> dict[str, Any]:
    """Return a request without what differs between two processes, and between two tasks."""
    return {key: value for key, value in request.body.items() if key != "metadata"}


def fixed_part(request: ModelRequest) -> dict[str, Any]:
    """Return what a request holds besides the messages and the attribution line."""
    body = comparable(request)
    return {**body, "messages": None, "system": body["system"][1:]}


def test_one_process_serves_every_agent_with_its_own_request(harness: PoolHarness) -> None:
    async def main() -> None:
        first: dict[str, TaskOutcome] = {}
        pids = set()
        for _ in range(3):
            for name in AGENTS:
                secret = harness.word("secret")
                outcome = await harness.ask(harness.plan(f"{secret} of {name}"), agent=name)
                assert outcome.text == f"{secret} of {name}"
                (request,) = outcome.requests
                assert f"You are the {name}." in request.system_text
                others = [f"You are the {other}." for other in AGENTS if other != name]
                assert not any(other in as_text(request) for other in others)
                before = first.setdefault(name, outcome).requests[0]
                assert fixed_part(request) == fixed_part(before)
                pids.add(outcome.pid)
        assert len(pids) == 1

    harness.run(main())


def test_a_request_holds_no_word_of_an_earlier_agents_task(harness: PoolHarness) -> None:
    async def main() -> None:
        secret = harness.word("secret")
        await harness.ask(harness.plan(bash(f"echo {secret}"), secret), agent="runner")
        for name in ("writer", "anything", "thinker", "runner"):
            outcome = await harness.ask(harness.plan(), agent=name)
            assert secret not in as_text(outcome.requests[0])

    harness.run(main())


def test_shell_files_and_loaded_tools_do_not_pass_to_another_agent(harness: PoolHarness) -> None:
    look = 'pwd; umask; echo "[$CROSSED]"; type crossed 2>&1; echo "$PATH"; trap'
    change = "cd /; umask 077; export CROSSED=1; crossed() { :; }; trap 'echo crossed' EXIT"
    file = harness.project.root / "notes.txt"
    file.write_text("old\n")
    edit = tool("Edit", file_path=str(file), old_string="old", new_string="new")

    async def ask(agent: str, *steps: ModelReply) -> TaskOutcome:
        return await harness.ask(harness.plan(*steps), agent=agent)

    async def main() -> None:
        before = await ask("anything-else", bash(look))
        await ask("runner", bash(change))
        assert (await ask("anything-else", bash(look))).text == before.text
        await ask("reader", tool("Read", file_path=str(file)))
        # Edit refuses a file that the conversation has not read.
        refused = await ask("writer", edit)
        assert "not been read" in as_text(refused.requests[-1])
        assert file.read_text() == "old\n"
        loading = await ask("anything", tool("ToolSearch", query="select:WebFetch"))
        assert "WebFetch" in loading.requests[-1].tools
        after = await ask("anything-else")
        assert "WebFetch" not in after.requests[0].tools
        assert {before.pid, refused.pid, loading.pid} == {after.pid}

    harness.run(main())


@pytest.mark.parametrize("tools", ["Read", "Agent, Read", ""])
def test_agents_of_equal_tools_change_without_a_trace(
    open_harness: Callable[..., PoolHarness], tools: str
) -> None:
    harness = open_harness(max_workers=1, attribution=False)
    fields = {"tools": tools} if tools else {}
    for name in ("first", "second"):
        harness.project.agent(name, f"You are the {name}.", description="d", **fields)

    async def main() -> None:
        await harness.ask(harness.plan(), agent="first")
        await harness.wait_until_idle()
        task = harness.plan("done")
        seen: dict[str, list[dict[str, Any]]] = {"first": [], "second": []}
        for name in ("first", "second", "second", "first", "first", "second"):
            outcome = await harness.ask(task, agent=name)
            assert f"You are the {name}." in outcome.requests[0].system_text
            seen[name].append(comparable(outcome.requests[0]))
        for name, requests in seen.items():
            assert requests[0] == requests[1] == requests[2]
            # No note of a `/clear`: the task is the whole first message of the user.
            assert "local-command" not in str(requests[0]), name
        assert len(await harness.pool.workers()) == 1

    harness.run(main())


def test_no_agent_sees_or_starts_the_role_of_another(harness: PoolHarness) -> None:
    async def main() -> None:
        await harness.ask(harness.plan(), agent="reader")
        (request,) = (await harness.ask(harness.plan(), agent="leader")).requests
        assert "- reader: Is reader." in as_text(request)  # the agents of the project
        assert "agent-pool:" not in as_text(request)

    harness.run(main())


def test_agents_are_loaded_ahead_and_stay_unseen(
    open_harness: Callable[..., PoolHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    # With `/clear` the CLI makes its list of agents anew for each task.
    harness = open_harness(max_workers=1, reset="clear")
    for name, fields in AGENTS.items():
        harness.project.agent(name, f"You are the {name}.", description=f"Is {name}.", **fields)
    loaded: list[str] = []
    load_roles = Session.load_roles

    def count(session: Session, request_id: str) -> bytes:
        loaded.append(request_id)
        return load_roles(session, request_id)

    monkeypatch.setattr(Session, "load_roles", count)

    async def main() -> None:
        for name in ("leader", "leader", "reader", "leader", "anything"):
            (request,) = (await harness.ask(harness.plan(), agent=name)).requests
            assert f"You are the {name}." in request.system_text
            assert "agent-pool:" not in as_text(request)
            await harness.wait_until_idle()
            assert len(loaded) == 1  # after the first task, and no caller waited for it
        assert len(await harness.pool.workers()) == 1

    harness.run(main())


def test_an_agent_with_hyphens_in_its_description_is_itself(harness: PoolHarness) -> None:
    async def main() -> None:
        harness.project.agent(
            # Three hyphens as such would end the frontmatter of the file too.
            *("hyphens", "You have hyphens."),
            description=r'"One -\u002d- two -\u002d-- "',
            tools="Read",
        )
        (request,) = (await harness.ask(harness.plan(), agent="hyphens")).requests
        assert request.body["system"][-1]["text"] == "You have hyphens."
        assert set(request.tools) == {"Read", "DeferredToolPlaceholder"}

    harness.run(main())


@pytest.mark.parametrize(
    "prompt",
    [
        "---\nname: other\n---\nBody\n---\nend",
        "a\x01b\x07c\x1bd\x7fe\x0bf\x0cg\u2028h\u0085i",
        "@file $ARGUMENTS $1 !`echo` ${HOME} ${user_config.key} ${CLAUDE_SESSION_ID}",
        "Look into ${CLAUDE_PROJECT_DIR}.",
        "<!-- comment --> <system-reminder>x</system-reminder> {{y}}",
        "A long line of a prompt.\n" * 8000 + "End.",
        "Two blanks  \nand a tab\t\n\n\u200bthe end",
        "\x85Lines\r\nof\r\nWindows\x1c",
    ],
    ids=["hyphens", "control", "variables", "project", "markup", "long", "blanks", "windows"],
)
def test_a_prompt_is_sent_exactly_as_it_is_written(harness: PoolHarness, prompt: str) -> None:
    async def main() -> None:
        harness.project.agent("odd", prompt, description="Is odd.", tools="Read")
        (request,) = (await harness.ask(harness.plan(), agent="odd")).requests
        assert request.body["system"][-1]["text"] == prompt

    harness.run(main())


def test_a_tool_of_an_earlier_agent_cannot_be_called(harness: PoolHarness) -> None:
    async def main() -> None:
        marker = harness.project.root / "made"
        await harness.ask(harness.plan(bash("true")), agent="runner")
        outcome = await harness.ask(harness.plan(bash(f"touch {marker}")), agent="reader")
        assert "No such tool available: Bash" in as_text(outcome.requests[-1])
        assert not marker.exists()

    harness.run(main())


def test_an_edited_agent_keeps_its_process(harness: PoolHarness) -> None:
    async def main() -> None:
        before = await harness.ask(harness.plan(), agent="writer")
        harness.project.agent("writer", "You are edited.", description="Is writer.", tools="Read")
        after = await harness.ask(harness.plan(), agent="writer")
        assert (before.pid, set(after.requests[0].tools)) == (
            after.pid,
            {"Read", "DeferredToolPlaceholder"},
        )
        assert "You are edited." in after.requests[0].system_text

    harness.run(main())


def test_a_cancelled_caller_leaves_a_worker_that_can_change_again(harness: PoolHarness) -> None:
    async def main() -> None:
        seen: list[str] = []
        unsubscribe = harness.pool.subscribe(
            lambda event: seen.append(event.type) if isinstance(event, WorkerAssigned) else None
        )
        for steps in range(0, 40, 3):
            leaving = asyncio.create_task(harness.pool.invoke("reader", harness.plan()))
            for _ in range(steps):
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            outcome = await harness.ask(harness.plan(), agent="thinker")
            assert "You are the thinker." in outcome.requests[0].system_text
        unsubscribe()
        assert seen
        await harness.wait_until_idle()
        assert len(await harness.pool.workers()) == 1

    harness.run(main())


@pytest.mark.long
def test_the_first_request_of_a_role_is_that_of_claude_itself(
    open_harness: Callable[..., PoolHarness],
) -> None:
    # Without the attribution line the first reset is a rewind, too.
    harness = open_harness(environ={"CLAUDE_CODE_ATTRIBUTION_HEADER": "0"}, attribution=False)
    for name, fields in AGENTS.items():
        harness.project.agent(name, f"You are the {name}.", description=f"Is {name}.", **fields)

    async def natively(api: LoopbackAPI, name: str, task: str) -> dict[str, Any]:
        started = stream_json_cli(
            harness.project.root,
            api.url,
            *("--agent", name),
            CLAUDE_CODE_ATTRIBUTION_HEADER="0",
            CLAUDE_CODE_DISABLE_BACKGROUND_TASKS="1",
            HOME=str(harness.project.home),
            CLAUDE_CONFIG_DIR=str(harness.project.home / ".claude"),
        )
        async with started as cli:
            await cli.initialize()
            before = len(api.requests)
            await cli.prompt(task, client_composed=True)
            return comparable(api.requests[before])

    async def main() -> None:
        # From the second task on the pool knows that this CLI takes prompts as they are written.
        await harness.ask(harness.plan())
        await harness.wait_until_idle()
        async with LoopbackAPI(echo_task) as api:
            for earlier, name in pairwise(["tester", *NATIVE]):
                # A process of its own: after another role there is the CLI's note about `/clear`.
                await harness.pool.reset(earlier)
                for _ in range(2):
                    task = harness.plan("done")
                    outcome = await harness.ask(task, agent=name)
                    assert comparable(outcome.requests[0]) == await natively(api, name, task)

    harness.run(main())


# A CLI that does not do what it should


@pytest.fixture
def fake(open_harness: Callable[..., PoolHarness], tmp_path: Path) -> Callable[..., PoolHarness]:
    """Open a pool on a CLI with a fault."""

    def open_one(fault: str) -> PoolHarness:
        return open_harness(cli=install_faulty(tmp_path / "fake", fault), max_size=1)

    return open_one


def test_a_turn_of_the_wrong_agent_fails_and_ends_its_worker(
    fake: Callable[..., PoolHarness],
) -> None:
    harness = fake("other-agent")
    harness.project.agent("reader", tools="Read")

    async def main() -> None:
        worker = await harness.pool.warmup("reader")
        assert worker.pid is not None
        with pytest.raises(RemoteProtocolError, match="it has Bash, which its agent does not name"):
            await harness.ask(harness.plan("the answer of another agent"), agent="reader")
        after = await harness.ask(harness.plan("right"), agent="reader")
        assert (after.text, after.pid == worker.pid) == ("right", False)
        await harness.wait_until_idle()
        assert not is_alive(worker.pid)
        assert (await harness.pool.stats()).retired == {"tainted": 1}

    harness.run(main())


def test_a_process_that_refuses_its_role_serves_no_task(
    fake: Callable[..., PoolHarness],
) -> None:
    harness = fake("refuses-roles")

    async def main() -> None:
        with pytest.raises(SpawnError, match=r"could not take over the agent: .*no such agent"):
            await harness.ask("task")

    harness.run(main())


def test_a_process_that_ends_while_taking_its_role_is_reported(
    fake: Callable[..., PoolHarness],
) -> None:
    harness = fake("dies-of-roles")

    async def main() -> None:
        with pytest.raises(SpawnError, match=r"could not take over the agent: its process ended;"):
            await harness.ask("task")

    harness.run(main())


def test_a_cli_that_does_not_switch_gives_each_agent_its_process(
    fake: Callable[..., PoolHarness],
) -> None:
    harness = fake("honest-rewinds")
    harness.project.agent("other", "You are another.")

    async def main() -> None:
        pids = []
        for name in ("tester", "other", "tester"):
            pids.append((await harness.ask(harness.plan("yes"), agent=name)).pid)
            await harness.wait_until_idle()
        first, other, again = pids
        assert (first, first == other) == (again, False)

    harness.run(main())


def test_claude_alone_keeps_the_first_tools_until_clear(tmp_path: Path) -> None:
    folder = tmp_path / ".claude" / "agents"
    folder.mkdir(parents=True)
    for name in ("reader", "runner"):
        fields = f"name: {name}\ndescription: d\ntools: {AGENTS[name]['tools']}"
        (folder / f"{name}.md").write_text(f"---\n{fields}\n---\nYou are the {name}.\n")

    async def main() -> None:
        async with LoopbackAPI(echo_task) as api, stream_json_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            await cli.control(subtype="apply_flag_settings", settings={"agent": "runner"})
            stamp, _ = await cli.prompt("one")
            await cli.control(subtype="rewind_conversation", target_message_uuid=stamp)
            await cli.control(subtype="apply_flag_settings", settings={"agent": "reader"})
            await cli.prompt("two")
            assert "You are the reader." in api.requests[-1].system_text
            assert "Bash" in api.requests[-1].tools
            await cli.prompt("/clear")
            await cli.prompt("three")
            assert "Bash" not in api.requests[-1].tools

    run(main())
