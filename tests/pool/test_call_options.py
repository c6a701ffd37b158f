"""The options of one call: what is refused, what is derived, and where secrets do not appear."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool import ConfigError, TaskRequest
from agent_pool.agents import Agent
from agent_pool.agents.fields import PERMISSION_MODES
from agent_pool.claude.cli_options import permission_mode
from agent_pool.events import Event, Submitted, event_from_json
from agent_pool.pool.call_options import CallOptions, read_options
from agent_pool.settings import PERMISSIONS, Settings
from support.pools import PoolProject
from support.waiting import run

SECRET = "s3cret-value"
MODES = st.sampled_from(PERMISSION_MODES)


def agent(**fields: Any) -> Agent:
    return Agent("tester", "Tests.", "You test.", Path("/x/tester.md"), **fields)


def request(**options: Any) -> TaskRequest:
    return TaskRequest("tester", "look", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effort": "hihg"}, "effort: expected one of low, medium.*'hihg'.*did you mean high"),
        ({"effort": 3}, "effort: expected one of low"),
        ({"permission_mode": "all"}, "permission_mode: expected one of default, acceptEdits"),
        ({"model": ""}, "model: it is empty"),
        ({"model": "--help"}, "model: expected a model"),
        ({"model": 5}, "model: expected text"),
        ({"env": ["A=b"]}, "env: expected a mapping of text, found list"),
        ({"env": {f"A={SECRET}": "x"}}, "env: expected the name of a variable, found 'A' and ="),
        ({"env": {"": SECRET}}, "env: expected the name of a variable, found ''"),
        ({"env": {"A\0": SECRET}}, "env: expected the name of a variable"),
        ({"env": {"A": SECRET + "\0"}}, "env: the value of A is not text without zero bytes"),
        ({"env": {"A": 5}}, "env: the value of A is not text"),
        ({"env": {"A": SECRET + "\ud800"}}, "env: A or its value is not UTF-8"),
        ({"env": {"A": SECRET * 20_000}}, "env: A is larger than 128 KiB"),
        ({"env": {"AGENT_POOL_COOKIE": SECRET}}, "env: AGENT_POOL_COOKIE belongs to the pool"),
        ({"env": {"CLAUDECODE": SECRET}}, "env: CLAUDECODE belongs to the pool or to its session"),
        ({"env": {"CLAUDE_CODE_DISABLE_CRON": "0"}}, "CRON is set by the pool for every worker"),
    ],
)
def test_a_wrong_option_is_refused_without_showing_values(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_options(request(**options))
    assert SECRET not in str(caught.value)


@given(own=st.none() | MODES, asked=st.none() | MODES, ceiling=st.sampled_from(PERMISSIONS))
def test_a_call_never_permits_more_than_its_definition(
    own: str | None, asked: str | None, ceiling: str
) -> None:
    settings = Settings.model_validate({"permission_ceiling": ceiling})
    defined = agent(permission_mode=own)
    rank = {mode: PERMISSIONS.index("default" if mode == "ask" else mode) for mode in PERMISSIONS}
    before = permission_mode(defined, settings)
    try:
        derived = CallOptions(permission_mode=asked).apply(defined, settings)
    except ConfigError:
        assert asked is not None
        assert rank[asked] > rank[before]
        return
    now = permission_mode(derived, settings)
    assert rank[now] <= rank[before]
    assert asked is None or rank[now] == rank[asked]


def test_an_option_that_changes_nothing_gives_no_variant() -> None:
    defined = agent(model="opus", effort="low")
    same = CallOptions(model="opus", effort="low", permission_mode="bypassPermissions")
    derived = same.apply(defined, Settings())
    assert derived == defined
    assert same.variant(defined, derived) == ""
    other = CallOptions(model="inherit", effort="high", permission_mode="plan")
    derived = other.apply(defined, Settings())
    assert (derived.model, derived.effort, derived.permission_mode) == (None, "high", "plan")
    variant = other.variant(defined, derived)
    assert variant == "model inherit, effort high, permission_mode plan"


def test_the_variant_of_an_environment_shows_no_value() -> None:
    first, again = (CallOptions(env={"TOKEN": SECRET}) for _ in range(2))
    variant = first.variant(agent(), agent())
    assert variant == again.variant(agent(), agent())
    assert variant != CallOptions(env={"TOKEN": "other"}).variant(agent(), agent())
    assert SECRET not in variant + repr(first)


def test_a_variable_that_env_block_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"never get AWS_KEY \(setting env_block"):
        CallOptions(env={"AWS_KEY": SECRET}).apply(agent(), Settings(env_block=("AWS_*",)))


def test_values_of_variables_appear_in_no_text_form() -> None:
    whole = request(env={"TOKEN": SECRET})
    assert SECRET not in repr(whole) + repr(Submitted(whole))
    masked = whole.without_secrets()
    assert masked == replace(whole, env={"TOKEN": "…"})
    assert request().without_secrets() == request()
    assert TaskRequest.from_json(json.loads(json.dumps(whole.as_json()))) == whole
    wrong = {"agent": "a", "env": {"TOKEN": SECRET}}
    with pytest.raises(ConfigError) as caught:
        TaskRequest.from_json(wrong)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("env", [{"TOKEN": SECRET}, {f"A={SECRET}": "x"}, [SECRET], {5: SECRET}])
def test_no_event_of_a_task_shows_its_variables(pool_project: PoolProject, env: Any) -> None:
    events: list[Event] = []

    async def main() -> None:
        async with pool_project.faulty() as pool:
            pool.subscribe(events.append)
            with suppress(ConfigError):
                await pool.invoke("tester", "quince", env=env)

    run(main())
    texts = [json.dumps(event.as_json()) for event in events]
    assert any('"task.ended"' in text for text in texts)
    assert SECRET not in "".join(texts) + repr(events)
    again = [event_from_json(json.loads(text)).as_json() for text in texts]
    assert again == [event.as_json() for event in events]


def test_wrong_options_are_refused_before_a_process_is_started(
    pool_project: PoolProject,
) -> None:
    pool_project.agent("careful", description="x", permissionMode="plan")

    async def main() -> None:
        async with pool_project.faulty() as pool:
            wide = TaskRequest("careful", "x", permission_mode="acceptEdits")
            for wrong in (request(effort="much"), wide):
                with pytest.raises(ConfigError):
                    await pool.check(wrong)
                with pytest.raises(ConfigError):
                    await (await pool.submit(wrong)).result()
            assert await pool.workers() == []
            await pool.check(replace(wide, permission_mode="plan"))

    run(main())


def test_many_different_options_do_not_pile_up_in_the_registry(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_waiting=2) as pool:
            registry = pool._registry
            for number in range(100):
                await registry.resolve("tester", options=CallOptions(env={"N": str(number)}))
            assert len(registry._known) < 20
            assert len(registry._blank) < 20

    run(main())
