from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_pool.agents import Agent, Broken
from agent_pool.agents.definition import Definition, load_definition
from agent_pool.agents.fields import CACHE_TTLS, EFFORTS, FIELDS, MEMORY_SCOPES, PERMISSION_MODES
from agent_pool.agents.files import MAX_BYTES
from agent_pool.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]


def load(folder: Path, content: str | bytes, name: str = "reviewer") -> Definition | Broken | None:
    path = folder / f"{name}.md"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_definition(path)


def agent(folder: Path, front: str = "", body: str = "body") -> Agent:
    found = load(folder, f"---\n{front}\n---\n{body}\n")
    assert isinstance(found, Definition), found
    return found.agent


def fault(folder: Path, content: str | bytes) -> str:
    found = load(folder, content)
    assert isinstance(found, Broken), found
    assert type(found.error) is ConfigError
    return str(found.error)


def field_fault(folder: Path, line: str) -> str:
    return fault(folder, f"---\nname: reviewer\n{line}\n---\nbody\n")


FULL = """\
name: code-reviewer
description: Reviews code
skills: [python, testing]
expertise: security
tools: Read, Grep
disallowedTools: [Bash(rm *), WebFetch]
model: opus
effort: high
permissionMode: acceptEdits
maxTurns: 12
mcpServers:
  - github
  - browser:
      command: npx
      args: [-y, playwright]
hooks:
  PreToolUse:
    - matcher: Bash
      hooks:
        - {type: command, command: ./check.sh}
memory: project
background: true
isolation: worktree
color: blue
initialPrompt: Begin.
omitClaudeMd: true
experimental: {cacheTtl: 1h}
team: [a, {b: c}]
"""


def test_every_field_is_read(tmp_path: Path) -> None:
    hooks = {
        "PreToolUse": [{"hooks": [{"command": "./check.sh", "type": "command"}], "matcher": "Bash"}]
    }
    assert agent(tmp_path, FULL, "You review.") == Agent(
        name="code-reviewer",
        description="Reviews code",
        prompt="You review.",
        path=tmp_path / "reviewer.md",
        skills=("python", "testing"),
        expertise=("security",),
        tools=("Read", "Grep"),
        disallowed_tools=("Bash(rm *)", "WebFetch"),
        model="opus",
        effort="high",
        permission_mode="acceptEdits",
        max_turns=12,
        mcp_servers=('"github"', '{"browser":{"args":["-y","playwright"],"command":"npx"}}'),
        hooks=json.dumps(hooks, separators=(",", ":")),
        memory="project",
        background=True,
        isolation="worktree",
        color="blue",
        initial_prompt="Begin.",
        omit_claude_md=True,
        cache_ttl="1h",
        extra={"team": ("a", {"b": "c"})},
    )


def test_a_name_is_the_files_where_the_frontmatter_has_none(tmp_path: Path) -> None:
    assert agent(tmp_path, "description: x").name == "reviewer"
    assert agent(tmp_path, "name:\ndescription: x").name == "reviewer"
    assert agent(tmp_path, "name: other").name == "other"


def test_an_agent_with_no_fields_has_the_defaults(tmp_path: Path) -> None:
    assert agent(tmp_path) == Agent(
        name="reviewer", description="", prompt="body", path=tmp_path / "reviewer.md"
    )


def test_a_key_without_a_value_is_as_good_as_absent(tmp_path: Path) -> None:
    empty = "\n".join(f"{key}:" for key in FIELDS if key != "tools")
    assert agent(tmp_path, empty) == agent(tmp_path)


@pytest.mark.parametrize(
    "written",
    ["[python, testing]", "python, testing", "\n  - python\n  - testing", "'python,testing,'"],
)
@pytest.mark.parametrize("key", ["skills", "expertise"])
def test_names_are_a_list_or_have_commas_between(written: str, key: str, tmp_path: Path) -> None:
    assert getattr(agent(tmp_path, f"{key}: {written}"), key) == ("python", "testing")


def test_one_name_is_a_single_string_blanks_and_all(tmp_path: Path) -> None:
    assert agent(tmp_path, "skills: api design").skills == ("api design",)


def test_names_given_twice_count_once(tmp_path: Path) -> None:
    found = agent(tmp_path, "skills: [b, a, b]\ntools: Read, Grep, Read")
    assert (found.skills, found.tools) == (("b", "a"), ("Read", "Grep"))


@pytest.mark.parametrize(
    ("written", "tools"),
    [
        ("Read, Grep", ("Read", "Grep")),
        ("Read Grep", ("Read", "Grep")),
        ("[Read, Grep]", ("Read", "Grep")),
        ("['Read, Grep', Edit]", ("Read", "Grep", "Edit")),
        ("|\n  Read\n  Grep", ("Read", "Grep")),
        ("Agent(worker, scout), Bash(git log:*)", ("Agent(worker, scout)", "Bash(git log:*)")),
        ("mcp__github, mcp__*__get", ("mcp__github", "mcp__*__get")),
        ("[]", ()),
        ("''", ()),
        ("'*'", None),
    ],
)
def test_tools_are_apart_by_commas_or_blanks(
    written: str, tools: tuple[str, ...] | None, tmp_path: Path
) -> None:
    assert agent(tmp_path, f"tools: {written}").tools == tools
    if tools is not None:
        assert agent(tmp_path, f"disallowedTools: {written}").disallowed_tools == tools


def test_a_list_of_tools_that_was_left_empty_is_not_taken_for_all_tools(tmp_path: Path) -> None:
    assert ":3: tools: empty" in field_fault(tmp_path, "tools:")


@pytest.mark.parametrize("level", [*EFFORTS, "HIGH", "8192"])
def test_an_effort_is_a_level_or_a_whole_number(level: str, tmp_path: Path) -> None:
    assert agent(tmp_path, f"effort: {level}").effort == level.lower()


@pytest.mark.parametrize(
    ("written", "mode"), [*((mode, mode) for mode in PERMISSION_MODES), ("manual", "default")]
)
def test_each_permission_mode_is_known(written: str, mode: str, tmp_path: Path) -> None:
    assert agent(tmp_path, f"permissionMode: {written}").permission_mode == mode


@pytest.mark.parametrize("scope", MEMORY_SCOPES)
def test_each_memory_scope_is_known(scope: str, tmp_path: Path) -> None:
    assert agent(tmp_path, f"memory: {scope}").memory == scope


@pytest.mark.parametrize("ttl", CACHE_TTLS)
def test_each_cache_ttl_is_known_and_other_experiments_are_kept(ttl: str, tmp_path: Path) -> None:
    found = agent(tmp_path, f"experimental: {{cacheTtl: {ttl}, other: [1]}}")
    assert (found.cache_ttl, found.extra) == (ttl, {"experimental": {"other": (1,)}})


@pytest.mark.parametrize("model", ["inherit", "Inherit", "''"])
def test_an_inherited_model_is_none(model: str, tmp_path: Path) -> None:
    assert agent(tmp_path, f"model: {model}").model is None


@pytest.mark.parametrize("turns", ["7", "'7'"])
def test_max_turns_are_a_whole_number(turns: str, tmp_path: Path) -> None:
    assert agent(tmp_path, f"maxTurns: {turns}").max_turns == 7


@pytest.mark.parametrize(
    ("written", "value"), [("true", True), ("'true'", True), ("false", False), ("'false'", False)]
)
def test_flags_are_true_or_false(written: str, value: bool, tmp_path: Path) -> None:
    found = agent(tmp_path, f"background: {written}\nomitClaudeMd: {written}")
    assert (found.background, found.omit_claude_md) == (value, value)


@pytest.mark.parametrize(
    ("written", "servers"),
    [
        ("github", ['"github"']),
        ("github, jira", ['"github"', '"jira"']),
        ("[github, jira, github]", ['"github"', '"jira"']),
        ("[{a: {command: x}}]", ['{"a":{"command":"x"}}']),
        ("{a: {command: x}, b: {type: http, url: y}}", None),
        ("[{a: {command: x}, b: {type: http, url: y}}]", None),
    ],
)
def test_mcp_servers_are_names_or_definitions(
    written: str, servers: list[str] | None, tmp_path: Path
) -> None:
    both = ['{"a":{"command":"x"}}', '{"b":{"type":"http","url":"y"}}']
    assert list(agent(tmp_path, f"mcpServers: {written}").mcp_servers) == (servers or both)


def test_a_description_shows_the_line_breaks_that_claude_code_writes(tmp_path: Path) -> None:
    written = r"description: Use this agent when: x\n\nExample: y"
    assert agent(tmp_path, written).description == "Use this agent when: x\n\nExample: y"


@pytest.mark.parametrize(
    "line",
    [
        "name: 5",
        "name: [a]",
        "name: ''",
        "name: ../a",
        "name: a/b",
        "name: 'a:b'",
        "name: -a",
        'name: "a\\0b"',
        "description: 5",
        "description: [a]",
        "skills: 5",
        "skills: [a, 5]",
        "skills: {a: b}",
        "skills: [../a]",
        "skills: [/etc/passwd]",
        "expertise: ..",
        'expertise: "a\\0b"',
        "tools: 5",
        "tools: {a: b}",
        "tools: [Read, 5]",
        "tools: [Read, [Grep]]",
        "tools: Read:, Grep",
        "tools: '[Read'",
        "tools: Bash(git log",
        'tools: "Bash(a\\0b)"',
        "disallowedTools: true",
        "model: 5",
        "model: --dangerous",
        "effort: ultra",
        "effort: true",
        "effort: 1.5",
        "permissionMode: ask",
        "permissionMode: Plan",
        "permissionMode: [plan]",
        "maxTurns: 0",
        "maxTurns: -1",
        "maxTurns: 1.5",
        "maxTurns: true",
        "maxTurns: many",
        "mcpServers: 5",
        "mcpServers: [5]",
        "mcpServers: ''",
        "mcpServers: [{a: x}]",
        "mcpServers: [{a: {}}]",
        "mcpServers: [{name: a, command: x}]",
        "mcpServers: [{a: {command: x, type: telepathy}}]",
        "hooks: x",
        "hooks: []",
        "hooks: {PreToolUse: x}",
        "hooks: {PreToolUse: [x]}",
        "hooks: {PreToolUse: [{matcher: Bash}]}",
        "hooks: {PreToolUse: [{hooks: [{command: x}]}]}",
        "memory: global",
        "background: 1",
        "background: yes",
        "isolation: container",
        "color: 5",
        "initialPrompt: [a]",
        "omitClaudeMd: maybe",
        "experimental: x",
        "experimental: {cacheTtl: 2h}",
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_with_file_line_and_field(
    line: str, tmp_path: Path
) -> None:
    front = line if line.startswith("name") else f"name: reviewer\n{line}"
    at = 2 if line.startswith("name") else 3
    said = fault(tmp_path, f"---\n{front}\n---\nbody\n")
    assert said.startswith(f"{tmp_path}/reviewer.md:{at}: {line.split(':')[0]}: ")


def test_an_error_says_what_was_expected_and_what_was_found(tmp_path: Path) -> None:
    said = field_fault(tmp_path, "permissionMode: ask")
    expected = "default or acceptEdits or auto or dontAsk or bypassPermissions or plan"
    assert said.endswith(f'permissionMode: expected {expected}, found "ask"')


def test_what_was_found_is_not_shown_at_length(tmp_path: Path) -> None:
    assert len(field_fault(tmp_path, f"maxTurns: {'x' * 5000}")) < 300


def test_a_broken_file_goes_by_the_name_that_it_gives(tmp_path: Path) -> None:
    for line in ("maxTurns: no", "k.y: a: b"):
        found = load(tmp_path, f'---\nname: "named"\n{line}\n---\n')
        assert isinstance(found, Broken)
        assert found.name == "named"


@pytest.mark.parametrize("content", ["---\nname: ../up\n---\n", "no frontmatter", b"\xff"])
def test_a_broken_file_without_a_usable_name_goes_by_its_own(
    content: str | bytes, tmp_path: Path
) -> None:
    found = load(tmp_path, content)
    assert isinstance(found, Broken)
    assert found.name == "reviewer"


@pytest.mark.parametrize("stem", ["-dash", "a:b", "a\nb", " "])
def test_a_file_whose_own_name_cannot_be_an_agents_needs_one_in_it(
    stem: str, tmp_path: Path
) -> None:
    assert isinstance(load(tmp_path, "---\ndescription: x\n---\n", stem), Broken)
    assert isinstance(load(tmp_path, "---\nname: fine\n---\n", stem), Definition)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("You review.", ":1: no frontmatter"),
        ("\n---\nname: a\n---\n", ":1: no frontmatter"),
        ("", ":1: no frontmatter"),
        ("---\nname: a\n", ":1: the frontmatter is not closed"),
        ("---\nname: a\nb c\n---\n", ":4: bad YAML"),
        (b"---\nname: a\n---\nb\xe9\n", ":4: not UTF-8"),
        ("---\nname: a\n---\n".encode("utf-16"), ":1: not UTF-8"),
        ("---\nname: a\n---\nb\0\n", ":4: a NUL character"),
        ("x" * (MAX_BYTES + 1), ": over the limit of 1,048,576 bytes"),
    ],
)
def test_a_file_that_defines_no_agent_says_why(
    content: str | bytes, said: str, tmp_path: Path
) -> None:
    assert fault(tmp_path, content).startswith(f"{tmp_path}/reviewer.md{said}")


def test_a_file_of_one_mebibyte_is_read(tmp_path: Path) -> None:
    front = "---\nname: a\n---\n"
    body = "x" * (MAX_BYTES - len(front))
    found = load(tmp_path, front + body)
    assert isinstance(found, Definition)
    assert found.agent.prompt == body


def test_a_readme_without_frontmatter_is_no_definition(tmp_path: Path) -> None:
    assert load(tmp_path, "# How we write agents", "README") is None
    assert isinstance(load(tmp_path, "---\nname: a\n---\n", "README"), Definition)


def test_a_file_that_is_gone_is_no_definition(tmp_path: Path) -> None:
    assert load_definition(tmp_path / "gone.md") is None


def test_a_pipe_and_a_folder_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "folder.md").mkdir()
    for name in ("pipe", "folder"):
        found = load_definition(tmp_path / f"{name}.md")
        assert isinstance(found, Broken)
        assert "not a regular file" in str(found.error)


def test_an_unreadable_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    found = load_definition(tmp_path / "a.md")
    assert isinstance(found, Broken)
    assert str(found.error) == f"{tmp_path}/a.md: cannot be read: Permission denied"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_make_no_difference(
    newline: str, mark: bytes, tmp_path: Path
) -> None:
    text = "---\nname: a\ndescription: when: b\n---\n\none  \n\ttwo\t\n\n"
    found = load(tmp_path, mark + text.replace("\n", newline).encode())
    assert isinstance(found, Definition)
    assert (found.agent.description, found.agent.prompt) == ("when: b", "one\n\ttwo")


def test_unknown_keys_are_kept_and_cannot_be_changed(tmp_path: Path) -> None:
    extra = agent(tmp_path, "allowed-tools: [Read]\nmeta: {a: [1]}").extra
    assert extra == {"allowed-tools": ("Read",), "meta": {"a": (1,)}}
    assert isinstance(extra, MappingProxyType)
    assert isinstance(extra["meta"], MappingProxyType)


def test_an_agent_can_be_hashed_and_not_be_changed(tmp_path: Path) -> None:
    found = agent(tmp_path, FULL)
    assert found in {found}
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]


CHANGES: dict[str, Any] = {
    "prompt": "other",
    "tools": ("Read",),
    "disallowed_tools": ("Read",),
    "model": "haiku",
    "effort": "low",
    "permission_mode": "plan",
    "max_turns": 3,
    "mcp_servers": ('"x"',),
    "hooks": "{}",
    "memory": "user",
    "background": True,
    "isolation": "worktree",
    "initial_prompt": "x",
    "omit_claude_md": True,
    "cache_ttl": "5m",
}
NOT_OF_THE_WORKER: dict[str, Any] = {
    "name": "other",
    "description": "other",
    "path": Path("other.md"),
    "skills": ("a",),
    "expertise": ("a",),
    "color": "red",
    "extra": {"a": 1},
}


def test_the_fingerprint_changes_with_what_shapes_a_worker_and_with_nothing_else() -> None:
    plain = Agent(name="a", description="", prompt="p", path=Path("a.md"))
    same = {dataclasses.replace(plain, **{k: v}).fingerprint for k, v in NOT_OF_THE_WORKER.items()}
    assert same == {plain.fingerprint}
    changed = {dataclasses.replace(plain, **{k: v}).fingerprint for k, v in CHANGES.items()}
    assert len(changed | same) == len(CHANGES) + 1
    assert {field.name for field in dataclasses.fields(Agent)} == {*CHANGES, *NOT_OF_THE_WORKER}


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    plain = Agent(name="a", description="", prompt="p", path=Path("a.md"))
    assert plain.fingerprint == "f121ef3a00930a63"
    assert dataclasses.replace(plain, tools=()).fingerprint != plain.fingerprint


def test_the_documentation_has_a_row_for_every_field() -> None:
    text = (REPOSITORY / "docs" / "agents.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    assert [f"`{key}`" for key in FIELDS] == [row for row in rows if row.strip("`") in FIELDS]


@given(data=st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_agent_or_a_clear_error(data: bytes, tmp_path: Path) -> None:
    found = load(tmp_path, data)
    assert isinstance(found, Definition | Broken)


@given(
    key=st.sampled_from(sorted(FIELDS)),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_any_field_is_an_agent_or_an_error_of_its_line(
    key: str, value: object, tmp_path: Path
) -> None:
    # JSON is YAML, but for what JSON cannot say and what YAML must not hold.
    found = load(tmp_path, f"---\n{key}: {json.dumps(value)}\n---\nbody\n")
    assert isinstance(found, Definition | Broken)
    if isinstance(found, Broken):
        assert str(found.error).startswith(f"{tmp_path}/reviewer.md:2: ")
    else:
        hash(found.agent)
        assert len(found.agent.fingerprint) == 16
