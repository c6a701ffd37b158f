"""Each field of a definition, as the real CLI makes it reach the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_pool import not_honoured
from agent_pool.loopback import Request
from isolation.lab import Lab, bash, flat, tool

Define = Callable[..., str]
PLACEHOLDER = "DeferredToolPlaceholder"
"""What the CLI sends in the place of tools that it offers later."""


def first_request(lab: Lab, agent: str) -> Request:
    """What the model gets with the first task of an agent."""
    return lab.run(lab.ask(lab.plan(), agent)).requests[0]


def tools(lab: Lab, agent: str) -> set[str]:
    return set(first_request(lab, agent).tools) - {PLACEHOLDER}


@pytest.mark.parametrize("written", ["Read, Grep", "[Read, Grep]"])
def test_an_agent_has_the_tools_that_it_names(lab: Lab, define: Define, written: str) -> None:
    assert tools(lab, define(tools=written)) == {"Read", "Grep"}


def test_an_agent_may_have_no_tools_at_all(lab: Lab, define: Define) -> None:
    assert tools(lab, define(tools="[]")) == set()


def test_without_a_list_an_agent_has_the_tools_of_a_worker(lab: Lab) -> None:
    offered = tools(lab, "tester")
    assert {"Bash", "Read", "Edit", "Write", "Agent"} <= offered
    assert not {"Skill", "CronCreate", "AskUserQuestion", "EnterPlanMode"} & offered


def test_tools_that_workers_do_without_are_there_when_they_are_named(
    lab: Lab, define: Define
) -> None:
    assert tools(lab, define(tools="Read, CronCreate, Skill")) == {"Read", "CronCreate", "Skill"}


def test_the_earlier_name_of_the_delegation_tool_is_understood(lab: Lab, define: Define) -> None:
    assert tools(lab, define(tools="Task, Read")) == {"Agent", "Read"}
    assert "Agent" not in tools(lab, define(disallowedTools="Task"))


def test_disallowed_tools_are_taken_away(lab: Lab, define: Define) -> None:
    offered = tools(lab, define(disallowedTools="[Bash, Write]"))
    assert not {"Bash", "Write"} & offered
    assert {"Read", "Edit"} <= offered


def test_a_tool_that_is_named_and_disallowed_is_taken_away(lab: Lab, define: Define) -> None:
    assert tools(lab, define(tools="Read, Bash", disallowedTools="Bash")) == {"Read"}


def test_a_disallowed_rule_binds_though_permissions_are_bypassed(lab: Lab, define: Define) -> None:
    agent = define(disallowedTools="Bash(touch a,b *), Bash(touch *)")
    forbidden = lab.world.root / "forbidden"
    said = lab.run(lab.ask(lab.plan(bash(f"touch {forbidden}")), agent))
    assert "has been denied" in said.text
    assert not forbidden.exists()
    assert lab.run(lab.ask(lab.plan(bash("echo allowed")), agent)).text == "tool: allowed"


def test_the_model_is_the_one_that_is_named(lab: Lab, define: Define) -> None:
    inherited = first_request(lab, define(model="inherit")).model
    assert inherited == first_request(lab, "tester").model
    assert "haiku" in first_request(lab, define(model="haiku")).model
    assert "haiku" not in inherited


@pytest.mark.parametrize("effort", ["low", "max"])
def test_the_effort_is_the_one_that_is_named(lab: Lab, define: Define, effort: str) -> None:
    request = first_request(lab, define(effort=effort))
    assert request.body["output_config"]["effort"] == effort


def test_an_effort_in_numbers_is_not_sent_and_said_to_be_without_effect(
    lab: Lab, define: Define
) -> None:
    agent = define(effort="7")
    usual = first_request(lab, "tester").body["output_config"]
    assert first_request(lab, agent).body["output_config"] == usual
    assert list(not_honoured(lab.pool.catalog.find(agent), lab.pool.settings)) == ["effort"]


def test_a_task_ends_at_its_turns_and_the_next_one_has_them_all_again(
    lab: Lab, define: Define
) -> None:
    agent = define(maxTurns="2")
    first, second = (
        lab.run(lab.ask(lab.plan(bash("echo 1"), bash("echo 2"), "done"), agent)) for _ in range(2)
    )
    for said in (first, second):
        assert (said.result.is_error, said.result.subtype) == (True, "error_max_turns")
        assert len(said.requests) == 2
    assert first.pid == second.pid


def test_the_body_is_the_system_prompt_and_skills_come_before_it(lab: Lab, define: Define) -> None:
    for name in ("python", "ambient"):
        skill = lab.world.root / ".claude" / "skills" / name / "SKILL.md"
        skill.parent.mkdir(parents=True)
        skill.write_text(f"---\nname: {name}\ndescription: The {name} listing.\n---\nKnow {name}.")
    request = first_request(lab, define("Be exact.", skills="[python]"))
    assert request.system_text.endswith(
        "# Skill: python\n\nKnow python.\n\n# Instructions\n\nBe exact."
    )
    assert "ambient" not in flat(request)
    assert "The python listing." not in flat(request)


def test_hooks_run_with_the_agent_that_has_them_and_with_no_other(
    lab: Lab, define: Define, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    hook = {"type": "command", "command": f"cat >> {seen}; echo 'not that' >&2; exit 2"}
    agent = define(hooks=json.dumps({"PreToolUse": [{"matcher": "Bash", "hooks": [hook]}]}))
    assert "not that" in lab.run(lab.ask(lab.plan(bash("echo hooked")), agent)).text
    assert json.loads(seen.read_text())["tool_input"]["command"] == "echo hooked"
    said = lab.run(lab.ask(lab.plan(bash("echo free")), "tester"))
    assert said.text == "tool: free"


def test_an_agent_may_do_without_claude_md(lab: Lab, define: Define) -> None:
    (lab.world.root / "CLAUDE.md").write_text("The rules of the house.")
    with_it = first_request(lab, "tester")
    without = first_request(lab, define(omitClaudeMd="true"))
    assert "The rules of the house." in flat(with_it)
    assert "The rules of the house." not in flat(without)


def test_inherited_skills_are_listed_even_to_an_agent_that_names_its_tools(
    labs: Callable[..., Lab],
) -> None:
    lab = labs(reset="clear", max_size=1, inherit="skills")
    skill = lab.world.root / ".claude" / "skills" / "ambient" / "SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text("---\nname: ambient\ndescription: The ambient listing.\n---\nKnow it.")
    lab.world.agent("reader", description="Reads.", tools="Read")
    for agent in ("reader", "tester"):
        request = first_request(lab, agent)
        assert "Skill" in request.tools
        assert "The ambient listing." in flat(request)
    said = lab.run(lab.ask(lab.plan(tool("Skill", skill="ambient"), "done"), "reader"))
    assert "Know it." in flat(said.requests[-1])
