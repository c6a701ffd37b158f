from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from agent_pool.agents import files as agent_files
from agent_pool.agents.files import signature_of
from agent_pool.errors import ConfigError
from agents.house import House, refusal


def test_an_edit_takes_effect_at_the_next_find(house: House) -> None:
    catalog = house.catalog()
    house.write("home/expertise/law.md", "first law")
    for body in ("one", "two", "six"):
        house.agent("a", "expertise: law", body)
        assert catalog.find("a").prompt.endswith(body)
    for law in ("law 1", "law 2"):
        house.write("home/expertise/law.md", law)
        assert law in catalog.find("a").prompt


def test_an_agent_that_comes_goes_or_is_shadowed_is_noticed(house: House) -> None:
    catalog = house.catalog()
    refusal(catalog, "a")
    house.agent("home/agents/a", "", "home")
    assert catalog.find("a").prompt == "home"
    path = house.agent("a", "", "project")
    assert catalog.find("a").prompt == "project"
    path.unlink()
    assert catalog.find("a").prompt == "home"


def test_a_skill_in_an_earlier_folder_takes_over(house: House) -> None:
    house.write("home/expertise/law.md", "home law")
    house.agent("a", "expertise: law")
    catalog = house.catalog()
    assert "home law" in catalog.find("a").prompt
    house.write("project/.claude/expertise/law.md", "project law")
    assert "project law" in catalog.find("a").prompt


@pytest.fixture
def much_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files look as if written long ago: their times cannot be set back, so the clock is ahead."""
    ahead = agent_files.time.time_ns() + 10**12
    monkeypatch.setattr(agent_files.time, "time_ns", lambda: ahead)


@pytest.mark.usefixtures("much_later")
def test_a_file_that_has_long_been_known_is_read_again_once_it_changes(house: House) -> None:
    house.write("home/expertise/law.md", "law")
    skill = house.write("home/skills/pdf/SKILL.md", "pdf")
    catalog = house.catalog()
    prompts = []
    for change in (
        lambda: house.agent("a", "expertise: law\nskills: pdf"),
        lambda: house.agent("a", "expertise: law\nskills: pdf", "new body"),
        lambda: house.write("home/expertise/law.md", "new law"),
        lambda: skill.write_text("new pdf"),
        lambda: skill.with_name("run.py").touch(),
    ):
        change()
        prompts.append(catalog.find("a").prompt)
        assert catalog.find("a").prompt == prompts[-1]
    assert len(set(prompts)) == len(prompts)


def test_times_size_and_inode_each_tell_an_edited_file_apart() -> None:
    fields = {"st_mtime_ns": 1, "st_ctime_ns": 2, "st_size": 3, "st_ino": 4}
    changed = [{**fields, field: 9} for field in fields]
    signatures = {signature_of(SimpleNamespace(**status)) for status in (fields, *changed)}  # type: ignore[arg-type]
    assert len(signatures) == 5


@pytest.mark.usefixtures("much_later")
def test_the_error_of_a_broken_definition_is_a_new_one_each_time(house: House) -> None:
    house.agent("a", "maxTurns: many")
    catalog = house.catalog()
    caught = []
    for _ in range(2):
        with pytest.raises(ConfigError) as found:
            catalog.find("a")
        caught.append(found.value)
    assert caught[0] is not caught[1]
    assert str(caught[0]) == str(caught[1])


@pytest.mark.usefixtures("much_later")
def test_an_unchanged_agent_is_neither_read_nor_parsed_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("home/expertise/law.md", "law")
    house.agent("a", "expertise: law")
    catalog = house.catalog()
    first = catalog.find("a")

    def unexpected(*_: object) -> int:
        raise AssertionError("opened again")

    monkeypatch.setattr(os, "open", unexpected)
    assert catalog.find("a") is first
    assert catalog.scan() == [first]
    assert catalog.find("a") is first


def test_what_was_written_a_moment_ago_is_read_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = house.agent("a", "", "one")
    status = path.stat()
    catalog = house.catalog()
    monkeypatch.setattr(agent_files, "signature_of", lambda _: (status.st_mtime_ns, 0, 0, 0))
    assert catalog.find("a").prompt == "one"
    house.agent("a", "", "two")
    assert catalog.find("a").prompt == "two"


def test_removed_files_are_forgotten(house: House) -> None:
    catalog = house.catalog()
    for number in range(5):
        path = house.agent(f"a{number}")
        catalog.scan()
        path.unlink()
    catalog.scan()
    assert catalog._parsed._made == {}
    assert catalog._composed == {}


def test_the_stamp_stays_while_nothing_changes(house: House) -> None:
    house.agent("a")
    catalog = house.catalog()
    stamp = catalog.stamp()
    catalog.find("a")
    assert catalog.stamp() == stamp == house.catalog().stamp()
    assert hash(stamp) == hash(catalog.stamp())


def test_the_stamp_changes_with_every_relevant_file(house: House) -> None:
    catalog = house.catalog()
    stamps = {catalog.stamp()}
    changes = [
        lambda: house.agent("a"),
        lambda: house.agent("a", "", "longer body"),
        lambda: house.agent("sub/b"),
        lambda: house.agent("home/agents/c"),
        lambda: house.write("home/skills/python/SKILL.md", "x"),
        lambda: house.write("home/skills/python/SKILL.md", "xy"),
        lambda: house.write("project/.claude/expertise/law.md", "x"),
        lambda: (house.project / ".claude" / "agents" / "a.md").unlink(),
        lambda: (house.home / "skills" / "python" / "SKILL.md").unlink(),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        stamps.add(catalog.stamp())
        assert len(stamps) == number


@pytest.mark.parametrize("replaced", [False, True])
def test_an_edit_within_one_tick_of_the_clock_is_noticed(house: House, replaced: bool) -> None:
    catalog = house.catalog()
    path = house.agent("a", "", "one")
    os.utime(path, ns=(1, 1))
    stamp = catalog.stamp()
    if replaced:
        other = house.agent("more/a", "", "two")
        other.replace(path)
    else:
        house.agent("a", "", "three")
    os.utime(path, ns=(1, 1))
    assert catalog.stamp() != stamp
    assert catalog.find("a").prompt == ("two" if replaced else "three")
