from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool import ConfigError, Settings, unknown_options
from agent_pool.agents import Agent, Projects
from agent_pool.claude.launch import (
    LaunchConfig,
    build_launch,
    depth,
    file_options,
    refuse_nesting,
    remove_files,
    worker_environment,
)
from agent_pool.claude.protocol.states import SURVIVING_TOOLS

CLI = Path("/opt/claude")
OLD = "2.1.300"
"""A version whose processes take no roles."""
PROJECT = Path("/srv/project")
SECRET = "hunter2"

CREDENTIALS = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_MODEL",
    "AWS_REGION",
    "CLAUDE_CODE_ATTRIBUTION_HEADER",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CONFIG_DIR",
    "HOME",
    "HTTPS_PROXY",
    "IS_SANDBOX",
    "LANG",
    "NODE_EXTRA_CA_CERTS",
    "NO_PROXY",
    "PATH",
    "SSL_CERT_FILE",
]
SESSION_VARIABLES = [
    "AI_AGENT",
    "CLAUDECODE",
    "CLAUDE_AGENT_SDK_VERSION",
    "CLAUDE_CODE_CHILD_NOTES_DIR",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_LAUNCHED_BY_SESSION_IDS",
    "CLAUDE_CODE_MESSAGING_SOCKET",
    "CLAUDE_CODE_MESSAGING_TOKEN",
    "CLAUDE_CODE_SESSION_ATTENDED",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_SSE_PORT",
    "CLAUDE_EFFORT",
    "CLAUDE_PID",
    "CLAUDE_PLUGIN_ROOT",
    "CLAUDE_PROJECT_DIR",
]
POOL_VARIABLES = [
    "AGENTS_DIR",
    "AGENT_POOL_CONFIG",
    "AGENT_POOL_COOKIE",
    "AGENT_POOL_MAX_SIZE",
    "CLAUDE_CLI",
    "EXPERTISE_DIR",
    "SKILLS_DIR",
    "TASK_TIMEOUT_MS",
]


def settings(**fields: Any) -> Settings:
    return Settings(project_dir=PROJECT, **fields)


OF_THE_USER = settings(agents_dir=CLI.parent)
"""With it the definition is not one of the project, whose programs need trust."""


def agent(**fields: Any) -> Agent:
    return Agent(**{"name": "tester", "description": "", "prompt": "You test.", **fields}, path=CLI)


def launch(
    version: str = "2.1.330",
    *,
    cli: Path = CLI,
    environ: dict[str, str] | None = None,
    setting: Settings | None = None,
    **fields: Any,
) -> LaunchConfig:
    given_environ = {"PATH": "/bin"} if environ is None else environ
    project = Projects(setting or settings(), given_environ).default
    return build_launch(cli, version, agent(**fields), project)


def head(launched: LaunchConfig) -> dict[str, Any]:
    """Return the head of the definition of a role, but its name."""
    assert launched.role is not None
    lines = launched.role.definition.split("\n---\n")[0].removeprefix("---\n").splitlines()
    fields = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in lines)}
    assert fields.pop("name") == launched.role.name
    return fields


def option(launched: LaunchConfig, name: str) -> str | None:
    found = [a.partition("=")[2] for a in launched.argv if a.startswith(f"--{name}=")]
    assert len(found) <= 1
    return found[0] if found else None


# The environment


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_and_provider_settings_are_passed_to_the_worker(name: str) -> None:
    assert worker_environment({name: "value"}, settings())[name] == "value"


@pytest.mark.parametrize("name", SESSION_VARIABLES + POOL_VARIABLES)
def test_variables_of_the_parent_session_or_pool_are_not_passed(name: str) -> None:
    assert name not in worker_environment({name: "value"}, settings())


@given(suffix=st.text("ABCZ_", max_size=8), word=st.sampled_from(["SESSION", "MESSAGING", "CHILD"]))
def test_session_variables_of_future_releases_are_not_passed(suffix: str, word: str) -> None:
    name = f"CLAUDE_CODE_{word}{suffix}"
    assert name not in worker_environment({name: "value"}, settings())


def test_env_passthrough_passes_a_variable_of_the_parent_session() -> None:
    environ = {"CLAUDE_EFFORT": "high", "CLAUDE_PID": "7"}
    env = worker_environment(environ, settings(env_passthrough=("CLAUDE_EFFORT",)))
    assert (env.get("CLAUDE_EFFORT"), env.get("CLAUDE_PID")) == ("high", None)


def test_a_blocked_variable_is_not_passed_despite_passthrough() -> None:
    environ = {"AWS_KEY": "k", "AWS_REGION": "r", "PATH": "/bin"}
    env = worker_environment(environ, settings(env_block=("AWS_*",), env_passthrough=("AWS_*",)))
    assert [name for name in env if name.startswith("AWS")] == []
    assert env["PATH"] == "/bin"


def test_updates_file_mentions_and_cron_are_disabled_in_a_worker() -> None:
    env = worker_environment({"CLAUDE_CODE_DISABLE_CRON": "0"}, settings())
    assert env["DISABLE_AUTOUPDATER"] == "1"
    assert env["CLAUDE_CODE_DISABLE_FILE_MENTIONS"] == "1"
    assert env["CLAUDE_CODE_DISABLE_CRON"] == "1"


@pytest.mark.parametrize(
    ("version", "setting", "field", "memory"),
    [
        ("2.1.332", "lean", None, "lean"),
        ("2.1.332", "fast", None, "fast"),
        ("2.1.332", "fast", "lean", "lean"),
        ("2.1.332", "lean", "fast", "fast"),
        ("2.1.330", "lean", None, "lean"),
        ("2.1.300", "lean", "lean", "fast"),
    ],
)
def test_agent_setting_and_version_decide_how_a_worker_treats_memory(
    version: str, setting: str, field: str | None, memory: str
) -> None:
    given = launch(version, setting=settings(worker_memory=setting), worker_memory=field)
    assert given.memory == given.spec().memory == memory
    assert any(name.startswith("BUN_") for name in given.env) == (memory == "lean")


def test_an_old_cli_refuses_agents_with_single_tools_of_servers() -> None:
    inline = ('{"own":{"command":"x"}}',)
    for tools in (("mcp__own",), ("mcp__own__*",), None):
        given = launch("2.0.77", tools=tools, mcp_servers=inline, setting=OF_THE_USER)
        assert given.mcp_config
        assert option(given, "agents") is None
    with pytest.raises(ConfigError, match="cannot limit an agent to mcp__own__a; update it"):
        launch("2.0.77", tools=("Read", "mcp__own__a"), mcp_servers=inline, setting=OF_THE_USER)


def test_lean_and_fast_workers_are_not_interchangeable() -> None:
    assert launch(worker_memory="lean").profile != launch(worker_memory="fast").profile


def test_an_agent_that_names_the_cron_tool_keeps_cron() -> None:
    named = launch(tools=("CronCreate",))
    assert "CLAUDE_CODE_DISABLE_CRON" not in named.env


def test_ambient_variables_outside_the_given_environment_are_not_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_AMBIENT_VARIABLE", "value")
    assert "SOME_AMBIENT_VARIABLE" not in launch(environ={"PATH": "/bin"}).env


# Depth


@pytest.mark.parametrize(("outside", "inside"), [({}, "1"), ({"AGENT_POOL_DEPTH": "2"}, "3")])
def test_a_worker_gets_the_depth_of_its_pool_plus_one(outside: dict[str, str], inside: str) -> None:
    assert worker_environment(outside, settings())["AGENT_POOL_DEPTH"] == inside


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "²", "１"])  # noqa: RUF001
def test_a_depth_that_is_no_number_is_a_config_error(value: str) -> None:
    with pytest.raises(ConfigError, match="AGENT_POOL_DEPTH: expected a number"):
        depth({"AGENT_POOL_DEPTH": value})


def test_a_pool_inside_a_worker_is_refused_unless_allowed() -> None:
    inside = worker_environment({}, settings())
    with pytest.raises(ConfigError, match="AGENT_POOL_ALLOW_NESTED=true"):
        refuse_nesting(inside, settings())
    refuse_nesting(inside, settings(allow_nested=True))
    refuse_nesting({}, settings())


# The options


def test_every_worker_uses_stream_json_without_ambient_configuration() -> None:
    started = launch()
    assert started.argv[0] == "/opt/claude"
    assert {
        "-p",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--verbose",
        "--strict-mcp-config",
        "--no-session-persistence",
    } <= set(started.argv)
    assert started.cwd == PROJECT


@pytest.mark.parametrize(
    ("version", "unknown"),
    [
        ("2.0.0", ["--no-session-persistence", "--tools", "--effort"]),
        ("2.0.30", ["--no-session-persistence", "--tools", "--effort"]),
        ("2.0.31", ["--no-session-persistence", "--effort"]),
        ("2.0.64", ["--effort"]),
        ("2.1.37", ["--effort"]),
        ("2.1.38", []),
        ("2.1.330", []),
    ],
)
def test_options_that_a_version_does_not_know_are_left_out(
    version: str, unknown: list[str]
) -> None:
    started = launch(version, tools=("Read",), effort="low")
    assert sorted(started.left_out) == sorted(unknown)
    names = {argument.partition("=")[0] for argument in started.argv}
    assert not names & set(unknown)
    assert (
        started.spec().left_out
        == started.left_out
        == {name: cost for name, cost in unknown_options(version).items() if name in unknown}
    )


def test_an_option_that_the_agent_does_not_need_is_not_missed() -> None:
    assert list(launch("2.0.30").left_out) == ["--no-session-persistence"]


def test_other_built_in_tools_are_refused_one_by_one_without_a_list() -> None:
    refused = set((option(launch("2.0.30", tools=("Read",)), "disallowedTools") or "").split(","))
    assert {"Bash", "Write", "Task", "WebFetch", "Skill"} <= refused
    assert "Read" not in refused
    all_tools = set((option(launch("2.0.30"), "disallowedTools") or "").split(","))
    assert not {"Bash", "Write", "Task"} & all_tools


def test_slash_commands_stay_enabled_because_a_reset_needs_them() -> None:
    assert "--disable-slash-commands" not in launch().argv


def test_a_value_with_a_leading_dash_stays_an_option_value() -> None:
    started = launch(OLD, model="-x", tools=("-y",), disallowed_tools=("-z",))
    assert option(started, "model") == "-x"
    assert option(started, "tools") == "-y"
    assert "-z" in (option(started, "disallowedTools") or "").split(",")
    assert not {"-x", "-y", "-z"} & set(started.argv)


def test_tools_that_outlive_a_reset_are_disallowed_unless_named() -> None:
    refused = set((option(launch(), "disallowedTools") or "").split(","))
    named = launch(tools=("Read", "Monitor"))
    assert refused >= SURVIVING_TOOLS
    assert head(named)["tools"] == ["Read", "Monitor"]
    assert refused - set((option(named, "disallowedTools") or "").split(",")) == {"Monitor"}


def test_an_empty_tools_list_gives_no_tools_unset_gives_all() -> None:
    assert option(launch(OLD, tools=()), "tools") == ""
    assert option(launch(OLD, tools=None), "tools") is None
    assert head(launch(tools=()))["tools"] == []
    assert "tools" not in head(launch(tools=None))


def test_a_role_has_the_agents_fields_and_its_whole_prompt() -> None:
    started = launch(
        prompt="You test.\n---\nAnd more.",
        tools=("Read", "Bash(ls *)"),
        disallowed_tools=("Write",),
        model="haiku",
        effort="low",
        description='Says: "no" # never',
    )
    assert head(started) == {
        "description": 'Says: "no" # never',
        "tools": ["Read", "Bash(ls *)"],
        "disallowedTools": ["Write"],
        "model": "haiku",
    }
    role = started.role
    assert role is not None
    assert role.definition.endswith("\n---\nYou test.\n---\nAnd more.")
    assert (role.effort, role.tools) == ("low", frozenset({"Read", "Bash"}))
    for name in ("model", "tools", "effort", "agent"):
        assert option(started, name) is None


@pytest.mark.parametrize(
    "field",
    [
        {"prompt": "Other."},
        {"tools": ("Read",)},
        {"tools": ()},
        {"disallowed_tools": ("Read",)},
        {"model": "haiku"},
        {"effort": "low"},
    ],
)
def test_agents_that_differ_in_their_role_share_processes(field: dict[str, Any]) -> None:
    one, other = launch(), launch(**field)
    assert one.profile == other.profile
    assert one.role is not None
    assert other.role is not None
    assert one.role.name != other.role.name


@pytest.mark.parametrize("variable", ["PLUGIN_ROOT", "PLUGIN_DATA", "PROJECT_DIR"])
def test_a_prompt_with_a_text_that_plugins_replace_is_no_role(variable: str) -> None:
    started = launch(prompt=f"Look into ${{CLAUDE_{variable}}}.", tools=("Read",))
    assert started.role is None
    assert option(started, "tools") == "Read"


def test_a_schema_is_a_part_of_the_profile_of_a_role() -> None:
    assert replace(launch(), schema="{}").profile != launch().profile
    assert replace(launch(OLD), schema="{}").profile == launch(OLD).profile


def test_the_prompt_is_never_on_the_command_line() -> None:
    assert not any("You test." in argument for argument in launch().argv)


@pytest.mark.parametrize(
    ("version", "by_initialize"),
    [("2.0.77", False), ("2.1.118", False), ("2.1.119", True), ("2.1.330", True), ("3.0.0", True)],
)
def test_old_versions_get_their_prompt_from_a_private_file(
    version: str, by_initialize: bool, tmp_path: Path
) -> None:
    started = launch(version, prompt="Überprüfe\n")
    options = file_options(started, tmp_path / "worker")
    assert started.prompt_by_initialize is by_initialize
    if by_initialize:
        folder = [f"--plugin-dir={tmp_path / 'worker.roles'}"] if started.takes_roles else []
        assert options == folder
    else:
        [only] = options
        path = Path(only.removeprefix("--system-prompt-file="))
        assert path.read_text(encoding="utf-8") == "Überprüfe\n"
        assert path.stat().st_mode & 0o777 == 0o600


def test_mcp_servers_are_passed_in_a_private_file_until_removed(tmp_path: Path) -> None:
    config = f'{{"mcpServers":{{"one":{{"headers":"{SECRET}"}}}}}}'
    [only] = file_options(replace(launch(OLD), mcp_config=config), tmp_path / "worker")
    path = Path(only.removeprefix("--mcp-config="))
    assert path.read_text(encoding="utf-8") == config
    assert path.stat().st_mode & 0o777 == 0o600
    remove_files(tmp_path / "worker")
    assert list(tmp_path.iterdir()) == []


# The profile


def test_the_profile_does_not_depend_on_the_variable_order() -> None:
    one, other = launch(environ={"A": "1", "B": "2"}), launch(environ={"B": "2", "A": "1"})
    assert one.profile == other.profile
    assert one.profile.isalnum()


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_profile_is_the_same_in_every_process(seed: str) -> None:
    code = (
        "from pathlib import Path; from agent_pool.claude.launch import LaunchConfig; "
        "made = LaunchConfig(('claude',), {'A': '1'}, Path('/srv'), '', 'p', True, '2.1.330'); "
        "print(made.profile)"
    )
    env = {**os.environ, "PYTHONHASHSEED": seed}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, check=True, timeout=60
    )
    here = LaunchConfig(("claude",), {"A": "1"}, Path("/srv"), "", "p", True, "2.1.330")
    assert printed.stdout.decode().strip() == here.profile


@pytest.mark.parametrize("field", [{"prompt": "Other."}, {"name": "other"}, {"description": "x"}])
def test_prompt_name_and_description_do_not_change_the_profile(
    field: dict[str, Any],
) -> None:
    assert launch(**field).profile == launch().profile


def test_the_prompt_changes_the_profile_in_old_versions() -> None:
    prompts = ["One.", "Another."]
    assert len({launch("2.0.77", prompt=prompt).profile for prompt in prompts}) == 2


DIFFERENT: dict[str, Callable[[], LaunchConfig]] = {
    "binary": lambda: launch(cli=Path("/usr/bin/claude")),
    "version": lambda: launch("2.1.331"),
    "named tool of a session": lambda: launch(tools=("Monitor",)),
    "turns": lambda: launch(max_turns=3),
    "permissions": lambda: launch(permission_mode="plan"),
    "hooks": lambda: launch(hooks="{}", setting=OF_THE_USER),
    "old tools": lambda: launch(OLD, tools=("Read",)),
    "old no tools": lambda: launch(OLD, tools=()),
    "old disallowed tools": lambda: launch(OLD, disallowed_tools=("Read",)),
    "old model": lambda: launch(OLD, model="haiku"),
    "variable": lambda: launch(environ={"PATH": "/bin", "ANTHROPIC_API_KEY": "k"}),
    "value": lambda: launch(environ={"PATH": "/usr/bin"}),
    "folder": lambda: launch(setting=Settings(project_dir=Path("/srv/other"))),
    "servers": lambda: replace(launch(), mcp_config='{"mcpServers":{}}'),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_every_other_difference_gives_another_profile(what: str) -> None:
    others = [start().profile for name, start in DIFFERENT.items() if name != what]
    assert DIFFERENT[what]().profile not in [launch().profile, *others]


# The launch as people read it


@pytest.mark.parametrize(
    "name",
    [
        "ANTHROPIC_API_KEY",
        "CLIENT_SECRET",
        "DB_PASSWORD",
        "GITHUB_PAT",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "HF_TOKEN",
        "SENTRY_DSN",
        "SESSION_COOKIE",
        "npm_config__auth",
    ],
)
def test_secrets_are_masked_where_the_environment_is_shown(name: str) -> None:
    started = launch(environ={name: SECRET, "PATH": "/bin"})
    shown = started.spec().env
    assert started.env[name] == SECRET
    assert shown[name] == "…"
    assert shown["PATH"] == "/bin"
    assert SECRET not in str(started.spec())


def test_a_password_in_a_url_is_masked_and_the_rest_is_shown() -> None:
    proxy = f"http://me:{SECRET}@proxy.example:3128/path@x"
    shown = launch(environ={"HTTPS_PROXY": proxy}).spec().env
    assert shown["HTTPS_PROXY"] == "http://…@proxy.example:3128/path@x"


def test_the_shown_environment_is_complete_and_sorted_by_name() -> None:
    started = launch(environ={"Z": "1", "A": "2"})
    assert list(started.spec().env) == sorted(started.env)


def test_a_launch_spec_has_command_folder_prompt_and_version() -> None:
    started = launch(prompt="You review.", model="haiku")
    spec = started.spec()
    assert spec.argv == started.argv
    assert (spec.cwd, spec.prompt, spec.version) == (str(PROJECT), "You review.", "2.1.330")


def test_the_repr_of_a_launch_shows_no_secrets() -> None:
    started = replace(launch(environ={"HF_TOKEN": SECRET}), mcp_config=f'{{"key":"{SECRET}"}}')
    assert SECRET not in repr(started)


def test_depth_reads_the_environment_of_the_process_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "AGENT_POOL_DEPTH", "4")
    assert depth() == 4
