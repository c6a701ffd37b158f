from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_pool.agents import Agent, BrokenAgent
from agent_pool.agents.definition import ParsedDefinition
from agent_pool.agents.fields import CACHE_TTLS, EFFORTS, FIELDS, MEMORY_SCOPES, PERMISSION_MODES
from support.agent_definitions import FULL, agent, fault, field_fault, load

REPOSITORY = Path(__file__).parents[2]


def test_every_field_of_the_frontmatter_is_read(tmp_path: Path) -> None:
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
        max_budget_usd=0.5,
        mcp_servers=('"github"', '{"browser":{"args":["-y","playwright"],"command":"npx"}}'),
        hooks=json.dumps(hooks, separators=(",", ":")),
        memory="project",
        background=True,
        isolation="worktree",
        color="blue",
        initial_prompt="Begin.",
        omit_claude_md=True,
        cache_ttl="1h",
        worker_memory="fast",
        extra={"team": ("a", {"b": "c"})},
    )


def test_the_file_name_is_used_if_frontmatter_has_no_name(tmp_path: Path) -> None:
    assert agent(tmp_path, "description: x").name == "reviewer"
    assert agent(tmp_path, "name:\ndescription: x").name == "reviewer"
    assert agent(tmp_path, "name: other").name == "other"


def test_an_agent_with_no_fields_has_the_defaults(tmp_path: Path) -> None:
    assert agent(tmp_path) == Agent(
        name="reviewer", description="", prompt="body", path=tmp_path / "reviewer.md"
    )


def test_a_key_without_a_value_counts_as_absent_except_tools(tmp_path: Path) -> None:
    empty = "\n".join(f"{key}:" for key in FIELDS if key != "tools")
    assert agent(tmp_path, empty) == agent(tmp_path)


@pytest.mark.parametrize(
    "written",
    ["[python, testing]", "python, testing", "\n  - python\n  - testing", "'python,testing,'"],
)
@pytest.mark.parametrize("key", ["skills", "expertise"])
def test_skill_and_expertise_names_are_a_list_or_comma_separated(
    written: str, key: str, tmp_path: Path
) -> None:
    assert getattr(agent(tmp_path, f"{key}: {written}"), key) == ("python", "testing")


def test_a_blank_separates_skills_but_not_expertise(tmp_path: Path) -> None:
    found = agent(tmp_path, "skills: api design\nexpertise: api design")
    assert (found.skills, found.expertise) == (("api", "design"), ("api design",))


def test_skills_and_tools_given_twice_are_listed_once(tmp_path: Path) -> None:
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
def test_tools_are_a_list_or_separated_by_commas_or_blanks(
    written: str, tools: tuple[str, ...] | None, tmp_path: Path
) -> None:
    assert agent(tmp_path, f"tools: {written}").tools == tools
    if tools is not None:
        assert agent(tmp_path, f"disallowedTools: {written}").disallowed_tools == tools


@pytest.mark.parametrize("line", ["tools:", "tools: ~", "tools: ''", "tools: []"])
def test_an_empty_list_of_tools_means_no_tools(line: str, tmp_path: Path) -> None:
    found = agent(tmp_path, line)
    assert found.tools == ()
    # An empty list in brackets is meant; nothing after the colon can be a slip.
    assert ("tools" in found.ignored) == (line != "tools: []")


@pytest.mark.parametrize("level", [*EFFORTS, "HIGH", "8192"])
def test_an_effort_is_a_level_or_a_whole_number(level: str, tmp_path: Path) -> None:
    assert agent(tmp_path, f"effort: {level}").effort == level.lower()


@pytest.mark.parametrize(
    ("written", "mode"), [*((mode, mode) for mode in PERMISSION_MODES), ("manual", "default")]
)
def test_each_permission_mode_of_claude_code_is_accepted(
    written: str, mode: str, tmp_path: Path
) -> None:
    assert agent(tmp_path, f"permissionMode: {written}").permission_mode == mode


@pytest.mark.parametrize("scope", MEMORY_SCOPES)
def test_each_memory_scope_of_claude_code_is_accepted(scope: str, tmp_path: Path) -> None:
    assert agent(tmp_path, f"memory: {scope}").memory == scope


@pytest.mark.parametrize("ttl", CACHE_TTLS)
def test_each_cache_ttl_is_accepted_and_other_experiments_are_kept(
    ttl: str, tmp_path: Path
) -> None:
    found = agent(tmp_path, f"experimental: {{cacheTtl: {ttl}, other: [1]}}")
    assert (found.cache_ttl, found.extra) == (ttl, {"experimental": {"other": (1,)}})


@pytest.mark.parametrize("model", ["inherit", "Inherit", "''"])
def test_an_inherited_or_empty_model_leaves_the_model_unset(model: str, tmp_path: Path) -> None:
    assert agent(tmp_path, f"model: {model}").model is None


@pytest.mark.parametrize(
    ("written", "dollars"), [("2", 2.0), ("0.50", 0.5), ("'1.25'", 1.25), ("0.001", 0.001)]
)
def test_a_budget_is_a_number_with_or_without_quotes(
    written: str, dollars: float, tmp_path: Path
) -> None:
    assert agent(tmp_path, f"maxBudgetUsd: {written}").max_budget_usd == dollars


@pytest.mark.parametrize("turns", ["7", "'7'"])
def test_max_turns_is_a_whole_number_with_or_without_quotes(turns: str, tmp_path: Path) -> None:
    assert agent(tmp_path, f"maxTurns: {turns}").max_turns == 7


@pytest.mark.parametrize(
    ("written", "value"), [("true", True), ("'true'", True), ("false", False), ("'false'", False)]
)
def test_flags_are_true_or_false_with_or_without_quotes(
    written: str, value: bool, tmp_path: Path
) -> None:
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


def test_escaped_line_breaks_in_a_description_become_real_line_breaks(tmp_path: Path) -> None:
    written = r"description: Use this agent when: x\n\nExample: y"
    assert agent(tmp_path, written).description == "Use this agent when: x\n\nExample: y"


@pytest.mark.parametrize(
    "line",
    [
        "name: 5",
        "name: [a]",
        "name: ''",
        "name: a:b",
        "name: true",
        "name: 'a:b'",
        "name: -a",
        'name: "a\\0b"',
        "description: 5",
        "description: [a]",
        "expertise: 5",
        "expertise: [a, 5]",
        "expertise: {a: b}",
        "expertise: [../a]",
        "expertise: [/etc/passwd]",
        "expertise: [a\\b]",
        "expertise: ..",
        'expertise: "a\\0b"',
        "tools: '[Read'",
        "tools: Bash(git log",
        'tools: "Bash(a\\0b)"',
        "disallowedTools: true",
        "permissionMode: everything",
        "permissionMode: Plan",
        "permissionMode: [plan]",
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
        "workerMemory: small",
        "maxBudgetUsd: 0",
        "maxBudgetUsd: -1",
        "maxBudgetUsd: $5",
        "maxBudgetUsd: much",
        "maxBudgetUsd: true",
        "maxBudgetUsd: .inf",
        "maxBudgetUsd: [1]",
    ],
)
def test_an_invalid_value_error_names_the_file_line_and_field(line: str, tmp_path: Path) -> None:
    front = line if line.startswith("name") else f"name: reviewer\n{line}"
    at = 2 if line.startswith("name") else 3
    said = fault(tmp_path, f"---\n{front}\n---\nbody\n")
    assert said.startswith(f"{tmp_path}/reviewer.md:{at}: {line.split(':')[0]}: ")


@pytest.mark.parametrize(
    "line",
    [
        "model: 5",
        "model: --dangerous",
        "effort: ultra",
        "effort: true",
        "effort: 1.5",
        "maxTurns: 0",
        "maxTurns: -1",
        "maxTurns: 1.5",
        "maxTurns: true",
        "maxTurns: many",
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
def test_a_value_without_meaning_is_ignored_with_a_reason(line: str, tmp_path: Path) -> None:
    key = line.split(":")[0]
    attribute = FIELDS[key][0]
    found = agent(tmp_path, line)
    assert getattr(found, attribute) == getattr(agent(tmp_path, "description: x"), attribute)
    assert list(found.ignored) == [key]
    assert found.ignored[key].startswith("the value is ignored: expected ")


def test_a_repeated_key_has_its_last_value_and_is_reported(tmp_path: Path) -> None:
    found = agent(tmp_path, "tools: Read\nmodel: opus\ntools: Bash")
    assert (found.tools, found.model) == (("Bash",), "opus")
    assert dict(found.ignored) == {"tools": "it appears more than once; the last value is used"}


def test_names_that_no_tool_can_have_are_left_out(tmp_path: Path) -> None:
    found = agent(tmp_path, "tools: Read, edit/files, shelf:find, Bash(git log:*)")
    assert found.tools == ("Read", "Bash(git log:*)")
    assert dict(found.ignored) == {"tools": "no such tool: edit/files, shelf:find"}


def test_a_list_of_impossible_tools_is_an_error_that_names_them(tmp_path: Path) -> None:
    said = field_fault(tmp_path, "tools: edit/files, shelf:find")
    assert "tools: no such tool: edit/files, shelf:find; the agent would have no tools" in said


def test_a_list_of_lowercase_tools_is_an_error_that_names_them(tmp_path: Path) -> None:
    said = field_fault(tmp_path, "tools: read, bash")
    assert "tools: no such tool: read, bash; the agent would have no tools" in said
    assert agent(tmp_path, "tools: Read, bash").ignored["tools"] == "no such tool: bash"


def test_an_unknown_tool_stays_in_the_list_and_is_reported(tmp_path: Path) -> None:
    found = agent(tmp_path, "tools: Raed, Bash(ls:*), Bogus, mcp__a__b")
    assert found.tools == ("Raed", "Bash(ls:*)", "Bogus", "mcp__a__b")
    assert found.ignored["tools"] == (
        "not a tool of Claude Code, as far as known: Raed, Bogus (did you mean Read?)"
    )
    assert "tools" not in agent(tmp_path, "tools: Read, Task, TodoWrite").ignored


@pytest.mark.parametrize(
    ("value", "tools", "warning"),
    [
        ("5", (), "it is empty"),
        ("{a: b}", (), "it is empty"),
        ("true", (), "it is empty"),
        ("[5]", (), "it is empty"),
        ("[Read, 5]", ("Read",), "no such tool: 5"),
    ],
)
def test_tools_that_are_no_text_count_as_no_tools(
    value: str, tools: tuple[str, ...], warning: str, tmp_path: Path
) -> None:
    found = agent(tmp_path, f"tools: {value}")
    assert found.tools == tools
    assert found.ignored["tools"].startswith(warning)


@pytest.mark.parametrize(
    "hooks", ["{pre: echo up}", "{Stop: x}", "{pre: x, PreToolUse: []}", "{PreToolUse: null, a: 1}"]
)
def test_hooks_of_an_unknown_event_are_ignored_with_a_warning(hooks: str, tmp_path: Path) -> None:
    found = agent(tmp_path, f"hooks: {hooks}")
    assert found.hooks in (None, '{"PreToolUse":[]}')
    assert found.ignored["hooks"].startswith("ignored")


@pytest.mark.parametrize("event", ["PreToolUse", "PermissionRequest"])
def test_a_wrong_value_of_a_hook_that_can_deny_is_an_error(event: str, tmp_path: Path) -> None:
    said = field_fault(tmp_path, f"hooks: {{{event}: x}}")
    assert f"hooks: expected a list of `matcher` and `hooks` for {event}" in said


def test_an_error_shows_the_expected_and_the_found_value(tmp_path: Path) -> None:
    said = field_fault(tmp_path, "workerMemory: small")
    assert said.endswith('workerMemory: expected lean or fast, found "small"')


def test_a_long_invalid_value_is_shortened_in_the_error(tmp_path: Path) -> None:
    assert len(field_fault(tmp_path, f"permissionMode: {'x' * 5000}")) < 300


def test_the_documentation_has_a_row_for_every_field() -> None:
    text = (REPOSITORY / "docs" / "agents.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    named = [row.removesuffix(" ✗").strip("`") for row in rows]
    assert list(FIELDS) == [name for name in named if name in FIELDS]


@given(
    key=st.sampled_from(sorted(FIELDS)),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_field_value_gives_an_agent_or_a_located_error(
    key: str, value: object, tmp_path: Path
) -> None:
    # JSON is YAML, but for what JSON cannot say and what YAML must not hold.
    found = load(tmp_path, f"---\n{key}: {json.dumps(value)}\n---\nbody\n")
    assert isinstance(found, ParsedDefinition | BrokenAgent)
    if isinstance(found, BrokenAgent):
        assert str(found.error).startswith(f"{tmp_path}/reviewer.md:2: ")
    else:
        hash(found.agent)
        assert len(found.agent.fingerprint) == 16
