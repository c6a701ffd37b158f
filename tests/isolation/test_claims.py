"""A spare belongs to no project until it is claimed for one, and to that one for ever."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_pool.loopback import ModelRequest
from support.model_scripts import as_text, bash
from support.pool_harness import PoolHarness, TaskOutcome
from support.variants import later

OpenHarness = Callable[..., PoolHarness]


def open_with_spare(open_harness: OpenHarness) -> PoolHarness:
    """Open a pool with one spare, whose binary is probed already."""
    harness = open_harness(spares=1)
    harness.run(harness.ask(harness.plan()))
    return harness


@pytest.fixture
def own_harness(open_harness: OpenHarness) -> PoolHarness:
    """Open such a pool for a test that changes what its spares are."""
    return open_with_spare(open_harness)


@pytest.fixture(scope="module")
def shared_harness(open_harness: OpenHarness) -> PoolHarness:
    """Open such a pool for tests with ordinary projects."""
    return open_with_spare(open_harness)


@pytest.fixture
def harness(shared_harness: PoolHarness) -> Iterator[PoolHarness]:
    """Return the shared pool; stop the workers of all projects after the test."""
    yield shared_harness

    async def stop_workers() -> None:
        pool = shared_harness.pool
        used = {worker.project for worker in await pool.workers() if worker.agent == "worker"}
        for project in used:
            await pool.reset("worker", project=project)

    shared_harness.run(stop_workers())


def make_project(harness: PoolHarness, kind: str, **settings: object) -> Path:
    """Make a project with an agent, a CLAUDE.md and settings of its own; return its folder."""
    name = harness.word(kind)
    folder = harness.project.root.parent / name
    (folder / ".claude" / "agents").mkdir(parents=True)
    (folder / "CLAUDE.md").write_text(f"The memory of {name}.\n")
    definition = "---\nname: worker\ndescription: d\ntools: Bash\n---\n"
    (folder / ".claude" / "agents" / "worker.md").write_text(f"{definition}You work for {name}.\n")
    if settings:
        (folder / ".claude" / "settings.json").write_text(json.dumps(settings))
    return folder


async def ask(harness: PoolHarness, folder: Path, *steps: object) -> TaskOutcome:
    return await harness.ask(harness.plan(*steps), agent="worker", project=str(folder))


def memories(request: ModelRequest) -> set[str]:
    return set(re.findall(r"The memory of ([\w-]+)\.", as_text(request)))


def test_a_spare_serves_the_project_that_needs_it_first(harness: PoolHarness) -> None:
    one, two = make_project(harness, "one"), make_project(harness, "two")

    async def main() -> None:
        for folder in (one, two):
            spare = await harness.parked_spare()
            assert spare.project == ""
            outcome = await ask(harness, folder, bash("pwd"))
            assert outcome.pid == spare.pid
            assert outcome.text == f"tool: {folder}"
            (first, *_) = outcome.requests
            assert memories(first) == {folder.name}
            assert f"You work for {folder.name}." in first.system_text
        again = await ask(harness, one, bash("pwd"))
        assert again.text == f"tool: {one}"

    harness.run(main())


def test_agents_of_several_projects_in_turn_share_nothing(open_harness: OpenHarness) -> None:
    harness = open_harness(spares=1, max_workers=3)
    folders = [make_project(harness, name) for name in ("one", "two")]
    for folder in folders:
        text = (
            f"---\nname: other\ndescription: d\ntools: Read, Bash\n---\nOther of {folder.name}.\n"
        )
        (folder / ".claude" / "agents" / "other.md").write_text(text)

    async def main() -> None:
        secrets: list[str] = []
        for turn in range(12):
            folder, agent = folders[turn % 2], ("worker", "other", "worker")[turn % 3]
            secret, name = harness.word("secret"), f"var_{turn}"
            steps = (bash(f"export {name}={secret}; pwd; env | grep -c var_ || true"), secret)
            outcome = await harness.ask(harness.plan(*steps), agent=agent, project=str(folder))
            assert outcome.text == secret
            (first, second) = outcome.requests
            assert memories(first) == {folder.name}
            prompt = (
                f"You work for {folder.name}." if agent == "worker" else f"Other of {folder.name}."
            )
            assert prompt in first.system_text
            assert not any(word in as_text(first) for word in secrets)
            assert f"{folder}\\n1" in as_text(second)
            assert ("Read" in first.tools) == (agent == "other")
            secrets.append(secret)
        assert len(await harness.pool.workers()) <= 3

    harness.run(main())


def test_a_claimed_spare_reads_memory_files_as_they_are_then(harness: PoolHarness) -> None:
    one = make_project(harness, "one")
    user = harness.project.home / ".claude" / "CLAUDE.md"

    async def main() -> None:
        spare = await harness.parked_spare()
        (one / "CLAUDE.md").write_text("Edited in the project.\n")
        user.parent.mkdir(exist_ok=True)
        user.write_text("Edited for the user.\n")
        outcome = await ask(harness, one)
        assert outcome.pid == spare.pid
        assert "Edited in the project." in as_text(outcome.requests[0])
        assert "Edited for the user." in as_text(outcome.requests[0])

    try:
        harness.run(main())
    finally:
        user.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"env": {"PROJECT_WORD": "set"}},
        later({"model": "opus"}),
        later({"agent": "worker"}),
    ],
)
def test_a_project_with_settings_for_the_start_gets_a_process_of_its_own(
    own_harness: PoolHarness, settings: dict[str, object]
) -> None:
    one, two = make_project(own_harness, "one", **settings), make_project(own_harness, "two")

    async def main() -> None:
        spare = await own_harness.parked_spare()
        outcome = await ask(own_harness, one, bash("echo word: $PROJECT_WORD"))
        assert outcome.pid != spare.pid
        assert outcome.text == ("tool: word: set" if "env" in settings else "tool: word:")
        other = await ask(own_harness, two, bash("echo word: $PROJECT_WORD"))
        assert other.text == "tool: word:"
        assert memories(other.requests[0]) == {two.name}

    own_harness.run(main())


@pytest.mark.long
def test_settings_of_the_user_edited_meanwhile_end_the_spare(own_harness: PoolHarness) -> None:
    one = make_project(own_harness, "one")
    user = own_harness.project.home / ".claude" / "settings.json"

    async def main() -> None:
        spare = await own_harness.parked_spare()
        user.parent.mkdir(exist_ok=True)
        user.write_text(json.dumps({"env": {"USER_WORD": "new"}}))
        outcome = await ask(own_harness, one, bash("echo word: $USER_WORD"))
        assert (outcome.text, outcome.pid == spare.pid) == ("tool: word: new", False)

    own_harness.run(main())


def test_no_trust_is_recorded_for_a_claimed_folder(harness: PoolHarness) -> None:
    one = make_project(harness, "one")
    harness.run(harness.parked_spare())
    harness.run(ask(harness, one))
    state = harness.project.home / ".claude" / ".claude.json"
    known = json.loads(state.read_text()) if state.exists() else {}
    assert not known.get("projects", {}).get(str(one), {}).get("hasTrustDialogAccepted")


@pytest.mark.long
def test_a_stopped_spare_costs_its_caller_no_start_timeout(open_harness: OpenHarness) -> None:
    harness = open_harness(spares=1, reset_timeout=1.5, start_timeout=600)
    one = make_project(harness, "one")

    async def main() -> None:
        await harness.ask(harness.plan())
        spare = await harness.parked_spare()
        assert spare.pid is not None
        os.kill(spare.pid, signal.SIGSTOP)
        outcome = await ask(harness, one, "done")
        assert (outcome.text, outcome.pid == spare.pid) == ("done", False)

    harness.run(main())
