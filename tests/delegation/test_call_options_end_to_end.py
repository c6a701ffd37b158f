"""Options of a single call on the real CLI: model, effort, permissions, variables, folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_pool import AgentPool, ConfigError
from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.cli_runner import agent_pool, invoke_in
from support.model_scripts import as_text, bash, echo_task
from support.pool_harness import PoolHarness
from support.pools import PLAIN, PoolProject
from support.project import TempProject
from support.waiting import run

SONNET = "claude-sonnet-4-6"
FEW: dict[str, Any] = {"AGENT_POOL_SPARES": "0", "AGENT_POOL_RESET": "clear"}
"""Settings of a batch that starts no process except its workers."""


def folder_with_agent(tmp_path: Path, body: str) -> Path:
    """Make a folder with an agent `tester`, a CLAUDE.md and settings of its own."""
    other = tmp_path / "other"
    (other / ".claude" / "agents").mkdir(parents=True)
    text = f"---\nname: tester\ndescription: x\n---\n{body}\n"
    (other / ".claude" / "agents" / "tester.md").write_text(text)
    (other / ".claude" / "settings.json").write_text('{"env": {"OF_SETTINGS": "other"}}')
    (other / "CLAUDE.md").write_text("MEMORY-OF-OTHER\n")
    return other


def test_the_model_gets_model_and_effort_of_the_call(
    harness: PoolHarness, define: Callable[..., str]
) -> None:
    name = define(model="claude-opus-4-5", effort="high")

    async def main() -> None:
        plain = await harness.ask(harness.plan(), name)
        changed = await harness.ask(harness.plan(), name, model=SONNET, effort="low")
        again = await harness.ask(harness.plan(), name)
        seen = [
            (one.requests[0].model, one.requests[0].body["output_config"]["effort"])
            for one in (plain, changed, again)
        ]
        assert seen == [
            ("claude-opus-4-5", "high"),
            (SONNET, "low"),
            ("claude-opus-4-5", "high"),
        ]

    harness.run(main())


def test_workers_of_equal_options_are_used_again(
    harness: PoolHarness, define: Callable[..., str]
) -> None:
    name = define()

    async def main() -> None:
        pids = []
        for env in ({"A": "1"}, {"A": "1"}, {"A": "2"}):
            pids.append((await harness.ask(harness.plan(), name, env=env)).pid)
            await harness.wait_until_idle()
        assert pids[0] == pids[1] != pids[2]
        assert await harness.pool.reset(name) == 2

    harness.run(main())


def test_a_command_of_the_agent_sees_variables_of_its_call_only(
    harness: PoolHarness, define: Callable[..., str]
) -> None:
    name = define()
    show = bash('echo "value: ${OF_CALL:-none}"')

    async def main() -> None:
        given = await harness.ask(harness.plan(show), name, env={"OF_CALL": "s3cret"})
        assert "value: s3cret" in given.text
        after = await harness.ask(harness.plan(show), name)
        assert "value: none" in after.text
        assert "s3cret" not in repr(await harness.pool.workers())

    harness.run(main())


def test_an_empty_variable_of_a_call_is_not_set_at_all(pool_project: PoolProject) -> None:
    show = bash('echo "value: ${OF_POOL-not set} ${OTHER-not set}"')

    def script(request: ModelRequest) -> Any:
        return echo_task(request) if request.tool_results else show

    async def main() -> None:
        async with (
            LoopbackAPI(script) as api,
            AgentPool(
                environ=pool_project.environment(api.url, OF_POOL="of the pool"), **PLAIN
            ) as pool,
        ):
            assert "value: of the pool" in (await pool.invoke("tester", "x")).text
            given = await pool.invoke("tester", "x", env={"OF_POOL": "", "OTHER": ""})
            assert "value: not set not set" in given.text

    run(main())


def test_a_stricter_mode_of_a_call_denies_what_the_agent_may(
    harness: PoolHarness, define: Callable[..., str], tmp_path: Path
) -> None:
    name = define()
    write = bash(f"touch {tmp_path}/made")

    async def main() -> None:
        await harness.ask(harness.plan(write), name, permission_mode="dontAsk")
        assert not (tmp_path / "made").exists()
        await harness.ask(harness.plan(write), name)
        assert (tmp_path / "made").exists()
        strict = define(permissionMode="dontAsk")
        with pytest.raises(ConfigError, match="default permits more than dontAsk, which the defin"):
            await harness.ask(harness.plan(write), strict, permission_mode="default")

    harness.run(main())


def test_a_conversation_keeps_the_options_that_it_began_with(
    harness: PoolHarness, define: Callable[..., str]
) -> None:
    name = define()

    async def main() -> None:
        first = await harness.ask(harness.plan(), name, conversation="c", model=SONNET)
        next_one = await harness.ask(harness.plan(), name, conversation="c", model=SONNET)
        assert (next_one.pid, next_one.result.place) == (first.pid, 2)
        with pytest.raises(ConfigError, match="or with other options"):
            await harness.ask(harness.plan(), name, conversation="c")
        assert await harness.pool.end_conversation(name, "c")

    harness.run(main())


def test_run_takes_every_option_of_a_call(project: TempProject, tmp_path: Path) -> None:
    other = folder_with_agent(tmp_path, "You are the other.")
    project.agent("tester", "You are the first.", description="x")

    def script(request: ModelRequest) -> Any:
        done = echo_task(request)
        return done if done.startswith("tool: ") else bash("pwd; echo $OF_CALL $OF_SETTINGS")

    with LoopbackAPI(script).in_thread() as api:
        options = ["--cwd", str(other), "--model", SONNET, "--effort", "low"]
        options += ["--env", "OF_CALL=a=b", "--permission-mode", "bypassPermissions"]
        done = agent_pool(project, "run", "-q", "tester", "look", *options, url=api.url)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"tool: {other}\na=b other\n")
        request = next(one for one in api.requests if not one.is_side)
        assert (request.model, request.body["output_config"]["effort"]) == (SONNET, "low")
        assert "MEMORY-OF-OTHER" in as_text(request)
        assert "You are the other." in as_text(request)
        wide = ["--permission-mode", "acceptEdits"]
        denied = invoke_in(
            project, "run", "tester", "x", *wide, url=api.url, AGENT_POOL_PERMISSION_CEILING="plan"
        )
        assert denied.returncode == 3
        assert "permits more than plan, which the setting allows" in denied.stderr


def test_lines_of_a_batch_have_options_and_results_no_secrets(
    project: TempProject, tmp_path: Path
) -> None:
    other = folder_with_agent(tmp_path, "You are the other.")
    project.agent("tester", "You are the first.", description="x")
    lines: list[dict[str, Any]] = [
        {"agent": "tester", "task": "one", "env": {"TOKEN": "s3cret"}, "model": "claude-opus-4-5"},
        {"agent": "tester", "task": "two", "cwd": str(other), "effort": "low"},
    ]
    (project.root / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def script(request: ModelRequest) -> Any:
        done = echo_task(request)
        return done if done.startswith("tool: ") else bash('test -n "$TOKEN" && echo has token')

    with LoopbackAPI(script).in_thread() as api:
        options = ["batch", "in.jsonl", "-o", "out.jsonl", "--model", SONNET]
        done = agent_pool(project, *options, url=api.url, **FEW)
        assert done.returncode == 0, done.stderr
        written = (project.root / "out.jsonl").read_text()
        seen = {
            "other" if "You are the other." in as_text(one) else "first": one.model
            for one in api.requests
            if not one.is_side
        }
        assert seen == {"first": "claude-opus-4-5", "other": SONNET}
        texts = {
            entry["line"]: entry["result"]["text"]
            for entry in map(json.loads, written.splitlines())
        }
        assert "has token" in texts[1]
        assert "has token" not in texts[2]
        assert "s3cret" not in written + done.stdout + done.stderr
        # With another option of the command, and another secret, nothing is run again.
        lines[0]["env"] = {"TOKEN": "other"}
        (project.root / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
        again = invoke_in(project, *options[:4], "--model", "opus", url=api.url, **FEW)
        assert "2 tasks: 2 done before" in again.stderr
        lines[0]["model"] = "opus"
        (project.root / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
        assert invoke_in(project, *options, url=api.url, **FEW).returncode == 3
