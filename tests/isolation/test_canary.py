"""Whether a binary forgets is shown once, kept, and never in the way of a task; real CLI.

The binary of these tests is a script that notes each start, then becomes the real CLI. The canary's
own processes are told by what they lack: the mark that a test gives to all others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isolation.lab import Gate, Lab
from isolation.liar import install
from pool_world import MARK, is_alive, until
from support import real_cli


class Wrapper:
    """The real CLI behind a script that notes the starts of canaries."""

    def __init__(self, folder: Path, towards_canary: str = "") -> None:
        folder.mkdir()
        self.path = folder / "claude"
        self._starts = folder / "starts"
        then = f"echo canary >> {self._starts}; {towards_canary or ':'}"
        self.path.write_text(
            f'#!/bin/sh\nif [ -z "${MARK}" ]; then {then}; fi\nexec "{real_cli()}" "$@"\n'
        )
        self.path.chmod(0o755)

    def canaries(self) -> int:
        """How many processes a canary has started."""
        return len(self._starts.read_text().splitlines()) if self._starts.exists() else 0


@pytest.fixture
def lab_on(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Opens labs on a binary, with a cache folder of the test's own."""
    opened: list[Lab] = []

    def open_lab(cli: Path, cache: Path = tmp_path / "cache", **settings: Any) -> Lab:
        lab = Lab(tmp_path / f"lab{len(opened)}", cache, cli=cli, **{"max_size": 1, **settings})
        opened.append(lab)
        lab.open()
        return lab

    yield open_lab
    for lab in opened:
        lab.close()
    assert [process for lab in opened for process in lab.world.processes()] == []


LabOn = Callable[..., Lab]


async def three_tasks(lab: Lab) -> list[int]:
    """Their answers are right; returns the processes that gave them."""
    answers = [await lab.ask(lab.plan(f"answer {n}")) for n in range(3)]
    assert [one.text for one in answers] == [f"answer {n}" for n in range(3)]
    return [one.pid for one in answers]


def test_the_verdict_is_found_once_and_kept_for_all_pools(lab_on: LabOn, tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    for _ in range(2):
        lab = lab_on(wrapper.path)
        assert len(set(lab.run(three_tasks(lab)))) == 1
    assert wrapper.canaries() == 1
    (kept,) = (tmp_path / "cache" / "agent-pool" / "verdicts").iterdir()
    assert '"forgets": true' in kept.read_text()


def test_a_kept_verdict_that_cannot_be_read_is_found_again(lab_on: LabOn, tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    lab = lab_on(wrapper.path)
    lab.run(three_tasks(lab))
    (kept,) = (tmp_path / "cache" / "agent-pool" / "verdicts").iterdir()
    good = kept.read_text()
    kept.write_bytes(b'{"forgets": tr\xff')
    again = lab_on(wrapper.path)
    assert len(set(again.run(three_tasks(again)))) == 1
    assert wrapper.canaries() == 2
    assert kept.read_text() == good


def test_a_cache_folder_that_cannot_be_written_costs_a_warning_and_nothing_else(
    lab_on: LabOn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    lab = lab_on(Wrapper(tmp_path / "bin").path, cache=in_the_way)
    assert len(set(lab.run(three_tasks(lab)))) == 1
    assert caplog.text.count("cannot be kept") == 1


def test_another_binary_or_other_flags_are_looked_at_anew(lab_on: LabOn, tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    lab = lab_on(wrapper.path, max_size=2)
    lab.world.agent("other", tools="Read")

    async def main() -> None:
        await lab.ask("one")
        await lab.ask("two", agent="other")
        await lab.settled()
        assert wrapper.canaries() == 2
        wrapper.path.write_text(wrapper.path.read_text() + "# updated\n")
        await lab.ask("three")
        await lab.settled()

    lab.run(main())
    again = lab_on(wrapper.path)
    again.run(three_tasks(again))
    assert wrapper.canaries() == 3


def test_the_canary_does_not_delay_the_first_task(lab_on: LabOn, tmp_path: Path) -> None:
    go = tmp_path / "go"
    waits = f"while [ ! -e {go} ]; do sleep 0.02; done"
    wrapper = Wrapper(tmp_path / "bin", towards_canary=waits)
    lab = lab_on(wrapper.path)

    async def main() -> None:
        gate = Gate("the first")
        asking = asyncio.create_task(lab.ask(lab.plan(gate)))
        await gate.reached.wait()
        await until(lambda: wrapper.canaries() == 1)
        gate.open()
        first = await asking
        assert first.text == "the first"
        assert not go.exists()
        go.touch()
        assert set(await three_tasks(lab)) == {first.pid}

    lab.run(main())


def test_a_canary_that_cannot_run_is_said_once_and_each_task_gets_a_process(
    lab_on: LabOn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lab = lab_on(Wrapper(tmp_path / "bin", towards_canary="echo broken >&2; exit 3").path)
    assert len(set(lab.run(three_tasks(lab)))) == 3
    assert caplog.text.count("cannot be trusted to reset") == 1
    assert not (tmp_path / "cache" / "agent-pool" / "verdicts").exists()


def test_a_doubt_that_may_pass_is_not_kept(lab_on: LabOn, tmp_path: Path) -> None:
    cli = install(tmp_path / "bin", "silent", "canary")
    doubting = lab_on(cli, reset_timeout=0.2)
    assert len(set(doubting.run(three_tasks(doubting)))) == 3
    folder = tmp_path / "cache" / "agent-pool" / "verdicts"
    assert [kept.read_text() for kept in folder.glob("*")] == []


def test_a_binary_that_vanishes_is_an_error_of_that_binary_and_no_bug(
    lab_on: LabOn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    lab = lab_on(wrapper.path)

    async def main() -> None:
        gate = Gate("answered")
        asking = asyncio.create_task(lab.ask(lab.plan(gate)))
        await gate.reached.wait()
        wrapper.path.unlink()
        gate.open()
        assert (await asking).text == "answered"
        await lab.settled()

    lab.run(main())
    bugs = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert bugs == []


def test_reset_by_clear_trusts_without_asking(lab_on: LabOn, tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    lab = lab_on(wrapper.path, reset="clear")
    assert len(set(lab.run(three_tasks(lab)))) == 1
    assert wrapper.canaries() == 0


def test_reset_by_respawn_has_the_next_process_ready_before_it_is_needed(
    lab_on: LabOn, tmp_path: Path
) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    lab = lab_on(wrapper.path, reset="respawn")

    async def main() -> None:
        pids: list[int] = []
        for number in range(3):
            gate = Gate(f"answer {number}")
            asking = asyncio.create_task(lab.ask(lab.plan(gate)))
            await gate.reached.wait()
            ready: list[int | None] = []
            async with asyncio.timeout(30):
                while not ready:
                    ready = [w.pid for w in await lab.pool.list() if w.state == "idle"]
                    await asyncio.sleep(0.01)
            gate.open()
            answer = await asking
            assert answer.text == f"answer {number}"
            assert not pids or pids[-1] == answer.pid
            pids.append(int(ready[0] or 0))
            await until(lambda pid=answer.pid: not is_alive(pid))  # type: ignore[misc]
        assert len(set(pids)) == 3

    lab.run(main())
    assert wrapper.canaries() == 0
