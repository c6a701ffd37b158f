from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agent_pool import AgentInfo
from agent_pool.mcp.agent_list import describe_agents
from support.fake_pool import make_agent, make_agent_list, make_broken

words = st.text(alphabet="abcdefgh äöü\n", max_size=400)
names = st.lists(st.text(alphabet="abcdefgh-", min_size=1, max_size=30), unique=True, max_size=60)


def describe(found: Sequence[AgentInfo], budget: int) -> str:
    return describe_agents(make_agent_list(*found), budget)


def test_agent_list_holds_whole_descriptions_when_there_is_room() -> None:
    found = [
        make_agent("reviewer", "Reviews\n  code."),
        make_agent("writer", "Writes."),
        make_agent("x", ""),
    ]
    assert describe(found, 1000) == ("Agents:\n- reviewer: Reviews code.\n- writer: Writes.\n- x")


def test_broken_definitions_are_named_with_a_hint_to_doctor() -> None:
    text = describe([make_agent(), make_broken("bad"), make_broken("worse")], 1000)
    assert text.splitlines()[1:] == [
        "- reviewer: Reviews code.",
        "Not usable until corrected (`agent-pool doctor` says why): bad, worse",
    ]


def test_empty_agent_list_explains_how_to_create_an_agent() -> None:
    assert "agent-pool init" in describe([], 1000)
    assert describe([make_broken("bad")], 1000).endswith("says why): bad")


def test_long_descriptions_are_cut_before_short_ones() -> None:
    found = [make_agent("long", "word " * 200), make_agent("short", "Keeps every word of this.")]
    text = describe(found, 300)
    assert "- short: Keeps every word of this." in text
    assert "- long: word word" in text
    assert text.count("…") == 1
    assert 280 < len(text) <= 300


def test_agents_without_room_in_the_list_are_counted() -> None:
    found = [make_agent(f"agent-number-{n:03}", "Something.") for n in range(100)]
    text = describe(found, 300)
    shown = text.count("agent-number-")
    assert text.startswith("Agents:\nagent-number-000, agent-number-001")
    assert text.endswith(f" and {100 - shown} more")
    assert len(text) <= 300


@given(names, words, words, st.integers(450, 2048), st.integers(0, 50))
def test_agent_list_never_exceeds_its_budget_of_characters(
    named: list[str], even: str, odd: str, budget: int, broken: int
) -> None:
    found = [make_agent(name, odd if n % 2 else even) for n, name in enumerate(named)]
    assert len(describe([*found, *[make_broken("broken" * 9)] * broken], budget)) <= budget


@given(names, words)
def test_agent_list_contains_every_name_when_the_names_fit(
    named: list[str], description: str
) -> None:
    text = describe([make_agent(name, description) for name in named], 2048)
    rows = [line.split(":")[0].rstrip() for line in text.splitlines()[1:]]
    assert [row for row in rows if named] == [f"- {name}" for name in named]
