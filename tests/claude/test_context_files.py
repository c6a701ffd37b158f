"""The files that the CLI reads at the beginning of a conversation are seen to change."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent_pool.claude.context_files import ContextFiles, has_modules
from agent_pool.claude.launch import LaunchConfig


@pytest.fixture
def files(tmp_path: Path) -> ContextFiles:
    """Return the files of a launch in `tmp_path/outer/project` with the home `tmp_path/home`."""
    project = tmp_path / "outer" / "project"
    project.mkdir(parents=True)
    write(project / "CLAUDE.md", "one\n@notes/more.md and @~/own.md\n")
    write(project / "notes" / "more.md", "@deep.md")
    write(project / "notes" / "deep.md", "deep")
    env = {"HOME": str(tmp_path / "home")}
    return ContextFiles(LaunchConfig((), env, project, "", "", True, "2.1.332"))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "name",
    [
        *("outer/project/CLAUDE.md", "outer/project/CLAUDE.local.md", "outer/CLAUDE.md"),
        *("outer/project/.claude/CLAUDE.md", "outer/project/AGENTS.md", "home/.claude/CLAUDE.md"),
        *("outer/project/notes/more.md", "outer/project/notes/deep.md"),
        *("outer/project/.claude/rules/a/b.md", "home/.claude/rules/c.md"),
        *("outer/project/.claude/skills/s/SKILL.md", "home/.claude/skills/s/SKILL.md"),
        "outer/project/.claude/commands/c.md",
    ],
)
def test_an_edited_memory_file_changes_only_the_memory_stamp(
    files: ContextFiles, tmp_path: Path, name: str
) -> None:
    before = files.stamp()
    assert files.stamp() == before
    write(tmp_path / name, "another text")
    after = files.stamp()
    assert after.memory != before.memory
    assert after.settings == before.settings
    assert files.stamp() == after
    (tmp_path / name).unlink()
    assert files.stamp().memory != after.memory


@pytest.mark.parametrize(
    "name",
    [
        "outer/project/.claude/settings.json",
        "outer/project/.claude/settings.local.json",
        "home/.claude/settings.json",
    ],
)
def test_edited_settings_change_only_the_settings_stamp(
    files: ContextFiles, tmp_path: Path, name: str
) -> None:
    before = files.stamp()
    write(tmp_path / name, "{}")
    assert files.stamp().settings != before.settings
    assert files.stamp().memory == before.memory


def test_files_that_the_cli_does_not_read_change_nothing(
    files: ContextFiles, tmp_path: Path
) -> None:
    before = files.stamp()
    for name in ("outer/project/main.py", "outer/project/sub/CLAUDE.md", "home/.claude.json"):
        write(tmp_path / name, "x")
    assert files.stamp() == before


def test_imports_that_form_a_circle_are_followed_once(files: ContextFiles, tmp_path: Path) -> None:
    write(tmp_path / "outer" / "project" / "notes" / "deep.md", "@more.md @deep.md @../CLAUDE.md")
    assert files.stamp() == files.stamp()


@pytest.mark.parametrize("word", ["~nobody-of-this-name/x", "a\0b", "~", "/", "x" * 5000, "\udcff"])
def test_words_that_are_no_path_are_not_imported(
    files: ContextFiles, tmp_path: Path, word: str
) -> None:
    content = os.fsencode(f"@{word} and more")
    (tmp_path / "outer" / "project" / "CLAUDE.md").write_bytes(content)
    assert files.stamp() == files.stamp()


def test_a_pipe_or_a_device_is_never_read(files: ContextFiles, tmp_path: Path) -> None:
    project = tmp_path / "outer" / "project"
    os.mkfifo(project / "pipe")
    os.mkfifo(project / "CLAUDE.local.md")
    write(project / "CLAUDE.md", "@pipe @/dev/zero")
    assert files.stamp() == files.stamp()


def test_a_link_to_itself_in_a_folder_of_skills_is_ignored(
    files: ContextFiles, tmp_path: Path
) -> None:
    skills = tmp_path / "outer" / "project" / ".claude" / "skills"
    skills.mkdir(parents=True)
    (skills / "loop").symlink_to("loop")
    assert files.stamp() == files.stamp()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("hooks/hooks.json", {"modules": ["./m.js"]}, True),
        (".claude-plugin/plugin.json", {"hooks": {"modules": ["./m.js"]}}, True),
        ("hooks/hooks.json", {"hooks": {}}, False),
        ("hooks/hooks.json", ["modules"], False),
        (".claude-plugin/plugin.json", {"hooks": [{}, {"modules": ["./m.js"]}]}, True),
        (".claude-plugin/plugin.json", {"name": "modules"}, False),
    ],
)
def test_modules_of_a_plugin_are_found_in_its_files(
    tmp_path: Path, name: str, content: object, expected: bool
) -> None:
    write(tmp_path / name, json.dumps(content))
    assert has_modules(tmp_path) is expected


def test_modules_are_found_in_a_file_that_the_manifest_names(tmp_path: Path) -> None:
    write(tmp_path / ".claude-plugin/plugin.json", json.dumps({"hooks": "./other.json"}))
    write(tmp_path / "other.json", json.dumps({"modules": ["./m.js"]}))
    assert has_modules(tmp_path)
