"""The same promises on CLIs that do not forget, or whose results do not name their prompts.

A process of 2.0.77 takes seconds to start and serves one task, so each task here has many checks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import psutil
import pytest

from agent_pool import ConfigError, PermissionRequest, TaskTimeout
from agent_pool.claude.binary import parse_version
from agent_pool.claude.launch import PROMPT_BY_INITIALIZE
from agent_pool.claude.protocol.states import SURVIVING_TOOLS
from agent_pool.loopback import ErrorResponse, ModelRequest
from support.environment import cli_named, named_cli
from support.model_scripts import Gate, as_text, bash, sub_agent, task_blocks, tool
from support.ping_servers import configure, server
from support.pool_harness import PoolHarness
from support.waiting import wait_until

pytestmark = [pytest.mark.old_cli, pytest.mark.long]

VERSIONS = ("2.0.0", "2.0.30", "2.0.77", "2.1.119", "2.1.197")
"""The 2.0 versions do not know `/clear`, which only seems to work in 2.1.119. It works in 2.1.197,
but results have no stamps there. So no process of these versions may be used again. 2.0.0 and
2.0.30 do not know some options of the current version."""
LINGER = "linger-321.sh"


@pytest.fixture(scope="module", params=[named_cli()] if named_cli() else VERSIONS)
def harness(
    open_harness: Callable[..., PoolHarness], request: pytest.FixtureRequest
) -> PoolHarness:
    harness = open_harness(cli=cli_named(request.param), max_size=1, task_timeout=40)
    harness.project.agent("tester", "You speak in riddles.")
    harness.project.agent("reader", tools="Read", effort="low", maxTurns="3")
    harness.project.agent("asker", permissionMode="default")
    (harness.project.root / LINGER).write_text("sleep 321\n")
    return harness


def test_an_old_cli_passes_no_words_to_the_next_task(
    harness: PoolHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        canary = harness.word("canary")
        first = await harness.ask(harness.plan(bash(f"echo {canary}"), f"it was {canary}"))
        second = await harness.ask(harness.plan(f"not {canary}"))
        assert (first.text, second.text) == (f"it was {canary}", f"not {canary}")
        assert all(canary not in as_text(request) for request in second.requests)
        for request in first.requests:
            assert "You speak in riddles." in request.system_text
            assert SURVIVING_TOOLS & set(request.tools) == set()
        # None of `VERSIONS` may be used again; a CLI that somebody names can be a later one.
        is_reused = named_cli() != "" and (await harness.verdict()).forgets
        assert caplog.text.count("cannot be trusted to reset") == (0 if is_reused else 1)
        assert (first.pid == second.pid) == is_reused

    harness.run(main())


def test_an_agent_has_only_its_tools_where_options_are_unknown(harness: PoolHarness) -> None:
    async def main() -> None:
        asked = await harness.ask(harness.plan("read"), agent="reader")
        assert asked.text == "read"
        # Later versions than `VERSIONS` send it beside the tools of each request (2.1.332).
        placeholder = {"DeferredToolPlaceholder"} if named_cli() else set()
        assert [set(request.tools) - placeholder for request in asked.requests] == [{"Read"}]

    harness.run(main())


def test_other_tools_of_a_named_server_are_not_offered(harness: PoolHarness) -> None:
    configure(harness.project.root / ".mcp.json", shared=server())
    one = harness.project.agent("single", tools="Read, mcp__shared__ping", mcpServers="[shared]")

    async def main() -> None:
        launch = await harness.pool.launch_spec("tester")
        if parse_version(launch.version) < PROMPT_BY_INITIALIZE:
            # Such a version cannot leave out the server's other tools.
            with pytest.raises(ConfigError, match="cannot limit an agent to mcp__shared__ping"):
                await harness.ask(harness.plan(), agent="single")
            return
        asked = await harness.ask(harness.plan(tool("mcp__shared__pong"), "done"), agent="single")
        offered = [
            {name for name in request.tools if "mcp__" in name} for request in asked.requests
        ]
        assert offered == [{"mcp__shared__ping"}] * 2
        assert "No such tool available" in as_text(asked.requests[-1])

    harness.run(main())
    one.unlink()


def test_transcripts_are_written_only_where_the_launch_says_so(harness: PoolHarness) -> None:
    async def main() -> None:
        launch = await harness.pool.launch_spec("tester")
        canary = harness.word("canary")
        asked = await harness.ask(harness.plan(bash(f"echo {canary}")))
        if named_cli():  # a later CLI, whose process would serve the next task
            await harness.pool.reset("tester")
        await wait_until(lambda: not psutil.pid_exists(asked.pid))
        files = [path for path in harness.project.home.rglob("*.jsonl") if path.is_file()]
        written = [path for path in files if canary in path.read_text()]
        assert bool(written) == ("--no-session-persistence" in launch.left_out)
        assert all(path.parent.parent.name == "projects" for path in written)

    harness.run(main())


def test_a_person_decides_on_the_permissions_of_an_old_cli(harness: PoolHarness) -> None:
    async def main() -> None:
        kept, made = (harness.project.root / harness.word("file") for _ in range(2))
        asked: list[str] = []

        async def decide(request: PermissionRequest) -> bool:
            asked.append(request.tool)
            return str(made) in request.input["command"]

        task = harness.plan(bash(f"touch {kept}"), bash(f"touch {made}"), "done")
        answer = await harness.ask(task, agent="asker", on_permission=decide)
        assert (answer.text, asked) == ("done", ["Bash", "Bash"])
        assert (kept.exists(), made.exists()) == (False, True)

    harness.run(main())


def test_no_text_runs_a_command_of_the_cli(harness: PoolHarness) -> None:
    async def main() -> None:
        for task in ("/clear", "\ufeff/compact \u2028!ls\t\n"):
            asked = await harness.ask(task)
            (request,) = asked.requests
            assert task_blocks(request)[-1].lstrip("\n") == task
            assert asked.text == f"echo: {task.strip()}"

    harness.run(main())


def test_mentioned_files_are_not_read_for_the_model(harness: PoolHarness) -> None:
    secret = harness.word("secret")
    (harness.project.root / "notes.md").write_text(f"{secret}\n")

    async def main() -> None:
        await harness.ask("see @notes.md")
        assert harness.requests_with(secret) == []

    harness.run(main())


def test_leftover_commands_and_late_answers_reach_no_later_task(
    harness: PoolHarness,
) -> None:
    daemon = f"nohup setsid sh {LINGER} >/dev/null 2>&1 & echo started"

    async def main() -> None:
        canary, late = harness.word("canary"), harness.word("late")
        shell = bash(f"echo {canary}; sh {LINGER}; echo {canary}", run_in_background=True)
        answer = Gate(f"too late {late}")
        task = harness.plan(bash(daemon), shell, answer)
        asking = asyncio.create_task(harness.pool.invoke("tester", task, timeout=30))
        await answer.reached.wait()
        assert harness.processes(LINGER) != []
        asking.cancel()
        next_one = asyncio.create_task(harness.ask(harness.plan("the next")))
        answer.open()
        assert (await next_one).text == "the next"
        await wait_until(lambda: not harness.processes(LINGER))
        launch = await harness.pool.launch_spec("tester")
        requests = harness.requests_with(late)
        if "--no-session-persistence" in launch.left_out:
            # A new process asks a small model for the title of each transcript (2.0.0).
            requests = [request for request in requests if not _asks_for_a_title(request)]
        assert requests == []
        for request in harness.requests_with(canary):
            assert task in as_text(request) or request.is_side

    harness.run(main())


def test_an_api_error_ends_its_own_task_alone(harness: PoolHarness) -> None:
    async def main() -> None:
        refused = await harness.ask(harness.plan(ErrorResponse(400)))
        assert refused.result.is_error
        assert "400" in refused.text
        assert (await harness.ask(harness.plan("in time"))).text == "in time"

    harness.run(main())


def test_the_next_task_is_served_after_a_timeout(harness: PoolHarness) -> None:
    async def main() -> None:
        late = Gate("too late")
        with pytest.raises(TaskTimeout):
            await harness.pool.invoke("tester", harness.plan(late), timeout=0.5)
        assert (await harness.ask(harness.plan("in time"))).text == "in time"

    harness.run(main())


def test_a_sub_agent_still_running_reaches_no_later_task(harness: PoolHarness) -> None:
    async def main() -> None:
        found = harness.word("found")
        late = Gate(f"the sub-agent says {found}")
        sub = harness.plan(late)
        notice = Gate("a notice that no task asked for")
        harness.plan_for("<task-notification>", notice)

        delegates = sub_agent(f"{sub} look", run_in_background=True)
        asking = asyncio.create_task(harness.ask(harness.plan(delegates)))
        await late.reached.wait()
        await asyncio.wait(
            [asking], timeout=3
        )  # versions in which it works in the background answer now
        if asking.done():
            await harness.wait_until_idle()
        late.open()
        await asking
        await notice.reached_within(2)
        next_one = asyncio.create_task(harness.ask(harness.plan("the next")))
        await asyncio.wait([next_one], timeout=0.5)
        notice.open()
        asked = await next_one
        assert asked.text == "the next"
        assert found not in "".join(map(as_text, asked.requests))

    harness.run(main())


def _asks_for_a_title(request: ModelRequest) -> bool:
    title = "Please write a 5-10 word title for the following conversation:"
    return request.is_side and request.last_user_text.startswith(title)
