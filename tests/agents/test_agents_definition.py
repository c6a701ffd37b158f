from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_pool.agents import Agent, BrokenAgent
from agent_pool.agents.definition import ParsedDefinition, load_definition
from agent_pool.agents.files import MAX_FILE_BYTES
from support.agent_definitions import FULL, agent, fault, load

REPOSITORY = Path(__file__).parents[2]


def test_a_broken_file_is_listed_under_its_frontmatter_name(tmp_path: Path) -> None:
    for line in ("permissionMode: no", "k.y: a: b"):
        found = load(tmp_path, f'---\nname: "named"\n{line}\n---\n')
        assert isinstance(found, BrokenAgent)
        assert found.name == "named"


@pytest.mark.parametrize("content", ["---\nname: -up\n---\n", "no frontmatter", b"\xff"])
def test_a_broken_file_without_valid_name_uses_its_file_name(
    content: str | bytes, tmp_path: Path
) -> None:
    found = load(tmp_path, content)
    assert isinstance(found, BrokenAgent)
    assert found.name == "reviewer"


@pytest.mark.parametrize("stem", ["-dash", "a:b", "a\nb", " "])
def test_an_invalid_file_name_needs_a_name_in_the_frontmatter(stem: str, tmp_path: Path) -> None:
    assert isinstance(load(tmp_path, "---\ndescription: x\n---\n", stem), BrokenAgent)
    assert isinstance(load(tmp_path, "---\nname: fine\n---\n", stem), ParsedDefinition)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("You review.", ":1: no frontmatter"),
        ("\n---\nname: a\n---\n", ":1: no frontmatter"),
        ("", ":1: no frontmatter"),
        ("---\nname: a\n", ":1: the frontmatter is not closed"),
        ("---\nname: a\nb c\n---\n", ":4: bad YAML"),
        ("---\nname: a\n---\n".encode("utf-16"), ":1: contains a NUL character"),
        ("---\nname: a\n---\nb\0\n", ":4: contains a NUL character"),
        ("x" * (MAX_FILE_BYTES + 1), ": larger than 1,048,576 bytes; shorten the file"),
    ],
)
def test_an_invalid_definition_file_gives_an_error_with_its_reason(
    content: str | bytes, said: str, tmp_path: Path
) -> None:
    assert fault(tmp_path, content).startswith(f"{tmp_path}/reviewer.md{said}")


def test_a_file_of_one_mebibyte_is_read(tmp_path: Path) -> None:
    front = "---\nname: a\n---\n"
    body = "x" * (MAX_FILE_BYTES - len(front))
    found = load(tmp_path, front + body)
    assert isinstance(found, ParsedDefinition)
    assert found.agent.prompt == body


def test_a_readme_without_frontmatter_is_no_definition(tmp_path: Path) -> None:
    assert load(tmp_path, "# How we write agents", "README") is None
    assert isinstance(load(tmp_path, "---\nname: a\n---\n", "README"), ParsedDefinition)


def test_a_missing_file_counts_as_no_definition(tmp_path: Path) -> None:
    assert load_definition(tmp_path / "gone.md") is None


def test_a_pipe_and_a_folder_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "folder.md").mkdir()
    for name in ("pipe", "folder"):
        found = load_definition(tmp_path / f"{name}.md")
        assert isinstance(found, BrokenAgent)
        assert "not a regular file" in str(found.error)


def test_an_unreadable_file_gives_an_error_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    found = load_definition(tmp_path / "a.md")
    assert isinstance(found, BrokenAgent)
    assert str(found.error) == f"{tmp_path}/a.md: cannot be read: Permission denied"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_do_not_change_the_fields(
    newline: str, mark: bytes, tmp_path: Path
) -> None:
    text = "---\nname: a\ndescription: when: b\n---\n\none  \n\ttwo\t\n\n"
    found = load(tmp_path, mark + text.replace("\n", newline).encode())
    assert isinstance(found, ParsedDefinition)
    assert (found.agent.description, found.agent.prompt) == (
        "when: b",
        f"one  {newline}\ttwo",
    )


def test_frontmatter_that_ends_inside_a_line_is_reported(tmp_path: Path) -> None:
    found = load(tmp_path, b"---\nname: a\ndescription: one --- two\ntools: Read\n---\nBody\n")
    assert isinstance(found, ParsedDefinition)
    assert (found.agent.description, found.agent.tools) == ("one", None)
    assert found.agent.prompt == "two\ntools: Read\n---\nBody"
    assert found.agent.ignored["frontmatter"].startswith(
        "it ends at the `---` inside line 3, as in"
    )
    broken = load(tmp_path, b'---\nname: a\ndescription: "one --- two"\n---\nBody\n')
    assert isinstance(broken, BrokenAgent)
    assert "it ends at the `---` inside line 3, as in Claude Code" in str(broken.error)


def test_unknown_keys_are_kept_and_cannot_be_changed(tmp_path: Path) -> None:
    extra = agent(tmp_path, "allowed-tools: [Read]\nmeta: {a: [1]}").extra
    assert extra == {"allowed-tools": ("Read",), "meta": {"a": (1,)}}
    assert isinstance(extra, MappingProxyType)
    assert isinstance(extra["meta"], MappingProxyType)


def test_an_agent_can_be_hashed_but_not_changed(tmp_path: Path) -> None:
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
    "worker_memory": "fast",
}
NOT_OF_THE_WORKER: dict[str, Any] = {
    "name": "other",
    "description": "other",
    "path": Path("other.md"),
    "skills": ("a",),
    "expertise": ("a",),
    "color": "red",
    "max_budget_usd": 2.0,
    "extra": {"a": 1},
    "ignored": {"a": "why"},
}


def test_the_fingerprint_changes_only_with_fields_that_shape_the_worker() -> None:
    plain = Agent(name="a", description="", prompt="p", path=Path("a.md"))
    same = {dataclasses.replace(plain, **{k: v}).fingerprint for k, v in NOT_OF_THE_WORKER.items()}
    assert same == {plain.fingerprint}
    changed = {dataclasses.replace(plain, **{k: v}).fingerprint for k, v in CHANGES.items()}
    assert len(changed | same) == len(CHANGES) + 1
    assert {field.name for field in dataclasses.fields(Agent)} == {*CHANGES, *NOT_OF_THE_WORKER}


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    plain = Agent(name="a", description="", prompt="p", path=Path("a.md"))
    assert plain.fingerprint == "378cbeae0f822602"
    assert dataclasses.replace(plain, tools=()).fingerprint != plain.fingerprint


@given(data=st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_a_definition_or_a_clear_error(data: bytes, tmp_path: Path) -> None:
    found = load(tmp_path, data)
    assert isinstance(found, ParsedDefinition | BrokenAgent)
