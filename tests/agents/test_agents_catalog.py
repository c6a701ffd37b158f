from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_pool.agents import Agent, BrokenAgent, Catalog
from agent_pool.agents import files as agent_files
from agent_pool.errors import AgentNotFound, ConfigError
from agent_pool.settings import Settings
from support.catalog_folders import CatalogFolders, agent_names, find_error


def test_an_agent_is_found_by_its_name_or_file_name(catalog_folders: CatalogFolders) -> None:
    path = catalog_folders.agent("file", "name: named")
    catalog = catalog_folders.catalog()
    assert [catalog.find(name).path for name in ("named", "file")] == [path, path]
    assert catalog.find("file").name == "named"


def test_folders_are_searched_in_order_and_the_first_match_wins(
    catalog_folders: CatalogFolders,
) -> None:
    folders = ["more", "project/.claude/agents", "home/agents"]
    for number, folder in enumerate(folders):
        for name in ("all", "last two", "last")[: number + 1]:
            catalog_folders.agent(f"{folder}/{name}", "", folder)
    catalog = catalog_folders.catalog(agents_dir=catalog_folders.folder / "more")
    found = [catalog.find(name).prompt for name in ("all", "last two", "last")]
    assert found == folders
    assert agent_names(catalog) == ["all", "last", "last two"]
    assert [one.prompt for one in catalog.scan() if isinstance(one, Agent)] == [
        "more",
        "home/agents",
        "project/.claude/agents",
    ]


def test_the_catalog_lists_its_folders_in_search_order(catalog_folders: CatalogFolders) -> None:
    project, home = catalog_folders.project / ".claude", catalog_folders.home
    plain = catalog_folders.catalog().folders
    assert plain.agents == (project / "agents", home / "agents")
    assert plain.skills == (home / "skills", project / "skills")
    assert plain.expertise == (project / "expertise", home / "expertise")
    named = {
        kind: catalog_folders.folder / "more" / kind for kind in ("agents", "skills", "expertise")
    }
    folders = catalog_folders.catalog(
        **{f"{kind}_dir": path for kind, path in named.items()}
    ).folders
    assert folders.agents == (named["agents"], project / "agents", home / "agents")
    assert folders.skills == (named["skills"], home / "skills")
    assert folders.expertise == (named["expertise"], home / "expertise")


def test_a_folder_that_is_named_twice_is_searched_once(catalog_folders: CatalogFolders) -> None:
    catalog_folders.agent("a")
    link = catalog_folders.folder / "link"
    link.symlink_to(catalog_folders.project / ".claude" / "agents")
    catalog = catalog_folders.catalog(agents_dir=link)
    assert catalog.folders.agents == (link, catalog_folders.home / "agents")
    assert catalog.find("a").path == link / "a.md"


def test_relative_folders_and_a_tilde_become_absolute_paths(
    catalog_folders: CatalogFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(catalog_folders.folder)
    monkeypatch.setenv("HOME", str(catalog_folders.folder))
    assert (
        catalog_folders.catalog(agents_dir=Path("more")).folders.agents[0]
        == catalog_folders.folder / "more"
    )
    assert (
        catalog_folders.catalog(skills_dir=Path("~/more")).folders.skills[0]
        == catalog_folders.folder / "more"
    )


def test_agents_in_subfolders_and_hidden_files_are_found(catalog_folders: CatalogFolders) -> None:
    catalog_folders.agent("review/deep/security")
    catalog_folders.agent("review/.hidden", "name: hidden")
    catalog_folders.agent("folder.md/inner")
    assert agent_names(catalog_folders.catalog()) == ["hidden", "inner", "security"]


def test_only_files_ending_in_lowercase_md_define_agents(catalog_folders: CatalogFolders) -> None:
    for name in ("a.txt", "b.MD", "c.markdown", "d.md.bak", "e.md~"):
        catalog_folders.write(f"project/.claude/agents/{name}", "---\nname: x\n---\n")
    assert catalog_folders.catalog().scan() == []


def test_skills_and_expertise_are_composed_into_the_prompt(catalog_folders: CatalogFolders) -> None:
    catalog_folders.write(
        "project/.claude/skills/python/SKILL.md", "---\nname: python\n---\nType it.\n"
    )
    catalog_folders.write("home/skills/testing/SKILL.md", "Test it.\r\n")
    catalog_folders.write("home/expertise/security.md", "Trust nobody.")
    catalog_folders.agent("a", "skills: [python, testing]\nexpertise: security", "You review.")
    found = catalog_folders.catalog().find("a")
    assert (found.skills, found.expertise) == (("python", "testing"), ("security",))
    assert found.prompt == (
        "# Skill: python\n\nType it.\n\n# Skill: testing\n\nTest it.\n\n"
        "# Expertise: security\n\nTrust nobody.\n\n# Instructions\n\nYou review."
    )


def test_the_same_files_elsewhere_give_the_same_prompt_and_fingerprint(
    catalog_folders: CatalogFolders, tmp_path: Path
) -> None:
    catalog_folders.write("project/.claude/skills/python/SKILL.md", "In ${CLAUDE_SKILL_DIR}.")
    catalog_folders.write("project/.claude/skills/python/more.txt", "")
    catalog_folders.agent("a", "skills: python\nmodel: opus")
    moved = tmp_path / "moved"
    shutil.copytree(catalog_folders.project, moved)
    there = Catalog(
        Settings(project_dir=moved), {"CLAUDE_CONFIG_DIR": str(catalog_folders.home)}
    ).find("a")
    here = catalog_folders.catalog().find("a")
    assert there.prompt == here.prompt
    assert there.fingerprint == here.fingerprint
    assert str(tmp_path) not in here.prompt


def test_error_for_missing_expertise_suggests_the_closest_name(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.write("home/expertise/python.md", "x")
    path = catalog_folders.agent("a", "description: x\nexpertise: pyhton")
    said = find_error(catalog_folders.catalog(), "a")
    assert said.startswith(f"{path}:3: expertise: no expertise is called 'pyhton' (did you mean")
    assert str(catalog_folders.home / "expertise" / "pyhton") in said
    assert str(catalog_folders.project / ".claude" / "expertise" / "pyhton") in said


def test_a_missing_skill_is_left_out_with_a_warning(catalog_folders: CatalogFolders) -> None:
    catalog_folders.write("home/skills/python/SKILL.md", "Use it.")
    catalog_folders.agent("a", "skills: [pyhton, python, 7, ../up]")
    found = catalog_folders.catalog().find("a")
    assert found.prompt.startswith("# Skill: python\n\nUse it.")
    warning = found.ignored["skills"]
    assert "no name of a skill: 7; left out: no skill is called 'pyhton' (did you mean" in warning
    assert "no skill is called '../up'" in warning
    catalog_folders.write("project/.claude/skills/pyhton/SKILL.md", "Use that.")
    assert "Use that." in catalog_folders.catalog().find("a").prompt


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("folder", "TITLED"),
        ("title", "TITLED"),
        ("both", "USER"),
        ("one2", "PROJECT"),
        ("tidy", "TIDY []"),
        ("ns:deep", "DEEP"),
        ("deep", "DEEP"),
        ("cmd", "USER-CMD"),
        ("in-commands", "SKILL IN COMMANDS"),
        ("outer", "OUTER"),
    ],
)
def test_a_skill_is_found_by_folder_title_or_command(
    name: str, text: str, catalog_folders: CatalogFolders
) -> None:
    texts = {
        "project/.claude/skills/folder/SKILL.md": "---\nname: title\n---\nTITLED",
        "project/.claude/skills/both/SKILL.md": "PROJECT-BOTH",
        "home/skills/both/SKILL.md": "USER",
        "home/skills/x/SKILL.md": "---\nname: one2\n---\nUSER-X",
        "project/.claude/skills/one2/SKILL.md": "PROJECT",
        "project/.claude/commands/tidy.md": "---\ndescription: d\n---\nTIDY [$ARGUMENTS]",
        "project/.claude/commands/both.md": "COMMAND",
        "project/.claude/commands/ns/deep.md": "DEEP",
        "project/.claude/commands/cmd.md": "PROJECT-CMD",
        "home/commands/cmd.md": "USER-CMD",
        "project/.claude/commands/in-commands/SKILL.md": "SKILL IN COMMANDS",
        "more/r/.claude/skills/outer/SKILL.md": "OUTER",
    }
    for path, content in texts.items():
        catalog_folders.write(path.replace("project/", "more/r/project/"), content)
    catalog_folders.project = catalog_folders.folder / "more/r/project"
    catalog_folders.write("more/r/project/.claude/agents/a.md", f"---\nskills: {name}\n---\n")
    found = catalog_folders.catalog().find("a")
    assert found.prompt == f"# Skill: {name}\n\n{text}"
    assert found.ignored == {}


def test_variables_of_a_skill_are_replaced_or_reported(catalog_folders: CatalogFolders) -> None:
    text = "In ${CLAUDE_PROJECT_DIR}: $1 $ARGUMENTS[0] $ARGUMENTS."
    catalog_folders.write("home/skills/one/SKILL.md", text)
    catalog_folders.write("home/skills/two/SKILL.md", "${CLAUDE_SESSION_ID}")
    catalog_folders.agent("a", "skills: one")
    catalog_folders.agent("b", "skills: two")
    found = catalog_folders.catalog().find("a")
    place = catalog_folders.project
    assert found.prompt.startswith(f"# Skill: one\n\nIn {place}: $1 $ARGUMENTS[0] .\n")
    assert found.ignored == {}
    found = catalog_folders.catalog().find("b")
    reason = "${CLAUDE_SESSION_ID} in the text of two is not replaced"
    assert dict(found.ignored) == {"skills": reason}


def test_several_skills_can_be_separated_by_blanks(catalog_folders: CatalogFolders) -> None:
    for name in ("one", "two"):
        catalog_folders.write(f"home/skills/{name}/SKILL.md", name)
    for value in ("one two", "one, two", "[one two]", "\n\t- one\n\t- two"):
        catalog_folders.agent("a", f"skills: {value}")
        assert catalog_folders.catalog().find("a").skills == ("one", "two")


@pytest.mark.parametrize("field", ["disable-model-invocation: true", "paths: src/**"])
def test_a_skill_that_the_cli_does_not_preload_is_left_out(
    field: str, catalog_folders: CatalogFolders
) -> None:
    catalog_folders.write("home/skills/one/SKILL.md", f"---\n{field}\n---\nONE")
    catalog_folders.agent("a", "skills: one")
    found = catalog_folders.catalog().find("a")
    assert "ONE" not in found.prompt
    assert "does not load this skill" in found.ignored["skills"]


@pytest.mark.parametrize("text", ["Now: !`date`", "```!\ndate\n```"])
def test_commands_in_a_skill_text_are_reported_and_not_run(
    text: str, catalog_folders: CatalogFolders
) -> None:
    catalog_folders.write("home/skills/one/SKILL.md", text)
    catalog_folders.agent("a", "skills: one")
    found = catalog_folders.catalog().find("a")
    assert text in found.prompt
    assert "the commands in the text of one (after `!`) are not run" in found.ignored["skills"]


def test_error_for_an_oversized_skill_names_agent_and_skill_file(
    catalog_folders: CatalogFolders,
) -> None:
    skill = catalog_folders.write(
        "home/skills/big/SKILL.md", "x" * (agent_files.MAX_FILE_BYTES + 1)
    )
    path = catalog_folders.agent("a", "skills: big")
    said = find_error(catalog_folders.catalog(), "a")
    assert said == f"{path}:2: skills: {skill}: larger than 1,048,576 bytes; shorten the file"


def test_error_for_an_unknown_agent_names_closest_agent_and_folders(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.agent("file", "name: code-reviewer")
    catalog = catalog_folders.catalog()
    with pytest.raises(AgentNotFound) as caught:
        catalog.find("code-revewer")
    assert str(caught.value) == (
        "no agent is called 'code-revewer' (did you mean code-reviewer?); searched in "
        f"{catalog_folders.project}/.claude/agents, {catalog_folders.home}/agents (missing); "
        "correct the name or define the agent in one of these folders"
    )


def test_error_without_any_agent_marks_the_missing_folders(catalog_folders: CatalogFolders) -> None:
    assert "(missing)" in find_error(catalog_folders.catalog(), "a")


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../a", "a/b", "a\\b", "/etc/passwd", "a\0b", "a\nb", "\ud800", "x" * 257],
)
def test_a_name_that_no_file_defines_is_not_found(
    name: str, catalog_folders: CatalogFolders
) -> None:
    catalog_folders.agent("a")
    catalog_folders.write("project/.claude/a.md", "---\nname: outside\n---\n")
    with pytest.raises(AgentNotFound, match="no agent is called"):
        catalog_folders.catalog().find(name)


@given(
    name=st.text(max_size=30)
    | st.sampled_from(["../secret", "sub/../../secret", "/secret", "secret\0"])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_can_reach_a_file_outside_the_folders(name: str, tmp_path: Path) -> None:
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


def test_links_to_files_and_folders_elsewhere_are_followed(
    catalog_folders: CatalogFolders,
) -> None:
    outside = catalog_folders.agent("more/outside", "name: outside")
    catalog_folders.agent("more/deep/inner")
    catalog_folders.agent("fine")
    folder = catalog_folders.project / ".claude" / "agents"
    (folder / "linked.md").symlink_to(outside)
    (folder / "sub").symlink_to(outside.parent)
    (outside.parent / "up").symlink_to(folder)
    (outside.parent / "again").symlink_to(outside.parent)
    catalog = catalog_folders.catalog()
    assert catalog.find("linked").name == "outside"
    assert [type(one) for one in catalog.scan()] == [Agent] * 3
    assert agent_names(catalog) == ["fine", "inner", "outside"]
    assert catalog.find("outside").ignored == {}


def test_broken_and_circular_links_are_left_out_of_a_scan(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.agent("fine")
    folder = catalog_folders.project / ".claude" / "agents"
    (folder / "gone.md").symlink_to(folder / "nothing.md")
    (folder / "loop.md").symlink_to(folder / "loop.md")
    (folder / "circle").symlink_to(folder)
    (folder / "LICENSE").symlink_to(catalog_folders.folder / "LICENSE")
    assert agent_names(catalog_folders.catalog()) == ["fine"]


def test_links_and_copies_in_a_folder_are_no_clash(catalog_folders: CatalogFolders) -> None:
    path = catalog_folders.agent("real", "name: one")
    (path.parent / "alias.md").symlink_to(path)
    catalog_folders.agent("zz", "name: one")
    catalog = catalog_folders.catalog()
    assert catalog.find("alias") == catalog.find("one")
    assert catalog.find("one").ignored == {}


def test_an_agents_folder_can_be_a_symbolic_link(catalog_folders: CatalogFolders) -> None:
    catalog_folders.agent("more/a")
    (catalog_folders.project / ".claude").mkdir()
    (catalog_folders.project / ".claude" / "agents").symlink_to(catalog_folders.folder / "more")
    assert agent_names(catalog_folders.catalog()) == ["a"]


@pytest.mark.parametrize(
    ("unused", "used"),
    [("B", "a"), ("a-b", "a/x"), ("a/x", "a0"), ("Z", "é"), ("_", "a"), ("😀", "￮"), ("s/x", "t")],
)
def test_the_last_path_of_a_name_wins_with_a_warning(
    unused: str, used: str, catalog_folders: CatalogFolders
) -> None:
    paths = [
        catalog_folders.agent(one, "name: same\ndescription: d", one) for one in (unused, used)
    ]
    found = catalog_folders.catalog().find("same")
    assert found.prompt == used
    assert found.ignored["name"] == (
        f"{paths[1]} is used, and not {paths[0]}, which has the same name"
    )


def test_a_name_comes_before_the_file_name_of_another_agent(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.agent("tester", "name: qa", "qa")
    catalog_folders.agent("home/agents/x", "name: tester", "tester")
    catalog = catalog_folders.catalog()
    assert catalog.find("tester").prompt == "tester"
    assert agent_names(catalog) == ["qa", "tester"]


@pytest.mark.parametrize(
    "asked",
    ["Code Reviewer", "CODE_REVIEWER", "codereviewer", "code\u2013reviewer", " code-REVIEWER"],
)
def test_a_similar_name_finds_the_agent_if_no_exact_one_exists(
    asked: str, catalog_folders: CatalogFolders
) -> None:
    catalog_folders.agent("file", "name: code-reviewer")
    assert catalog_folders.catalog().find(asked).name == "code-reviewer"


def test_a_name_that_is_similar_to_two_agents_is_refused(catalog_folders: CatalogFolders) -> None:
    catalog_folders.agent("a", "name: Amb One")
    catalog_folders.agent("b", "name: amb_one")
    catalog = catalog_folders.catalog()
    assert catalog.find("amb_one").path.stem == "b"
    assert "can mean Amb One and amb_one; use the exact name" in find_error(catalog, "AMB-ONE")


def test_a_file_that_the_cli_skips_hides_no_other_file(catalog_folders: CatalogFolders) -> None:
    bad = catalog_folders.agent("bad", "name: a\ndescription: d\nhooks: x")
    catalog_folders.agent("home/agents/a", "name: a\ndescription: d", "home")
    found = catalog_folders.catalog().find("a")
    assert found.prompt == "home"
    assert str(bad) in found.ignored["name"]


@pytest.mark.parametrize("repository", [True, False])
def test_folders_above_the_project_are_searched_nearest_first(
    repository: bool, catalog_folders: CatalogFolders
) -> None:
    catalog_folders.agent("more/.claude/agents/top", "", "top")
    for place in ("more/r", "more/r/sub"):
        catalog_folders.agent(f"{place}/.claude/agents/both", "", place)
    catalog_folders.agent("more/r/.claude/agents/root")
    if repository:
        (catalog_folders.folder / "more" / "r" / ".git").mkdir()
    catalog_folders.project = catalog_folders.folder / "more" / "r" / "sub"
    catalog = catalog_folders.catalog()
    assert catalog.find("both").prompt == "more/r/sub"
    assert agent_names(catalog) == ["both", "root", *([] if repository else ["top"])]


def test_a_worktree_without_agents_uses_those_of_the_main_checkout(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.agent("more/main/.claude/agents/main")
    (catalog_folders.folder / "more/main/.git/worktrees/w").mkdir(parents=True)
    git = f"gitdir: {catalog_folders.folder}/more/main/.git/worktrees/w\n"
    catalog_folders.write("project/.git", git)
    catalog = catalog_folders.catalog()
    assert agent_names(catalog) == ["main"]
    catalog_folders.agent("own")
    assert agent_names(catalog) == ["own"]


@pytest.mark.parametrize("rule", ["Agent(rev)", "Task(rev)"])
@pytest.mark.parametrize(
    "file",
    ["home/settings.json", "project/.claude/settings.json", "project/.claude/settings.local.json"],
)
def test_a_denied_agent_is_refused_with_the_rule_and_its_file(
    rule: str, file: str, catalog_folders: CatalogFolders
) -> None:
    catalog_folders.agent("rev")
    catalog_folders.agent("other")
    catalog = catalog_folders.catalog()
    catalog.find("rev")
    stamp = catalog.stamp()
    path = catalog_folders.write(file, json.dumps({"permissions": {"deny": [7, "Agent(x)", rule]}}))
    assert f"the rule {rule} in permissions.deny of {path} denies it" in find_error(catalog, "rev")
    assert catalog.find("other").name == "other"
    assert catalog.stamp() != stamp


@pytest.mark.parametrize(
    "rule", ["Agent(Rev)", "Agent( rev )", "Agent(a, rev)", "Agent(r*)", "agent(rev)"]
)
def test_a_rule_without_the_exact_name_denies_no_agent(
    rule: str, catalog_folders: CatalogFolders
) -> None:
    catalog_folders.agent("rev")
    text = json.dumps({"permissions": {"deny": [rule]}})
    catalog_folders.write("project/.claude/settings.json", text)
    assert catalog_folders.catalog().find("rev").name == "rev"


@pytest.mark.parametrize(
    ("field", "variable", "model"),
    [
        ("", "haiku", "haiku"),
        ("", "inherit", None),
        ("", "", None),
        ("model: inherit", "haiku", None),
        ("model: sonnet", "haiku", "sonnet"),
    ],
)
def test_the_model_variable_applies_to_agents_that_name_none(
    field: str, variable: str, model: str | None, catalog_folders: CatalogFolders
) -> None:
    catalog_folders.agent("a", field)
    catalog_folders.environ["CLAUDE_CODE_SUBAGENT_MODEL"] = variable
    assert catalog_folders.catalog().find("a").model == model


def test_the_model_in_settings_wins_over_the_environment(catalog_folders: CatalogFolders) -> None:
    catalog_folders.agent("a")
    catalog_folders.environ["CLAUDE_CODE_SUBAGENT_MODEL"] = "haiku"
    catalog = catalog_folders.catalog()
    for file, value, model in [
        ("home/settings.json", "sonnet", "sonnet"),
        ("project/.claude/settings.json", "opus", "opus"),
        ("project/.claude/settings.local.json", "fable", "fable"),
        ("project/.claude/settings.local.json", "", None),
        ("project/.claude/settings.local.json", 7, "opus"),
    ]:
        before = catalog.stamp()
        variables = {"CLAUDE_CODE_SUBAGENT_MODEL": value}
        catalog_folders.write(file, json.dumps({"env": variables}))
        assert catalog.find("a").model == model
        assert catalog.stamp() != before


def test_equal_file_names_in_subfolders_work_with_different_agent_names(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.agent("one/AGENT", "name: one")
    catalog_folders.agent("two/AGENT", "name: two")
    catalog = catalog_folders.catalog()
    assert [type(one) for one in catalog.scan()] == [Agent, Agent]
    assert catalog.find("AGENT").name == "two"


def test_one_broken_file_breaks_no_other_agent(catalog_folders: CatalogFolders) -> None:
    catalog_folders.write("project/.claude/agents/broken.md", "---\nname: broken\n\tx: y\n---\n")
    catalog_folders.write("project/.claude/agents/plain.md", "no frontmatter")
    catalog_folders.agent("lost", "skills: nowhere")
    catalog_folders.agent("fine")
    catalog_folders.write("project/.claude/agents/README.md", "# About")
    catalog = catalog_folders.catalog()
    assert catalog.find("fine").prompt == "body"
    found = catalog.scan()
    assert [one.name for one in found] == ["broken", "fine", "lost", "plain"]
    for one in found:
        if isinstance(one, BrokenAgent):
            assert str(one.error) == find_error(catalog, one.name)
            assert str(one.error).startswith(str(one.path))


def test_a_broken_definition_hides_the_same_name_in_later_folders(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.agent("file", "name: a\ndescription: d\npermissionMode: none")
    catalog_folders.agent("home/agents/a")
    assert "permissionMode" in find_error(catalog_folders.catalog(), "a")


def test_scanning_twice_gives_the_same_agents_in_the_same_order(
    catalog_folders: CatalogFolders,
) -> None:
    for name in ("b", "a", "c"):
        catalog_folders.agent(name)
    catalog = catalog_folders.catalog()
    assert catalog.scan() == catalog.scan() == catalog_folders.catalog().scan()
    assert agent_names(catalog) == ["a", "b", "c"]


def test_a_folder_with_too_many_files_is_refused_completely(
    catalog_folders: CatalogFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_files, "MAX_FOLDER_ENTRIES", 3)
    for name in "abcd":
        catalog_folders.agent(name)
    catalog_folders.agent("home/agents/e")
    catalog = catalog_folders.catalog()
    assert [(one.name, type(one)) for one in catalog.scan()] == [
        ("agents", BrokenAgent),
        ("e", Agent),
    ]
    catalog.stamp()


def test_an_agents_folder_that_is_a_file_is_reported(catalog_folders: CatalogFolders) -> None:
    path = catalog_folders.write("more/list.md", "x")
    catalog = catalog_folders.catalog(agents_dir=path)
    (broken,) = catalog.scan()
    assert isinstance(broken, BrokenAgent)
    assert str(broken.error) == f"{path}: cannot be read: Not a directory"
