from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_pool.agents import Agent, Broken, Catalog
from agent_pool.agents import files as agent_files
from agent_pool.errors import AgentNotFound, ConfigError
from agent_pool.settings import Settings
from agents.house import House, names, refusal


def test_an_agent_is_found_by_its_name_or_by_its_file(house: House) -> None:
    path = house.agent("file", "name: named")
    catalog = house.catalog()
    assert [catalog.find(name).path for name in ("named", "file")] == [path, path]
    assert catalog.find("file").name == "named"


def test_the_folders_are_searched_in_order_and_the_first_one_wins(house: House) -> None:
    folders = ["more", "project/.claude/agents", "home/agents"]
    for number, folder in enumerate(folders):
        for name in ("all", "last two", "last")[: number + 1]:
            house.agent(f"{folder}/{name}", "", folder)
    catalog = house.catalog(agents_dir=house.root / "more")
    found = [catalog.find(name).prompt for name in ("all", "last two", "last")]
    assert found == folders
    assert names(catalog) == ["all", "last", "last two"]
    assert [one.prompt for one in catalog.scan() if isinstance(one, Agent)] == [
        "more",
        "home/agents",
        "project/.claude/agents",
    ]


def test_the_folders_can_be_asked_for(house: House) -> None:
    project, home = house.project / ".claude", house.home
    plain = house.catalog().folders
    assert plain.agents == (project / "agents", home / "agents")
    assert plain.skills == (project / "skills", home / "skills")
    assert plain.expertise == (project / "expertise", home / "expertise")
    named = {kind: house.root / "more" / kind for kind in ("agents", "skills", "expertise")}
    folders = house.catalog(**{f"{kind}_dir": path for kind, path in named.items()}).folders
    assert folders.agents == (named["agents"], project / "agents", home / "agents")
    assert folders.skills == (named["skills"], home / "skills")
    assert folders.expertise == (named["expertise"], home / "expertise")


def test_a_folder_that_is_named_twice_is_searched_once(house: House) -> None:
    house.agent("a")
    link = house.root / "link"
    link.symlink_to(house.project / ".claude" / "agents")
    catalog = house.catalog(agents_dir=link)
    assert catalog.folders.agents == (link, house.home / "agents")
    assert catalog.find("a").path == link / "a.md"


def test_a_relative_folder_and_a_tilde_are_understood(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(house.root)
    monkeypatch.setenv("HOME", str(house.root))
    assert house.catalog(agents_dir=Path("more")).folders.agents[0] == house.root / "more"
    assert house.catalog(skills_dir=Path("~/more")).folders.skills[0] == house.root / "more"


def test_subfolders_are_searched_as_claude_code_does(house: House) -> None:
    house.agent("review/deep/security")
    house.agent("review/.hidden", "name: hidden")
    house.agent("folder.md/inner")
    assert names(house.catalog()) == ["hidden", "inner", "security"]


def test_only_markdown_files_define_agents(house: House) -> None:
    for name in ("a.txt", "b.MD", "c.markdown", "d.md.bak", "e.md~"):
        house.write(f"project/.claude/agents/{name}", "---\nname: x\n---\n")
    assert house.catalog().scan() == []


def test_skills_and_expertise_are_composed_into_the_prompt(house: House) -> None:
    house.write("project/.claude/skills/python/SKILL.md", "---\nname: python\n---\nType it.\n")
    house.write("home/skills/testing/SKILL.md", "Test it.\r\n")
    house.write("home/expertise/security.md", "Trust nobody.")
    house.agent("a", "skills: [python, testing]\nexpertise: security", "You review.")
    found = house.catalog().find("a")
    assert (found.skills, found.expertise) == (("python", "testing"), ("security",))
    assert found.prompt == (
        "# Skill: python\n\nType it.\n\n# Skill: testing\n\nTest it.\n\n"
        "# Expertise: security\n\nTrust nobody.\n\n# Instructions\n\nYou review."
    )


def test_the_same_files_elsewhere_give_the_same_bytes(house: House, tmp_path: Path) -> None:
    house.write("project/.claude/skills/python/SKILL.md", "In ${CLAUDE_SKILL_DIR}.")
    house.write("project/.claude/skills/python/more.txt", "")
    house.agent("a", "skills: python\nmodel: opus")
    moved = tmp_path / "moved"
    shutil.copytree(house.project, moved)
    there = Catalog(Settings(project_dir=moved), {"CLAUDE_CONFIG_DIR": str(house.home)}).find("a")
    here = house.catalog().find("a")
    assert there.prompt == here.prompt
    assert there.fingerprint == here.fingerprint
    assert str(tmp_path) not in here.prompt


@pytest.mark.parametrize("key", ["skills", "expertise"])
def test_a_missing_skill_or_expertise_names_agent_line_folders_and_closest(
    key: str, house: House
) -> None:
    house.write("home/skills/python/SKILL.md", "x")
    house.write("home/expertise/python.md", "x")
    path = house.agent("a", f"description: x\n{key}: pyhton")
    said = refusal(house.catalog(), "a")
    kind = "skill" if key == "skills" else "expertise"
    assert said.startswith(f"{path}:3: {key}: no {kind} is called 'pyhton' (did you mean python?)")
    assert str(house.home / key / "pyhton") in said
    assert str(house.project / ".claude" / key / "pyhton") in said


def test_a_skill_that_cannot_be_read_names_the_agent_and_the_file(house: House) -> None:
    skill = house.write("home/skills/big/SKILL.md", "x" * (agent_files.MAX_BYTES + 1))
    path = house.agent("a", "skills: big")
    said = refusal(house.catalog(), "a")
    assert said == f"{path}:2: skills: {skill}: over the limit of 1,048,576 bytes"


def test_an_unknown_agent_is_told_the_closest_names_and_the_folders(house: House) -> None:
    house.agent("file", "name: code-reviewer")
    catalog = house.catalog()
    with pytest.raises(AgentNotFound) as caught:
        catalog.find("code-revewer")
    assert str(caught.value) == (
        "no agent is called 'code-revewer' (did you mean code-reviewer?); looked in "
        f"{house.project}/.claude/agents, {house.home}/agents (missing)"
    )


def test_without_any_agent_the_error_says_where_to_put_one(house: House) -> None:
    assert "(missing)" in refusal(house.catalog(), "a")


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../a", "a/b", "a\\b", "/etc/passwd", "a\0b", "a\nb", "\ud800", "x" * 201],
)
def test_a_name_that_could_leave_its_folder_is_no_agent(name: str, house: House) -> None:
    house.agent("a")
    house.write("project/.claude/a.md", "---\nname: outside\n---\n")
    with pytest.raises(AgentNotFound, match="no agent can be called that"):
        house.catalog().find(name)


@given(
    name=st.text(max_size=30)
    | st.sampled_from(["../secret", "sub/../../secret", "/secret", "secret\0"])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_at_all_reaches_a_file_outside(name: str, tmp_path: Path) -> None:
    root = tmp_path / "house"
    if not root.exists():
        root.mkdir()
        for place in (root, root / "project" / ".claude", root / "home"):
            place.mkdir(parents=True, exist_ok=True)
            (place / "secret.md").write_text("---\nname: secret\n---\nsecret")
            (place / "SKILL.md").write_text("secret")
        (root / "project" / ".claude" / "agents").mkdir()
    catalog = Catalog(
        Settings(project_dir=root / "project"), {"CLAUDE_CONFIG_DIR": str(root / "home")}
    )
    with pytest.raises(AgentNotFound):
        catalog.find(name)
    for key in ("skills", "expertise"):
        path = root / "project" / ".claude" / "agents" / "a.md"
        path.write_bytes(f"---\n{key}:\n  - {_quoted(name)}\n---\n".encode())
        try:
            assert catalog.find("a").prompt == "", "only a blank name is no name at all"
        except ConfigError:
            assert name.strip()
        path.unlink()


def _quoted(name: str) -> str:
    return '"' + "".join(f"\\U{ord(character):08x}" for character in name) + '"'


def test_a_link_that_leads_out_of_the_folder_is_refused(house: House) -> None:
    outside = house.agent("more/outside", "name: outside")
    house.agent("fine")
    folder = house.project / ".claude" / "agents"
    (folder / "linked.md").symlink_to(outside)
    (folder / "sub").symlink_to(outside.parent)
    catalog = house.catalog()
    assert f"linked.md: leads out of {folder}" in refusal(catalog, "linked")
    assert "leads out of" in refusal(catalog, "sub")
    assert isinstance(refusal(catalog, "outside"), str)
    assert [(one.name, type(one)) for one in catalog.scan()] == [
        ("fine", Agent),
        ("linked", Broken),
        ("sub", Broken),
    ]


def test_links_that_lead_nowhere_or_in_circles_are_passed_over(house: House) -> None:
    house.agent("fine")
    folder = house.project / ".claude" / "agents"
    (folder / "gone.md").symlink_to(folder / "nothing.md")
    (folder / "loop.md").symlink_to(folder / "loop.md")
    (folder / "circle").symlink_to(folder)
    (folder / "LICENSE").symlink_to(house.root / "LICENSE")
    assert names(house.catalog()) == ["fine"]


def test_a_link_to_a_file_of_the_same_folder_is_fine(house: House) -> None:
    path = house.agent("real", "name: one")
    (path.parent / "alias.md").symlink_to(path)
    catalog = house.catalog()
    assert catalog.find("alias").name == "one"
    assert "both are called 'one'" in refusal(catalog, "one")


def test_an_agents_folder_that_is_a_link_is_fine(house: House) -> None:
    house.agent("more/a")
    (house.project / ".claude").mkdir()
    (house.project / ".claude" / "agents").symlink_to(house.root / "more")
    assert names(house.catalog()) == ["a"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("x", "name: same"), ("y", "name: same")),
        (("same", "name: z"), ("y", "name: same")),
        (("s/same", ""), ("t/same", "")),
    ],
)
def test_a_name_that_two_files_claim_is_an_error_naming_both(
    first: tuple[str, str], second: tuple[str, str], house: House
) -> None:
    paths = [house.agent(*first), house.agent(*second)]
    house.agent("fine")
    catalog = house.catalog()
    expected = f"{paths[0]} and {paths[1]}: both are called 'same'; rename all but one"
    assert refusal(catalog, "same") == expected
    assert catalog.find("fine").name == "fine"
    broken = [one for one in catalog.scan() if isinstance(one, Broken)]
    assert [(one.name, str(one.error)) for one in broken] == [("same", expected)]


def test_a_duplicate_is_no_error_for_the_other_names_of_its_files(house: House) -> None:
    house.agent("same", "name: z")
    house.agent("y", "name: same")
    catalog = house.catalog()
    assert [catalog.find(name).path.stem for name in ("z", "y")] == ["same", "y"]
    assert [(one.name, type(one)) for one in catalog.scan()] == [("same", Broken), ("z", Agent)]


def test_files_of_one_name_in_several_subfolders_are_fine_under_their_agents_names(
    house: House,
) -> None:
    house.agent("one/AGENT", "name: one")
    house.agent("two/AGENT", "name: two")
    catalog = house.catalog()
    assert [type(one) for one in catalog.scan()] == [Agent, Agent]
    assert "both are called 'AGENT'" in refusal(catalog, "AGENT")


def test_one_broken_file_breaks_no_other_agent(house: House) -> None:
    house.write("project/.claude/agents/broken.md", "---\nname: broken\n\tx: y\n---\n")
    house.write("project/.claude/agents/plain.md", "no frontmatter")
    house.agent("lost", "skills: nowhere")
    house.agent("fine")
    house.write("project/.claude/agents/README.md", "# About")
    catalog = house.catalog()
    assert catalog.find("fine").prompt == "body"
    found = catalog.scan()
    assert [one.name for one in found] == ["broken", "fine", "lost", "plain"]
    for one in found:
        if isinstance(one, Broken):
            assert str(one.error) == refusal(catalog, one.name)
            assert str(one.error).startswith(str(one.path))


def test_a_broken_definition_is_not_passed_over_for_one_in_a_later_folder(house: House) -> None:
    house.agent("file", "name: a\nmaxTurns: many")
    house.agent("home/agents/a")
    assert "maxTurns" in refusal(house.catalog(), "a")


def test_scanning_twice_gives_the_same(house: House) -> None:
    for name in ("b", "a", "c"):
        house.agent(name)
    catalog = house.catalog()
    assert catalog.scan() == catalog.scan() == house.catalog().scan()
    assert names(catalog) == ["a", "b", "c"]


def test_a_folder_of_far_too_many_files_is_refused_as_a_whole(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_files, "MAX_ENTRIES", 3)
    for name in "abcd":
        house.agent(name)
    house.agent("home/agents/e")
    catalog = house.catalog()
    assert [(one.name, type(one)) for one in catalog.scan()] == [("agents", Broken), ("e", Agent)]
    catalog.stamp()


def test_a_folder_that_is_a_file_is_reported(house: House) -> None:
    path = house.write("more/list.md", "x")
    catalog = house.catalog(agents_dir=path)
    (broken,) = catalog.scan()
    assert isinstance(broken, Broken)
    assert str(broken.error) == f"{path}: cannot be read: Not a directory"
