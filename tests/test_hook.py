"""The PreToolUse hook: what it denies, what it lets pass, and that no fault of it denies."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from agent_pool import hook
from agent_pool.agents.catalog import Catalog
from agent_pool.errors import AgentNotFound, ConfigError
from agent_pool.settings import Settings

SCRIPT = Path(hook.__file__)
REVIEWER = "---\nname: code-reviewer\ndescription: reviews\n---\nYou review.\n"


class World:
    """A project, a home, and the hook run in them as Claude Code runs it."""

    def __init__(self, root: Path) -> None:
        self.project = root / "project"
        self.home = root / "home"
        self.agents = self.project / ".claude" / "agents"
        self.agents.mkdir(parents=True)
        self.home.mkdir()
        self.environ = {"HOME": str(self.home), "CLAUDE_PROJECT_DIR": str(self.project)}

    def define(self, text: str | bytes, path: str = "one.md", under: Path | None = None) -> Path:
        file = (under or self.agents) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def call(self, agent: Any, **changes: Any) -> dict[str, Any]:
        tool_input = {"description": "d", "prompt": "p", "subagent_type": agent}
        return {
            "hook_event_name": "PreToolUse",
            "tool_name": "Agent",
            "tool_input": tool_input,
            "cwd": str(self.project),
            **changes,
        }

    def run(self, data: bytes, *arguments: str, **environ: str) -> tuple[str, str]:
        """Stdout and stderr; a status other than 0 could deny the call and is never right."""
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(SCRIPT), *arguments],
            input=data,
            capture_output=True,
            env={**self.environ, **environ},
            cwd=self.home,
            timeout=30,
        )
        assert done.returncode == 0
        return done.stdout.decode(), done.stderr.decode()

    def judge(self, agent: Any, *arguments: str, **environ: str) -> str | None:
        """The reason of a denial, None when the call passed, silently in both cases."""
        out, err = self.run(json.dumps(self.call(agent)).encode(), *arguments, **environ)
        assert err == ""
        return json.loads(out)["hookSpecificOutput"]["permissionDecisionReason"] if out else None

    def defined(self, agent: str, **environ: str) -> str | None:
        """The name under which the hook finds the agent, judged in this process."""
        folders = hook.agent_folders(self.call(agent), {**self.environ, **environ})
        return hook.defined_name(agent, folders)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_defined_agent_is_denied_in_the_current_form_and_the_pool_s_tool_is_named(
    world: World,
) -> None:
    world.define(REVIEWER)
    out, err = world.run(json.dumps(world.call("code-reviewer")).encode())
    assert err == ""
    assert json.loads(out) == {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "deny",
            "permissionDecisionReason": (
                'The agent "code-reviewer" runs in agent-pool, not in the Agent tool. Call '
                'mcp__agent-pool__invoke with agent="code-reviewer" and the whole prompt as task. '
                "If there is no tool of that name, its MCP server is not connected: ask the user "
                "to look at /mcp."
            ),
        }
    }


def test_the_tool_is_named_after_the_server_given_as_argument(world: World) -> None:
    world.define(REVIEWER)
    reason = world.judge("code-reviewer", "plugin_agent-pool_agent-pool")
    assert "Call mcp__plugin_agent-pool_agent-pool__invoke with" in str(reason)


def test_the_reason_survives_any_characters_of_a_name(world: World) -> None:
    world.define('---\nname: prüfer "eins" \U0001f600\n---\n')
    assert 'agent "prüfer "eins" \U0001f600" runs' in str(world.judge('prüfer "eins" \U0001f600'))


@pytest.mark.parametrize("agent", ["general-purpose", "Explore", "plugin:code-reviewer", "", None])
def test_built_in_and_unknown_agents_pass_without_a_word(world: World, agent: str | None) -> None:
    world.define(REVIEWER)
    assert world.judge(agent) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("---\nname: a-b\n---\n", "a-b"),
        ("---\nname: 'a-b'\n---\n", "a-b"),
        ('---\nname: "a-b"  # why\n---\n', "a-b"),
        ("---\nname: a-b # why\n---\n", "a-b"),
        ("---\nname: a-b#c\n---\n", "a-b#c"),
        ("---\n'name' : a-b\n---\n", "a-b"),
        ("---\r\ndescription: x\r\nname: a-b\r\n---\r\n", "a-b"),
        ("\ufeff--- \nname: a-b\n---\n", "a-b"),
        ("---\nname: prüfer\n---\n", "prüfer"),
        ("---\nname:a-b\nname: c\n---\n", "c"),
        ("---\nmeta:\n  name: inner\nname: outer\n---\n", "outer"),
        ("---\ndescription: |\n  name: inner\n---\n", "file"),
        ("---\ndescription: x\n---\nname: body\n", "file"),
        ("---\nname:\n---\n", "file"),
        ("---\nname: ~\n---\n", "file"),
        ("---\nname: # none\n---\n", "file"),
        (f"---\ndescription: {'x' * hook.MAX_HEAD}\nname: far\n---\n", "file"),
    ],
)
def test_the_name_is_read_from_the_frontmatter_or_else_is_the_file_s(
    world: World, text: str, name: str
) -> None:
    world.define(text, "file.md")
    assert [hook._names(path, stem)[0] for path, stem in hook.definitions(str(world.agents))] == [
        name
    ]


@pytest.mark.parametrize("text", ["", "You review.\n", "\n---\nname: file\n---\n", "\x00\xff"])
def test_a_file_without_frontmatter_defines_nothing(world: World, text: str) -> None:
    world.define(text, "file.md")
    assert world.defined("file") is None


@pytest.mark.parametrize(
    "asked", ["Code Reviewer", "CODE-REVIEWER", "code_reviewer", "codereviewer", " code-reviewer\n"]
)
def test_a_name_that_claude_code_takes_for_the_same_is_the_same(world: World, asked: str) -> None:
    world.define(REVIEWER)
    assert world.defined(asked) == "code-reviewer"


def test_an_exact_name_comes_before_a_similar_one(world: World) -> None:
    world.define("---\nname: Code Reviewer\n---\n", "a.md")
    world.define(REVIEWER, "b.md")
    assert world.defined("code-reviewer") == "code-reviewer"


def test_a_file_that_overrides_a_built_in_agent_counts(world: World) -> None:
    world.define("---\nname: Explore\n---\n")
    assert world.defined("Explore") == "Explore"


def test_a_file_that_is_only_similar_to_a_built_in_agent_leaves_it_alone(world: World) -> None:
    world.define("---\nname: plan\n---\n", "Explore.md")
    assert world.defined("Plan") is None
    assert world.defined("Explore") is None
    assert world.defined("plan") == "plan"


def test_agents_are_found_where_the_pool_finds_them(world: World, tmp_path: Path) -> None:
    own = tmp_path / "own"
    world.define("---\nname: in-own\n---\n", under=own)
    world.define("---\nname: in-config\n---\n", under=tmp_path / "config" / "agents")
    world.define("---\nname: below\n---\n", "team/below.md")
    config = str(tmp_path / "config")
    assert world.defined("below") == "below"
    assert world.defined("in-config", CLAUDE_CONFIG_DIR=config) == "in-config"
    assert world.defined("in-own", AGENTS_DIR=str(own)) == "in-own"
    assert world.defined("in-own", AGENT_POOL_AGENTS_DIR=str(own)) == "in-own"
    assert world.defined("in-own", AGENTS_DIR="../own") == "in-own"


def test_the_user_s_agents_are_found_in_the_home_folder(world: World) -> None:
    world.define("---\nname: in-home\n---\n", under=world.home / ".claude" / "agents")
    assert 'agent="in-home"' in str(world.judge("in-home"))
    assert 'agent="in-home"' in str(world.judge("in-home", AGENTS_DIR="~/.claude/agents"))


def test_without_a_project_variable_the_call_s_folder_is_the_project(world: World) -> None:
    world.define(REVIEWER)
    assert world.judge("code-reviewer", CLAUDE_PROJECT_DIR="") is not None


def test_a_link_is_followed_only_inside_its_folder_as_the_pool_does(
    world: World, tmp_path: Path
) -> None:
    outside = world.define("---\nname: outside\n---\n", under=tmp_path / "elsewhere")
    (world.agents / "linked.md").symlink_to(outside)
    (world.agents / "folder").symlink_to(outside.parent)
    world.define("---\nname: inside\n---\n", "inside.txt")
    (world.agents / "alias.md").symlink_to(world.agents / "inside.txt")
    assert world.defined("outside") is None
    assert world.defined("inside") == "inside"


@pytest.mark.parametrize(
    "text",
    [
        "---\nname: x\ndescription: d\n---\nbody",
        "---\nname: 'x'\n---\n",
        "\ufeff---\r\nname: x # y\r\n---\r\nbody",
        "---\ndescription: d\n---\nbody",
        "---\nname: ~\n---\n",
        "---\nname: other\n---\n",
        "---\nname: x\nskills: [\n---\n",
    ],
)
def test_hook_and_pool_agree_on_what_is_defined(world: World, text: str) -> None:
    world.define(text, "file.md")
    catalog = Catalog(Settings(project_dir=world.project), {"CLAUDE_CONFIG_DIR": str(world.home)})
    for name in ("x", "file", "other", "nobody"):
        assert (world.defined(name) is not None) == _is_known(catalog, name), name


def _is_known(catalog: Catalog, name: str) -> bool:
    try:
        catalog.find(name)
    except AgentNotFound:
        return False
    except ConfigError:
        return True
    return True


@given(
    value=st.text(alphabet="nul -_.#~é\t", min_size=1, max_size=12),
    quote=st.sampled_from(["", "'", '"']),
    after=st.sampled_from(["", " ", " # note"]),
)
def test_a_name_on_one_line_is_read_as_yaml_reads_it(value: str, quote: str, after: str) -> None:
    line = f"name: {quote}{value}{quote}{after}"
    try:
        read = YAML(typ="safe", pure=True).load(line + "\n")["name"]
    except (YAMLError, ValueError):
        assume(False)
    assume(read is None or isinstance(read, str))
    assert hook._frontmatter_name([line]) == (read or "").strip()


def test_a_worker_of_the_pool_may_delegate_natively(world: World) -> None:
    world.define(REVIEWER)
    assert world.judge("code-reviewer", AGENT_POOL_COOKIE="pool/1") is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "JSONDecodeError: Expecting value"),
        (b"{", "JSONDecodeError"),
        (b"{} {}", "JSONDecodeError: Extra data"),
        (b"[]", "TypeError"),
        (b"null", "TypeError"),
        (b"{}", "KeyError: 'tool_input'"),
        (b'{"tool_input": 1}', "AttributeError"),
        (b'{"tool_input": {"subagent_type": ["x"]}}', "KeyError|TypeError|AttributeError"),
        (b"[" * 100_000, "RecursionError"),
        (b" " * (hook.MAX_INPUT + 1), "ValueError: an input of over 67108864 bytes"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_call_that_cannot_be_read_passes_and_stderr_says_why(
    world: World, data: bytes, problem: str
) -> None:
    world.define(REVIEWER)
    out, err = world.run(data)
    assert out == ""
    assert any(one in err for one in problem.split("|")), err
    assert err.startswith("agent-pool hook: ")
    assert err.endswith("; the call passes\n")


def test_without_any_stdin_the_call_passes(world: World) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -I -S "$1" <&-', sys.executable, str(SCRIPT)],
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"the call passes" in done.stderr


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.define(REVIEWER)
    loop = world.home / "loop"
    loop.symlink_to(loop)
    assert world.defined("code-reviewer", AGENTS_DIR=str(loop)) == "code-reviewer"
    expected = f"agent-pool hook: {loop}: Too many levels of symbolic links; its agents pass\n"
    assert capfd.readouterr().err == expected


def test_a_file_that_cannot_be_read_does_not_hide_the_others(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    (world.agents / "a.md").symlink_to(world.agents / "gone.md")
    world.define(REVIEWER, "b.md")
    assert world.defined("code-reviewer") == "code-reviewer"
    path = world.agents / "a.md"
    said = capfd.readouterr().err
    assert said == f"agent-pool hook: {path}: No such file or directory; its agent passes\n"


def test_a_pipe_or_a_folder_among_the_definitions_is_not_waited_for(world: World) -> None:
    os.mkfifo(world.agents / "a.md")
    (world.agents / "b.md").mkdir()
    world.define(REVIEWER, "c.md")
    assert "code-reviewer" in str(world.judge("code-reviewer"))


def test_a_huge_folder_is_not_searched_to_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook, "MAX_ENTRIES", 2)
    for name in "abc":
        world.define(f"---\nname: {name}\n---\n", f"{name}.md")
    assert world.defined("b") == "b"
    assert world.defined("c") is None
    assert "over 2 files; the rest is not looked at" in capfd.readouterr().err


def test_it_imports_no_more_than_python_does_by_itself(world: World) -> None:
    world.define(REVIEWER)
    data = json.dumps(world.call("code-reviewer")).encode()
    loaded = _imported("-S", str(SCRIPT), data=data)
    assert loaded - _imported("-c", "pass") == {"__future__", "_json"}


def _imported(*arguments: str, data: bytes = b"") -> set[str]:
    command = [sys.executable, "-I", "-X", "importtime", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, timeout=30)
    lines = done.stderr.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_it_is_readable_for_the_oldest_python_that_may_run_it() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_json_itself_stands_in_where_its_scanner_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "_json", None)
    assert hook._parsed('{"a": [1, 2.5, null, "é"]}') == {"a": [1, 2.5, None, "é"]}
    assert json.loads(hook._denial('"'))["hookSpecificOutput"]["permissionDecisionReason"] == '"'
