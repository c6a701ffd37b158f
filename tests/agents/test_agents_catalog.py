from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_pool.agents import Agent, Broken, Catalog
from agent_pool.agents import files as agent_files
from agent_pool.errors import AgentNotFound, ConfigError
from agent_pool.settings import Settings


class House:
    """A project, a home and folders to search, all temporary."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = root / "project"
        self.home = root / "home"
        self.project.mkdir()

    def catalog(self, **fields: Any) -> Catalog:
        return Catalog(
            Settings(project_dir=self.project, **fields), {"CLAUDE_CONFIG_DIR": str(self.home)}
        )

    def write(self, path: str, text: str) -> Path:
        found = self.root / path
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text(text, encoding="utf-8")
        return found

    def agent(self, path: str, front: str = "", body: str = "body") -> Path:
        """Write ``PATH.md`` into the project's folder, or into another when it has a slash."""
        folder = (
            "" if path.startswith(("project/", "home/", "more/")) else "project/.claude/agents/"
        )
        return self.write(f"{folder}{path}.md", f"---\n{front}\n---\n{body}\n")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def refusal(catalog: Catalog, name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        catalog.find(name)
    return str(caught.value)


def names(catalog: Catalog) -> list[str]:
    return [one.name for one in catalog.scan()]


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
    assert said.startswith(f"{path}:3: {key}: no {kind} is called 'pyhton'; did you mean python?")
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
        "no agent is called 'code-revewer'; did you mean code-reviewer?; looked in "
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
    with pytest.raises(AgentNotFound):
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


def test_an_edit_takes_effect_at_the_next_find(house: House) -> None:
    catalog = house.catalog()
    house.write("home/expertise/law.md", "first law")
    for body in ("one", "two", "six"):
        house.agent("a", "expertise: law", body)
        assert catalog.find("a").prompt.endswith(body)
    for law in ("law 1", "law 2"):
        house.write("home/expertise/law.md", law)
        assert law in catalog.find("a").prompt


def test_an_agent_that_comes_goes_or_is_shadowed_is_noticed(house: House) -> None:
    catalog = house.catalog()
    refusal(catalog, "a")
    house.agent("home/agents/a", "", "home")
    assert catalog.find("a").prompt == "home"
    path = house.agent("a", "", "project")
    assert catalog.find("a").prompt == "project"
    path.unlink()
    assert catalog.find("a").prompt == "home"


def test_a_skill_in_an_earlier_folder_takes_over(house: House) -> None:
    house.write("home/expertise/law.md", "home law")
    house.agent("a", "expertise: law")
    catalog = house.catalog()
    assert "home law" in catalog.find("a").prompt
    house.write("project/.claude/expertise/law.md", "project law")
    assert "project law" in catalog.find("a").prompt


def age(folder: Path) -> None:
    """Make every file look as if it had been written long ago."""
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))


def test_an_unchanged_agent_is_neither_read_nor_parsed_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("home/expertise/law.md", "law")
    house.agent("a", "expertise: law")
    # The times of change cannot be set back, so the clock is set forward.
    now = agent_files.time.time_ns()
    monkeypatch.setattr(agent_files.time, "time_ns", lambda: now + 10**10)
    catalog = house.catalog()
    first = catalog.find("a")

    def unexpected(*_: object) -> int:
        raise AssertionError("opened again")

    monkeypatch.setattr(os, "open", unexpected)
    assert catalog.find("a") is first
    assert catalog.scan() == [first]
    assert catalog.find("a") is first


def test_what_was_written_a_moment_ago_is_read_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = house.agent("a", "", "one")
    status = path.stat()
    catalog = house.catalog()
    monkeypatch.setattr(agent_files, "signature_of", lambda _: (status.st_mtime_ns, 0, 0, 0))
    assert catalog.find("a").prompt == "one"
    house.agent("a", "", "two")
    assert catalog.find("a").prompt == "two"


def test_removed_files_are_forgotten(house: House) -> None:
    catalog = house.catalog()
    for number in range(5):
        path = house.agent(f"a{number}")
        catalog.scan()
        path.unlink()
    catalog.scan()
    assert catalog._parsed._made == {}
    assert catalog._composed == {}


def test_the_stamp_stays_while_nothing_changes(house: House) -> None:
    house.agent("a")
    catalog = house.catalog()
    stamp = catalog.stamp()
    catalog.find("a")
    assert catalog.stamp() == stamp == house.catalog().stamp()
    assert hash(stamp) == hash(catalog.stamp())


def test_the_stamp_changes_with_every_relevant_file(house: House) -> None:
    catalog = house.catalog()
    stamps = {catalog.stamp()}
    changes = [
        lambda: house.agent("a"),
        lambda: house.agent("a", "", "longer body"),
        lambda: house.agent("sub/b"),
        lambda: house.agent("home/agents/c"),
        lambda: house.write("home/skills/python/SKILL.md", "x"),
        lambda: house.write("home/skills/python/SKILL.md", "xy"),
        lambda: house.write("project/.claude/expertise/law.md", "x"),
        lambda: (house.project / ".claude" / "agents" / "a.md").unlink(),
        lambda: (house.home / "skills" / "python" / "SKILL.md").unlink(),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        stamps.add(catalog.stamp())
        assert len(stamps) == number


@pytest.mark.parametrize("replaced", [False, True])
def test_an_edit_within_one_tick_of_the_clock_is_noticed(house: House, replaced: bool) -> None:
    catalog = house.catalog()
    path = house.agent("a", "", "one")
    os.utime(path, ns=(1, 1))
    stamp = catalog.stamp()
    if replaced:
        other = house.agent("more/a", "", "two")
        other.replace(path)
    else:
        house.agent("a", "", "three")
    os.utime(path, ns=(1, 1))
    assert catalog.stamp() != stamp
    assert catalog.find("a").prompt == ("two" if replaced else "three")


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
