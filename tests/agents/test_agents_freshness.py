from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from agent_pool.agents import files as agent_files
from agent_pool.agents.files import make_signature
from agent_pool.errors import ConfigError
from support.catalog_folders import CatalogFolders, find_error


def test_an_edit_takes_effect_at_the_next_find(catalog_folders: CatalogFolders) -> None:
    catalog = catalog_folders.catalog()
    catalog_folders.write("home/expertise/law.md", "first law")
    for body in ("one", "two", "six"):
        catalog_folders.agent("a", "expertise: law", body)
        assert catalog.find("a").prompt.endswith(body)
    for law in ("law 1", "law 2"):
        catalog_folders.write("home/expertise/law.md", law)
        assert law in catalog.find("a").prompt


def test_added_removed_and_shadowed_agents_are_noticed_at_next_find(
    catalog_folders: CatalogFolders,
) -> None:
    catalog = catalog_folders.catalog()
    find_error(catalog, "a")
    catalog_folders.agent("home/agents/a", "", "home")
    assert catalog.find("a").prompt == "home"
    path = catalog_folders.agent("a", "", "project")
    assert catalog.find("a").prompt == "project"
    path.unlink()
    assert catalog.find("a").prompt == "home"


def test_a_new_expertise_file_in_an_earlier_folder_wins(catalog_folders: CatalogFolders) -> None:
    catalog_folders.write("home/expertise/law.md", "home law")
    catalog_folders.agent("a", "expertise: law")
    catalog = catalog_folders.catalog()
    assert "home law" in catalog.find("a").prompt
    catalog_folders.write("project/.claude/expertise/law.md", "project law")
    assert "project law" in catalog.find("a").prompt


@pytest.fixture
def much_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files look as if written long ago: their times cannot be set back, so the clock is ahead."""
    ahead = time.time_ns() + 10**12
    monkeypatch.setattr("agent_pool.agents.files.time.time_ns", lambda: ahead)


@pytest.mark.usefixtures("much_later")
def test_a_cached_old_file_is_read_again_after_it_changes(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.write("home/expertise/law.md", "law")
    skill = catalog_folders.write("home/skills/pdf/SKILL.md", "pdf")
    catalog = catalog_folders.catalog()
    prompts = []
    for change in (
        lambda: catalog_folders.agent("a", "expertise: law\nskills: pdf"),
        lambda: catalog_folders.agent("a", "expertise: law\nskills: pdf", "new body"),
        lambda: catalog_folders.write("home/expertise/law.md", "new law"),
        lambda: skill.write_text("new pdf"),
        lambda: skill.with_name("run.py").touch(),
    ):
        change()
        prompts.append(catalog.find("a").prompt)
        assert catalog.find("a").prompt == prompts[-1]
    assert len(set(prompts)) == len(prompts)


def test_a_change_of_time_size_or_inode_changes_the_signature() -> None:
    fields = {"st_mtime_ns": 1, "st_ctime_ns": 2, "st_size": 3, "st_ino": 4}
    changed = [{**fields, field: 9} for field in fields]
    signatures = {make_signature(SimpleNamespace(**status)) for status in (fields, *changed)}  # type: ignore[arg-type]
    assert len(signatures) == 5


@pytest.mark.usefixtures("much_later")
def test_each_find_of_a_broken_definition_raises_a_new_error(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.agent("a", "permissionMode: none")
    catalog = catalog_folders.catalog()
    caught = []
    for _ in range(2):
        with pytest.raises(ConfigError) as found:
            catalog.find("a")
        caught.append(found.value)
    assert caught[0] is not caught[1]
    assert str(caught[0]) == str(caught[1])


@pytest.mark.usefixtures("much_later")
def test_an_unchanged_agent_is_neither_read_nor_parsed_again(
    catalog_folders: CatalogFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog_folders.write("home/expertise/law.md", "law")
    catalog_folders.agent("a", "expertise: law")
    catalog = catalog_folders.catalog()
    first = catalog.find("a")

    def unexpected(*_: object) -> int:
        raise AssertionError("opened again")

    monkeypatch.setattr(os, "open", unexpected)
    assert catalog.find("a") is first
    assert catalog.scan() == [first]
    assert catalog.find("a") is first


def test_a_file_written_a_moment_ago_is_read_again(
    catalog_folders: CatalogFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = catalog_folders.agent("a", "", "one")
    status = path.stat()
    catalog = catalog_folders.catalog()
    monkeypatch.setattr(agent_files, "make_signature", lambda _: (status.st_mtime_ns, 0, 0, 0))
    assert catalog.find("a").prompt == "one"
    catalog_folders.agent("a", "", "two")
    assert catalog.find("a").prompt == "two"


def test_removed_files_are_dropped_from_the_caches(catalog_folders: CatalogFolders) -> None:
    catalog = catalog_folders.catalog()
    for number in range(5):
        path = catalog_folders.agent(f"a{number}")
        catalog.scan()
        path.unlink()
    catalog.scan()
    assert catalog._definitions._values == {}
    assert catalog._composed == {}


def test_the_stamp_stays_the_same_while_files_are_unchanged(
    catalog_folders: CatalogFolders,
) -> None:
    catalog_folders.agent("a")
    catalog = catalog_folders.catalog()
    stamp = catalog.stamp()
    catalog.find("a")
    assert catalog.stamp() == stamp == catalog_folders.catalog().stamp()
    assert hash(stamp) == hash(catalog.stamp())


def test_the_stamp_changes_with_every_relevant_file(catalog_folders: CatalogFolders) -> None:
    catalog = catalog_folders.catalog()
    stamps = {catalog.stamp()}
    changes: list[Callable[[], object]] = [
        lambda: catalog_folders.agent("a"),
        lambda: catalog_folders.agent("a", "", "longer body"),
        lambda: catalog_folders.agent("sub/b"),
        lambda: catalog_folders.agent("home/agents/c"),
        lambda: catalog_folders.write("home/skills/python/SKILL.md", "x"),
        lambda: catalog_folders.write("home/skills/python/SKILL.md", "xy"),
        lambda: catalog_folders.write("project/.claude/expertise/law.md", "x"),
        lambda: (catalog_folders.project / ".claude" / "agents" / "a.md").unlink(),
        lambda: (catalog_folders.home / "skills" / "python" / "SKILL.md").unlink(),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        stamps.add(catalog.stamp())
        assert len(stamps) == number


@pytest.mark.parametrize("replaced", [False, True])
def test_an_edit_within_one_tick_of_the_clock_is_noticed(
    catalog_folders: CatalogFolders, replaced: bool
) -> None:
    catalog = catalog_folders.catalog()
    path = catalog_folders.agent("a", "", "one")
    os.utime(path, ns=(1, 1))
    stamp = catalog.stamp()
    if replaced:
        other = catalog_folders.agent("more/a", "", "two")
        other.replace(path)
    else:
        catalog_folders.agent("a", "", "three")
    os.utime(path, ns=(1, 1))
    assert catalog.stamp() != stamp
    assert catalog.find("a").prompt == ("two" if replaced else "three")
