"""Each field of a definition, as the real CLI makes it reach the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agent_pool.loopback import ModelRequest
from support.model_scripts import as_text, bash, tool
from support.pool_harness import PoolHarness

Define = Callable[..., str]
PLACEHOLDER = "DeferredToolPlaceholder"
"""The CLI sends this tool in the place of tools that it offers later."""


def first_request(harness: PoolHarness, agent: str) -> ModelRequest:
    """Give an agent its first task; return the request that the model got."""
    return harness.run(harness.ask(harness.plan(), agent)).requests[0]


def tools(harness: PoolHarness, agent: str) -> set[str]:
    return set(first_request(harness, agent).tools) - {PLACEHOLDER}


@pytest.mark.parametrize("written", ["Read, Grep", "[Read, Grep]"])
def test_an_agent_has_the_tools_that_it_names(
    harness: PoolHarness, define: Define, written: str
) -> None:
    assert tools(harness, define(tools=written)) == {"Read", "Grep"}


def test_an_agent_can_have_no_tools_at_all(harness: PoolHarness, define: Define) -> None:
    assert tools(harness, define(tools="[]")) == set()


def test_an_agent_without_a_list_has_the_default_tools(harness: PoolHarness) -> None:
    offered = tools(harness, "tester")
    assert {"Bash", "Read", "Edit", "Write", "Agent"} <= offered
    assert not {"Skill", "CronCreate", "AskUserQuestion", "EnterPlanMode"} & offered


def test_tools_off_by_default_are_there_when_named(harness: PoolHarness, define: Define) -> None:
    assert tools(harness, define(tools="Read, CronCreate, Skill")) == {
        "Read",
        "CronCreate",
        "Skill",
    }


def test_the_old_name_of_the_delegation_tool_still_works(
    harness: PoolHarness, define: Define
) -> None:
    assert tools(harness, define(tools="Task, Read")) == {"Agent", "Read"}
    assert "Agent" not in tools(harness, define(disallowedTools="Task"))


def test_disallowed_tools_are_removed_from_the_default_ones(
    harness: PoolHarness, define: Define
) -> None:
    offered = tools(harness, define(disallowedTools="[Bash, Write]"))
    assert not {"Bash", "Write"} & offered
    assert {"Read", "Edit"} <= offered


def test_a_tool_both_named_and_disallowed_is_removed(harness: PoolHarness, define: Define) -> None:
    assert tools(harness, define(tools="Read, Bash", disallowedTools="Bash")) == {"Read"}


def test_a_disallowed_rule_takes_the_whole_tool_away(harness: PoolHarness, define: Define) -> None:
    agent = define(disallowedTools="Bash(touch a,b *), Bash(touch *)")
    forbidden = harness.project.root / "forbidden"
    said = harness.run(harness.ask(harness.plan(bash(f"touch {forbidden}")), agent))
    assert "No such tool available: Bash" in said.text
    assert not forbidden.exists()
    assert "Bash" not in said.requests[0].tools


def test_an_agent_uses_the_model_that_it_names(harness: PoolHarness, define: Define) -> None:
    inherited = first_request(harness, define(model="inherit")).model
    assert inherited == first_request(harness, "tester").model
    assert "haiku" in first_request(harness, define(model="haiku")).model
    assert "haiku" not in inherited


@pytest.mark.parametrize("effort", ["low", "max"])
def test_an_agent_uses_the_effort_that_it_names(
    harness: PoolHarness, define: Define, effort: str
) -> None:
    request = first_request(harness, define(effort=effort))
    assert request.body["output_config"]["effort"] == effort


def test_a_numeric_effort_is_not_sent_and_is_reported(harness: PoolHarness, define: Define) -> None:
    agent = define(effort="7")
    usual = first_request(harness, "tester").body["output_config"]
    assert first_request(harness, agent).body["output_config"] == usual
    (listed,) = [one for one in harness.run(harness.pool.agents()).agents if one.name == agent]
    assert list(listed.warnings) == ["effort"]


def test_max_turns_limits_each_task_of_a_worker_separately(
    harness: PoolHarness, define: Define
) -> None:
    agent = define(maxTurns="2")
    first, second = (
        harness.run(harness.ask(harness.plan(bash("echo 1"), bash("echo 2"), "done"), agent))
        for _ in range(2)
    )
    for said in (first, second):
        assert (said.result.is_error, said.result.subtype) == (True, "error_max_turns")
        assert len(said.requests) == 2
    assert first.pid == second.pid


def test_the_system_prompt_is_the_skills_and_then_the_body(
    harness: PoolHarness, define: Define
) -> None:
    for name in ("python", "ambient"):
        skill = harness.project.root / ".claude" / "skills" / name / "SKILL.md"
        skill.parent.mkdir(parents=True)
        skill.write_text(f"---\nname: {name}\ndescription: The {name} listing.\n---\nKnow {name}.")
    request = first_request(harness, define("Be exact.", skills="[python]"))
    assert request.system_text.endswith(
        "# Skill: python\n\nKnow python.\n\n# Instructions\n\nBe exact."
    )
    assert "ambient" not in as_text(request)
    assert "The python listing." not in as_text(request)


def test_hooks_run_only_with_the_agent_that_has_them(
    harness: PoolHarness, define: Define, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    hook = {"type": "command", "command": f"cat >> {seen}; echo 'not that' >&2; exit 2"}
    agent = define(hooks=json.dumps({"PreToolUse": [{"matcher": "Bash", "hooks": [hook]}]}))
    said = harness.run(harness.ask(harness.plan(bash("echo hooked")), agent))
    assert "not that" in said.text
    # Everybody can read the command line of a process.
    command = psutil.Process(said.pid).cmdline()
    assert str(seen) not in " ".join(command)
    assert json.loads(seen.read_text())["tool_input"]["command"] == "echo hooked"
    said = harness.run(harness.ask(harness.plan(bash("echo free")), "tester"))
    assert said.text == "tool: free"


def test_an_agent_can_leave_out_claude_md(harness: PoolHarness, define: Define) -> None:
    (harness.project.root / "CLAUDE.md").write_text("The rules of the house.")
    with_it = first_request(harness, "tester")
    without = first_request(harness, define(omitClaudeMd="true"))
    assert "The rules of the house." in as_text(with_it)
    assert "The rules of the house." not in as_text(without)


def test_inherited_skills_are_listed_even_with_named_tools(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear", max_size=1, inherit="skills")
    skill = harness.project.root / ".claude" / "skills" / "ambient" / "SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text("---\nname: ambient\ndescription: The ambient listing.\n---\nKnow it.")
    harness.project.agent("reader", description="Reads.", tools="Read")
    for agent in ("reader", "tester"):
        request = first_request(harness, agent)
        assert "Skill" in request.tools
        assert "The ambient listing." in as_text(request)
    said = harness.run(harness.ask(harness.plan(tool("Skill", skill="ambient"), "done"), "reader"))
    assert "Know it." in as_text(said.requests[-1])
