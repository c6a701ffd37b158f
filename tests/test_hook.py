"""The PreToolUse hook: which calls it denies, and that an error in it denies no call."""

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
from support.project import TempProject

SCRIPT = Path(hook.__file__)
REVIEWER = "---\nname: code-reviewer\ndescription: reviews\n---\nYou review.\n"


class HookProject(TempProject):
    """A project in which the hook runs as Claude Code runs it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.agents = self.root / ".claude" / "agents"
        self.environ = {"HOME": str(self.home), "CLAUDE_PROJECT_DIR": str(self.root)}

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
            "cwd": str(self.root),
            **changes,
        }

    def run(self, data: bytes, *arguments: str, **environ: str) -> tuple[str, str]:
        """Run the hook; return stdout and stderr.

        Its status must always be 0: any other status can deny the call.
        """
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

    def denial(self, agent: Any, *arguments: str, **environ: str) -> str | None:
        """Return the reason for a denial, None if the call passed; stderr must be empty."""
        out, err = self.run(json.dumps(self.call(agent)).encode(), *arguments, **environ)
        assert err == ""
        return json.loads(out)["hookSpecificOutput"]["permissionDecisionReason"] if out else None

    def defined_name(self, agent: str, **environ: str) -> str | None:
        """Return the name under which the hook finds the agent; the hook runs in this process."""
        folders = hook.list_agent_folders(self.call(agent), {**self.environ, **environ})
        return hook.find_agent(agent, folders)


@pytest.fixture
def hook_project(tmp_path: Path) -> HookProject:
    return HookProject(tmp_path)


def test_defined_agent_is_denied_and_the_pool_tool_is_named(
    hook_project: HookProject,
) -> None:
    hook_project.define(REVIEWER)
    out, err = hook_project.run(json.dumps(hook_project.call("code-reviewer")).encode())
    assert err == ""
    assert json.loads(out) == {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "deny",
            "permissionDecisionReason": (
                'The agent "code-reviewer" runs in agent-pool, not in the Agent tool. Call '
                'mcp__agent-pool__invoke with agent="code-reviewer" and the whole prompt as task. '
                "If this tool does not exist, its MCP server can still be starting: try again in "
                "some seconds. If it does not exist then either, the server is not connected: ask "
                "the user to check /mcp."
            ),
        }
    }


def test_the_tool_is_named_after_the_server_given_as_argument(hook_project: HookProject) -> None:
    hook_project.define(REVIEWER)
    reason = hook_project.denial("code-reviewer", "plugin_agent-pool_agent-pool")
    assert "Call mcp__plugin_agent-pool_agent-pool__invoke with" in str(reason)


def test_denial_reason_keeps_special_characters_of_the_agent_name(
    hook_project: HookProject,
) -> None:
    hook_project.define('---\nname: prüfer "eins" \U0001f600\n---\n')
    assert 'agent "prüfer "eins" \U0001f600" runs' in str(
        hook_project.denial('prüfer "eins" \U0001f600')
    )


@pytest.mark.parametrize("agent", ["general-purpose", "Explore", "plugin:code-reviewer", "", None])
def test_built_in_and_unknown_agents_pass_without_output(
    hook_project: HookProject, agent: str | None
) -> None:
    hook_project.define(REVIEWER)
    assert hook_project.denial(agent) is None


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
        (f"---\ndescription: {'x' * hook.MAX_HEAD_BYTES}\nname: far\n---\n", "file"),
    ],
)
def test_name_comes_from_the_frontmatter_or_else_from_the_file(
    hook_project: HookProject, text: str, name: str
) -> None:
    hook_project.define(text, "file.md")
    assert [
        hook._read_names(path, stem)[0]
        for path, stem in hook.iterate_definitions(str(hook_project.agents))
    ] == [name]


@pytest.mark.parametrize("text", ["", "You review.\n", "\n---\nname: file\n---\n", "\x00\xff"])
def test_file_without_frontmatter_does_not_define_an_agent(
    hook_project: HookProject, text: str
) -> None:
    hook_project.define(text, "file.md")
    assert hook_project.defined_name("file") is None


@pytest.mark.parametrize(
    "asked", ["Code Reviewer", "CODE-REVIEWER", "code_reviewer", "codereviewer", " code-reviewer\n"]
)
def test_hook_matches_names_that_claude_code_treats_as_equal(
    hook_project: HookProject, asked: str
) -> None:
    hook_project.define(REVIEWER)
    assert hook_project.defined_name(asked) == "code-reviewer"


def test_an_exact_name_comes_before_a_similar_one(hook_project: HookProject) -> None:
    hook_project.define("---\nname: Code Reviewer\n---\n", "a.md")
    hook_project.define(REVIEWER, "b.md")
    assert hook_project.defined_name("code-reviewer") == "code-reviewer"


def test_file_that_overrides_a_built_in_agent_is_found(hook_project: HookProject) -> None:
    hook_project.define("---\nname: Explore\n---\n")
    assert hook_project.defined_name("Explore") == "Explore"


def test_similar_name_does_not_override_a_built_in_agent(
    hook_project: HookProject,
) -> None:
    hook_project.define("---\nname: plan\n---\n", "Explore.md")
    assert hook_project.defined_name("Plan") is None
    assert hook_project.defined_name("Explore") is None
    assert hook_project.defined_name("plan") == "plan"


def test_agents_are_found_where_the_pool_finds_them(
    hook_project: HookProject, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    hook_project.define("---\nname: in-own\n---\n", under=own)
    hook_project.define("---\nname: in-config\n---\n", under=tmp_path / "config" / "agents")
    hook_project.define("---\nname: below\n---\n", "team/below.md")
    config = str(tmp_path / "config")
    assert hook_project.defined_name("below") == "below"
    assert hook_project.defined_name("in-config", CLAUDE_CONFIG_DIR=config) == "in-config"
    assert hook_project.defined_name("in-own", AGENTS_DIR=str(own)) == "in-own"
    assert hook_project.defined_name("in-own", AGENT_POOL_AGENTS_DIR=str(own)) == "in-own"
    assert hook_project.defined_name("in-own", AGENTS_DIR="../own") == "in-own"


def test_user_agents_are_found_in_the_home_folder(hook_project: HookProject) -> None:
    hook_project.define("---\nname: in-home\n---\n", under=hook_project.home / ".claude" / "agents")
    assert 'agent="in-home"' in str(hook_project.denial("in-home"))
    assert 'agent="in-home"' in str(hook_project.denial("in-home", AGENTS_DIR="~/.claude/agents"))


def test_folder_of_the_call_replaces_an_empty_project_variable(
    hook_project: HookProject,
) -> None:
    hook_project.define(REVIEWER)
    assert hook_project.denial("code-reviewer", CLAUDE_PROJECT_DIR="") is not None


def test_links_to_files_and_folders_elsewhere_are_followed(
    hook_project: HookProject, tmp_path: Path
) -> None:
    outside = hook_project.define("---\nname: outside\n---\n", under=tmp_path / "elsewhere")
    hook_project.define("---\nname: inner\n---\n", "deep/inner.md", under=outside.parent)
    (hook_project.agents / "linked.md").symlink_to(outside)
    (hook_project.agents / "folder").symlink_to(outside.parent)
    (outside.parent / "circle").symlink_to(hook_project.agents)
    assert hook_project.defined_name("outside") == "outside"
    assert hook_project.defined_name("inner") == "inner"


def test_an_ambiguous_name_is_left_to_claude_code(hook_project: HookProject) -> None:
    hook_project.define("---\nname: Amb One\n---\n", "a.md")
    hook_project.define("---\nname: amb_one\n---\n", "b.md")
    assert hook_project.defined_name("AMB-ONE") is None


def lay_out_project(root: Path, shape: str) -> Path:
    """Build a project with agents around it; return the folder in which the work is done."""
    texts = {
        ".claude/agents/top.md": "---\nname: top\n---\n",
        "main/.claude/agents/tester.md": "---\nname: qa\n---\n",
        "main/.claude/agents/x.md": "---\nname: tester\n---\n",
        "main/.claude/agents/y.md": "---\nname: Code Reviewer\n---\n",
        "main/.claude/agents/z.md": "---\nname: a/b\nname: Prüfer\u2013Eins\n---\n",
        "main/sub/.claude/agents/near.md": "---\nname: near\n---\n",
        "tree/sub/f": "",
    }
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    if shape != "plain":
        (root / "main/.git/worktrees/tree").mkdir(parents=True)
    if shape == "worktree":
        (root / "tree/.git").write_text("gitdir: ../main/.git/worktrees/tree\n")
    return root / ("tree/sub" if shape == "worktree" else "main/sub")


@pytest.mark.parametrize("shape", ["plain", "repository", "worktree"])
def test_hook_and_pool_find_the_same_agent_by_every_name(
    shape: str, hook_project: HookProject, tmp_path: Path
) -> None:
    folder = lay_out_project(tmp_path / "shape", shape)
    environ = {"HOME": str(hook_project.home), "CLAUDE_PROJECT_DIR": str(folder)}
    catalog = Catalog(Settings(project_dir=folder), environ)
    names = (
        "top qa tester x y z near NEAR a/b PRÜFER_eins prüfereins code-reviewer CODE_REVIEWER no"
    )
    for name in names.split():
        try:
            expected: str | None = catalog.find(name).name
        except AgentNotFound:
            expected = None
        assert hook_project.defined_name(name, CLAUDE_PROJECT_DIR=str(folder)) == expected, name
    assert (catalog.find("near").name == "near") if shape != "worktree" else catalog.find("qa")


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
def test_hook_and_pool_agree_on_which_agents_are_defined(
    hook_project: HookProject, text: str
) -> None:
    hook_project.define(text, "file.md")
    catalog = Catalog(
        Settings(project_dir=hook_project.root), {"CLAUDE_CONFIG_DIR": str(hook_project.home)}
    )
    for name in ("x", "file", "other", "nobody"):
        assert (hook_project.defined_name(name) is not None) == _is_known(catalog, name), name


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
def test_name_on_one_line_is_read_as_yaml_reads_it(value: str, quote: str, after: str) -> None:
    line = f"name: {quote}{value}{quote}{after}"
    try:
        read = YAML(typ="safe", pure=True).load(line + "\n")["name"]
    except (YAMLError, ValueError):
        assume(False)
    assume(read is None or isinstance(read, str))
    assert hook._find_name([line]) == (read or "")


def test_worker_of_the_pool_can_use_the_native_agent_tool(hook_project: HookProject) -> None:
    hook_project.define(REVIEWER)
    assert hook_project.denial("code-reviewer", AGENT_POOL_COOKIE="pool/1") is None


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
        (b" " * (hook.MAX_INPUT_BYTES + 1), "ValueError: the input is larger than 67108864 bytes"),
    ],
    ids=lambda value: repr(value[:20])[:20],
)
def test_unreadable_call_passes_and_the_reason_is_written_to_stderr(
    hook_project: HookProject, data: bytes, problem: str
) -> None:
    hook_project.define(REVIEWER)
    out, err = hook_project.run(data)
    assert out == ""
    assert any(one in err for one in problem.split("|")), err
    assert err.startswith("agent-pool hook: ")
    assert err.endswith("; the call passes\n")


@pytest.mark.parametrize("prompt", [b"a line\nand a tab\t", b"\xff\xfe", b"\\ud800"])
def test_characters_that_are_not_allowed_in_json_do_not_let_a_call_pass(
    hook_project: HookProject, prompt: bytes
) -> None:
    hook_project.define(REVIEWER)
    data = json.dumps(hook_project.call("code-reviewer", prompt="PROMPT")).encode()
    out, err = hook_project.run(b" \n" + data.replace(b"PROMPT", prompt) + b"\n")
    assert err == ""
    assert json.loads(out)["hookSpecificOutput"]["permissionDecision"] == "deny"


def test_call_passes_when_the_hook_has_no_stdin(hook_project: HookProject) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -I -S "$1" <&-', sys.executable, str(SCRIPT)],
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"the call passes" in done.stderr


def test_unreadable_folder_does_not_hide_agents_in_other_folders(
    hook_project: HookProject, capfd: pytest.CaptureFixture[str]
) -> None:
    hook_project.define(REVIEWER)
    loop = hook_project.home / "loop"
    loop.symlink_to(loop)
    assert hook_project.defined_name("code-reviewer", AGENTS_DIR=str(loop)) == "code-reviewer"
    problem = "Too many levels of symbolic links; calls of its agents pass"
    assert capfd.readouterr().err == f"agent-pool hook: {loop}: {problem}\n"


def test_unreadable_file_does_not_hide_agents_in_other_files(
    hook_project: HookProject, capfd: pytest.CaptureFixture[str]
) -> None:
    (hook_project.agents / "c.md").symlink_to(hook_project.agents / "gone.md")
    hook_project.define(REVIEWER, "b.md")
    assert hook_project.defined_name("code-reviewer") == "code-reviewer"
    path = hook_project.agents / "c.md"
    said = capfd.readouterr().err
    assert said == f"agent-pool hook: {path}: No such file or directory; calls of its agent pass\n"


def test_hook_does_not_wait_for_a_pipe_or_a_folder(
    hook_project: HookProject,
) -> None:
    os.mkfifo(hook_project.agents / "a.md")
    (hook_project.agents / "b.md").mkdir()
    hook_project.define(REVIEWER, "c.md")
    assert "code-reviewer" in str(hook_project.denial("code-reviewer"))


def test_hook_searches_only_a_limited_number_of_files(
    hook_project: HookProject, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook, "MAX_ENTRIES", 2)
    for name in "abc":
        hook_project.define(f"---\nname: {name}\n---\n", f"{name}.md")
    assert hook_project.defined_name("b") == "b"
    assert hook_project.defined_name("c") is None
    assert "more than 2 files; the others are not searched" in capfd.readouterr().err


def test_hook_imports_json_and_no_other_additional_module(
    hook_project: HookProject,
) -> None:
    hook_project.define(REVIEWER)
    data = json.dumps(hook_project.call("code-reviewer")).encode()
    loaded = _imported("-S", str(SCRIPT), data=data)
    assert loaded - _imported("-S", "-c", "import json, os, stat") == {"__future__"}


def _imported(*arguments: str, data: bytes = b"") -> set[str]:
    command = [sys.executable, "-I", "-X", "importtime", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, timeout=30)
    lines = done.stderr.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_hook_can_be_parsed_by_the_oldest_supported_python() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))
