from hypothesis import given
from hypothesis import strategies as st

from agent_pool.mcp.listing import describe_agents
from mcp_fakes import a_broken, an_agent

words = st.text(alphabet="abcdefgh äöü\n", max_size=400)
names = st.lists(st.text(alphabet="abcdefgh-", min_size=1, max_size=30), unique=True, max_size=60)


def test_every_agent_is_listed_with_its_whole_description_when_there_is_room() -> None:
    found = [
        an_agent("reviewer", "Reviews\n  code."),
        an_agent("writer", "Writes."),
        an_agent("x", ""),
    ]
    assert describe_agents(found, 1000) == (
        "Agents:\n- reviewer: Reviews code.\n- writer: Writes.\n- x"
    )


def test_broken_definitions_are_named_with_where_to_see_why() -> None:
    text = describe_agents([an_agent(), a_broken("bad"), a_broken("worse")], 1000)
    assert text.splitlines()[1:] == [
        "- reviewer: Reviews code.",
        "Not usable until mended (`agent-pool doctor` says why): bad, worse",
    ]


def test_without_any_agent_it_says_how_to_make_one() -> None:
    assert "agent-pool init" in describe_agents([], 1000)
    assert describe_agents([a_broken("bad")], 1000).endswith("says why): bad")


def test_long_descriptions_are_cut_before_short_ones() -> None:
    found = [an_agent("long", "word " * 200), an_agent("short", "Keeps every word of this.")]
    text = describe_agents(found, 300)
    assert "- short: Keeps every word of this." in text
    assert "- long: word word" in text
    assert text.count("…") == 1
    assert 280 < len(text) <= 300


def test_agents_that_do_not_fit_at_all_are_counted() -> None:
    found = [an_agent(f"agent-number-{n:03}", "Something.") for n in range(100)]
    text = describe_agents(found, 300)
    shown = text.count("agent-number-")
    assert text.startswith("Agents:\nagent-number-000, agent-number-001")
    assert text.endswith(f" and {100 - shown} more")
    assert len(text) <= 300


@given(names, words, words, st.integers(450, 2048), st.integers(0, 50))
def test_the_budget_is_kept_whatever_the_agents_are(
    named: list[str], even: str, odd: str, budget: int, broken: int
) -> None:
    found = [an_agent(name, odd if n % 2 else even) for n, name in enumerate(named)]
    assert len(describe_agents([*found, *[a_broken("broken" * 9)] * broken], budget)) <= budget


@given(names, words)
def test_every_name_is_there_when_the_names_fit(named: list[str], description: str) -> None:
    text = describe_agents([an_agent(name, description) for name in named], 2048)
    rows = [line.split(":")[0].rstrip() for line in text.splitlines()[1:]]
    assert [row for row in rows if named] == [f"- {name}" for name in named]
