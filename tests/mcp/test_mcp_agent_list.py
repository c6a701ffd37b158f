import json
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.mcp.agent_list import (
    AgentNames,
    AgentsText,
    describe_agents,
    description_limit,
    taken_length,
)
from agent_pool.mcp.agent_search import find_agents
from agent_pool.mcp.tool_list import list_tools
from support.fake_pool import make_agent, make_agent_list, make_broken

# With characters that NFKC makes longer, and one that is two units of UTF-16.
words = st.text(alphabet="abcdefgh äöü\n…①😀", max_size=400)
names = st.lists(st.text(alphabet="abcdefgh-", min_size=1, max_size=30), unique=True, max_size=60)


def describe(
    found: Sequence[tuple[str, str]], budget: int, broken: Sequence[str] = ()
) -> AgentsText:
    return describe_agents(AgentNames(found, broken), budget)


def test_agent_list_holds_whole_descriptions_when_there_is_room() -> None:
    found = [("reviewer", "Reviews\n  code."), ("writer", "Writes."), ("x", "")]
    text = "Agents:\n- reviewer: Reviews code.\n- writer: Writes.\n- x"
    assert describe(found, 1000) == AgentsText(text)


def test_broken_definitions_are_named_with_a_hint_to_doctor() -> None:
    text = describe([("reviewer", "Reviews code.")], 1000, ["bad", "worse"]).text
    assert text.splitlines()[1:] == [
        "- reviewer: Reviews code.",
        "Not usable until corrected (`agent-pool doctor` says why): bad, worse",
    ]


def test_empty_agent_list_explains_how_to_create_an_agent() -> None:
    assert "agent-pool init" in describe([], 1000).text
    assert describe([], 1000, ["bad"]).text.endswith("says why): bad")


def test_long_descriptions_are_cut_before_short_ones() -> None:
    text = describe([("long", "word " * 200), ("short", "Keeps every word of this.")], 300).text
    assert "- short: Keeps every word of this." in text
    assert "- long: word word" in text
    assert text.count("...") == 1
    assert text.endswith("\nThe tool agents returns whole descriptions.")
    assert 280 < taken_length(text) <= 300


def test_names_stand_alone_when_descriptions_would_be_useless() -> None:
    found = [(f"agent-{n:02}", "Something that is said in many words.") for n in range(60)]
    text = describe(found, 1000).text
    assert text.startswith(
        "Agents (the tool agents returns what each one does): agent-00, agent-01"
    )
    assert text.endswith("agent-59")


def test_names_without_room_in_the_list_are_returned() -> None:
    found = [(f"agent-number-{n:03}", "Something.") for n in range(100)]
    text, left = (lambda done: (done.text, done.left))(describe(found, 300))
    shown = text.count("agent-number-")
    assert text.endswith(f", and {100 - shown} more: see the argument agent")
    assert left == tuple(name for name, _ in found[shown:])
    assert 270 < len(text) <= 300


@given(names, words, words, st.integers(450, 4096), st.integers(0, 50))
def test_agent_list_never_exceeds_its_budget_of_characters(
    named: list[str], even: str, odd: str, budget: int, broken: int
) -> None:
    found = [(name, odd if n % 2 else even) for n, name in enumerate(named)]
    assert taken_length(describe(found, budget, ["broken" * 9] * broken).text) <= budget


@pytest.mark.parametrize("limit", [2048, 4096])
@given(names=st.lists(st.text("abcdefgh-…①", min_size=1, max_size=60), unique=True, max_size=400))
def test_every_name_is_declared_however_many_agents_there_are(limit: int, names: list[str]) -> None:
    invoke = list_tools(AgentNames([(name, "word " * 50) for name in names]), limit)[0]
    assert taken_length(invoke["description"]) <= limit
    argument = invoke["inputSchema"]["properties"]["agent"]["description"]
    declared = f"{invoke['description']}, {argument}, ".replace("\n- ", ", ").replace(": ", ", ")
    assert all(f", {name}, " in f"{declared}, ".replace("\n", ", ") for name in names)


@pytest.mark.parametrize("limit", [2048, 4096])
def test_all_of_two_hundred_long_names_are_declared(limit: int) -> None:
    names = [f"agent…with-a-long-name-{number:03}" for number in range(200)]
    invoke = list_tools(AgentNames([(name, "Reviews.") for name in names]), limit)[0]
    assert limit - 40 < taken_length(invoke["description"]) <= limit
    normalised = unicodedata.normalize("NFKC", invoke["description"])
    assert len(normalised) <= limit
    declared = invoke["description"] + invoke["inputSchema"]["properties"]["agent"]["description"]
    assert all(name in declared for name in names)


@pytest.mark.parametrize(
    ("client", "version", "limit"),
    [
        ("claude-code", "2.1.197", 2048),
        ("claude-code", "2.1.299", 2048),
        ("claude-code", "2.1.300", 4096),
        ("claude-code", "2.2.0", 4096),
        ("claude-code", "", 2048),
        ("codex-mcp-client", "0.171.0", 4096),
        ("", "", 4096),
    ],
)
def test_description_is_as_long_as_the_client_takes(client: str, version: str, limit: int) -> None:
    assert description_limit(client, version) == limit


def test_search_returns_whole_descriptions_and_name_matches_first() -> None:
    long = "Reviews SQL. " * 500
    found = make_agent_list(
        make_agent("writer", "Writes SQL and reviews nothing."),
        make_agent("sql-reviewer", long),
        make_agent("other", "Does something else."),
        make_broken("bad"),
    )
    lines = find_agents(found, "SQL reviews").splitlines()
    assert lines == [
        "2 of 3 agents match 'SQL reviews':",
        f"- sql-reviewer: {long.strip()}",
        "- writer: Writes SQL and reviews nothing.",
        "",
        "Not usable until corrected:",
        "- bad: bad YAML",
    ]
    assert find_agents(found, "").startswith("3 agents:\n- writer: ")
    nothing = find_agents(found, "sql-reviewr")
    assert "(did you mean sql-reviewer?). All agents: writer, sql-reviewer, other" in nothing


def test_problem_of_the_list_stands_in_the_description() -> None:
    invoke = list_tools(ValueError("…" * 5000), 2048)[0]
    assert "The agents cannot be listed now: …" in invoke["description"]
    assert taken_length(invoke["description"]) <= 2048
    assert json.dumps(invoke)
