"""`agent-pool agents` and `agent-pool init`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent_pool import load_settings
from agent_pool.agents import Projects
from agent_pool.cli import starter
from support.cli_runner import invoke
from support.project import TempProject, file_contents


def test_an_agent_is_listed_with_its_parts_and_its_path(here: TempProject) -> None:
    _expertise(here, "house")
    path = here.agent("one", description="'Does [it].'", expertise="[house]", tools="[Read]")
    found = json.loads(invoke("agents", "--json").stdout)
    assert found == [
        {
            "name": "one",
            "description": "Does [it].",
            "path": str(path),
            "skills": [],
            "expertise": ["house"],
            "model": None,
            "tools": ["Read"],
            "warnings": {},
            "error": None,
            "max_budget_usd": None,
        }
    ]
    done = invoke("agents")
    assert done.stdout.splitlines()[1].split() == [
        *("one", "Does", "[it].", "house", "Read", ".claude/agents/one.md")
    ]
    assert done.stderr.startswith("1 agent in ")


def test_rows_are_not_wrapped_without_a_terminal(here: TempProject) -> None:
    here.agent("one", description="word " * 200)
    assert len(invoke("agents").stdout.splitlines()) == 2


def test_no_tools_and_all_tools_are_shown_differently(here: TempProject) -> None:
    here.agent("all")
    here.agent("none", tools="[]")
    shown = {line.split()[0]: line.split()[1] for line in invoke("agents").stdout.splitlines()[1:]}
    assert shown == {"all": "all", "none": "none"}
    found = {one["name"]: one["tools"] for one in json.loads(invoke("agents", "--json").stdout)}
    assert found == {"all": None, "none": []}


def test_a_broken_definition_is_listed_with_its_error(here: TempProject) -> None:
    path = here.agent("bad", expertise="[gone]")
    done = invoke("agents")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"bad cannot be used: {path}:3: expertise: ")
    (found,) = json.loads(invoke("agents", "--json").stdout)
    assert (found["name"], found["path"]) == ("bad", str(path))
    assert found["error"].startswith(f"{path}:3: expertise: ")


def test_without_agents_the_list_suggests_the_init_command(here: TempProject) -> None:
    done = invoke("agents")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "agent-pool init" in done.stderr
    assert invoke("agents", "--json").stdout == "[]\n"


def test_init_writes_an_agent_that_can_be_used(here: TempProject) -> None:
    done = invoke("init")
    assert done.exit_code == 0
    agent = Projects(load_settings(), os.environ).default.catalog.find(starter.AGENT)
    assert agent.prompt.count("# Skill: ") == agent.prompt.count("# Expertise: ") == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["wrote"] * 3


def test_init_never_changes_a_file_that_exists(here: TempProject) -> None:
    invoke("init")
    changed = here.root / ".claude" / "expertise" / f"{starter.EXPERTISE}.md"
    changed.write_text("Mine.")
    (here.root / ".claude" / "skills" / starter.SKILL / "SKILL.md").unlink()
    before = file_contents(here.root)
    done = invoke("init")
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["kept", "wrote", "kept"]
    assert file_contents(here.root) == {**file_contents(here.root), **before}


def test_init_writes_skills_to_the_configured_skills_folder(
    here: TempProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SKILLS_DIR", str(tmp_path / "skills"))
    assert invoke("init").exit_code == 0
    assert (tmp_path / "skills" / starter.SKILL / "SKILL.md").is_file()


def test_init_names_the_file_that_is_in_its_way(here: TempProject) -> None:
    (here.root / ".claude" / "skills").write_text("a file")
    done = invoke("init")
    assert done.exit_code == 1
    assert str(here.root / ".claude" / "skills") in done.stderr
    assert "Traceback" not in done.stderr


def _expertise(project: TempProject, name: str) -> None:
    path = project.root / ".claude" / "expertise" / f"{name}.md"
    path.parent.mkdir()
    path.write_text("Known.")


def test_show_finds_an_agent_that_the_list_leaves_out(here: TempProject) -> None:
    (here.root / ".claude/agents/z.md").write_text("---\nname: q\ndescription: d\n---\nQ.\n")
    hidden = here.home / ".claude" / "agents" / "w.md"
    hidden.parent.mkdir(parents=True)
    hidden.write_text("---\nname: z\ndescription: d\n---\nHidden.\n", encoding="utf-8")
    shown = json.loads(invoke("show", "w", "--json").stdout)
    assert (shown["path"], shown["prompt"]) == (str(hidden), "Hidden.")
