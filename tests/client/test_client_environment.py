from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.claude.launch import POOL_VARIABLES, SESSION_VARIABLES, WORKER_VARIABLES
from agent_pool.client.environment import changed_variables, client_environment
from agent_pool.models import TaskRequest
from agent_pool.pool.call_options import read_options

NAMES = st.sampled_from(
    [
        *("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT", "CLAUDE_PROJECT_DIR"),
        *("CLAUDE_CODE_SESSION_ACCESS_TOKEN", "CLAUDE_CODE_MESSAGING_TOKEN", "AI_AGENT"),
        *("CLAUDE_AGENT_SDK_VERSION", "CLAUDE_PLUGIN_ROOT", "CCR_OAUTH_TOKEN_FILE", "CLAUDE_PID"),
        *("SESSION_INGRESS_URL", "X_FILE_DESCRIPTOR", "AGENT_POOL_DEPTH", "AGENTS_DIR"),
        *("TASK_TIMEOUT_MS", "CLAUDE_CLI", "DISABLE_AUTOUPDATER", "CLAUDE_CODE_DISABLE_CRON"),
        *("CLAUDE_CODE_DISABLE_FILE_MENTIONS", "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"),
        *("PATH", "HOME", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "SSH_AUTH_SOCK", "PWD", "a b"),
        *("SHLVL", "TERM", "TMUX_PANE", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_USE_BEDROCK", "LANG"),
    ]
) | st.text(max_size=8)
ENVIRONMENTS = st.dictionaries(NAMES, st.text(max_size=4), max_size=8)


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_every_changed_variable_can_be_given_to_a_task(
    client: dict[str, str], daemon: dict[str, str]
) -> None:
    changed = changed_variables(client, daemon)

    assert changed != {}
    read_options(TaskRequest("a", "b", env=changed))  # raises if the pool refuses one


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_a_task_sees_the_client_environment_and_no_other_value(
    client: dict[str, str], daemon: dict[str, str]
) -> None:
    seen = {**daemon, **(changed_variables(client, daemon) or {})}

    wanted = client_environment(client)
    for name in client_environment(seen):
        assert seen[name] == wanted.get(name, "")
    assert wanted.items() <= {**dict.fromkeys(wanted, ""), **seen}.items()


@given(ENVIRONMENTS)
def test_equal_environments_have_no_changed_variables(environ: dict[str, str]) -> None:
    assert changed_variables(environ, environ) is None
    assert changed_variables(client_environment(environ), environ) is None


@given(NAMES)
def test_the_patterns_are_those_of_the_pool_itself(name: str) -> None:
    # `client.environment` has a copy: the module of the others takes too long to import.
    is_of_the_pool = (
        SESSION_VARIABLES.fullmatch(name)
        or POOL_VARIABLES.fullmatch(name)
        or name in WORKER_VARIABLES
    )
    if is_of_the_pool:
        assert client_environment({name: "x"}) == {}


@pytest.mark.parametrize(
    "name", ["ANTHROPIC_API_KEY", "CLAUDE_CONFIG_DIR", "HTTPS_PROXY", "SSH_AUTH_SOCK", "PATH"]
)
def test_variables_that_a_task_needs_are_kept(name: str) -> None:
    assert client_environment({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("name", ["TERM", "SHLVL", "PWD", "TMUX", "SSH_TTY", "COLUMNS", "_"])
def test_variables_of_a_terminal_make_no_difference(name: str) -> None:
    assert changed_variables({name: "one"}, {name: "two"}) is None
    assert changed_variables({}, {name: "two"}) is None


def test_a_key_that_only_the_daemon_has_is_taken_away() -> None:
    assert changed_variables({}, {"ANTHROPIC_API_KEY": "daemon's"}) == {"ANTHROPIC_API_KEY": ""}


def test_variables_that_workers_never_get_are_left_out() -> None:
    client = {"AWS_KEY": "a", "OTHER": "b"}

    assert changed_variables(client, {}, ["AWS_*"]) == {"OTHER": "b"}
    assert changed_variables({}, client, ["AWS_*"]) == {"OTHER": ""}


def test_a_value_that_is_not_utf_8_is_left_out() -> None:
    assert client_environment({"A": "\udcff", "\udcff": "b", "C": "ü"}) == {"C": "ü"}
