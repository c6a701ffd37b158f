"""The reset probe runs once for a binary, its verdict is kept, and no task waits for it.

The binary of these tests is a script that notes the starts of probes, then becomes a CLI: the real
one where its verdict is looked at, else the fake one, which the probe trusts as well. The script
knows a probe's process by the environment, which lacks the mark of the test's other processes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_pool.claude.launch import LaunchConfig
from agent_pool.claude.reset_probe import ResetProbe, verdict_key
from agent_pool.claude.watchdog import Watchdog
from agent_pool.models import ResetVerdict
from agent_pool.settings import Settings
from support.environment import MARK, real_cli
from support.fake_cli import install_faulty
from support.model_scripts import Gate
from support.pool_harness import PoolHarness
from support.process_checks import is_alive
from support.waiting import wait_until


class Wrapper:
    """A CLI behind a script that notes the starts of probes."""

    def __init__(self, folder: Path, in_probe: str = "", cli: Path | None = None) -> None:
        folder.mkdir()
        cli = cli or install_faulty(folder / "fake")
        self.path = folder / "claude"
        self._starts = folder / "starts"
        # Each probe has a second process, which waits for its claim.
        note = f'case "$*" in *--await-claim*) ;; *) echo probe >> {self._starts};; esac'
        then = f"{note}; {in_probe or ':'}"
        self.path.write_text(
            f'#!/bin/sh\nif [ -z "${MARK}" ]; then {then}; fi\nexec "{cli}" "$@"\n'
        )
        self.path.chmod(0o755)

    def probes(self) -> int:
        """Return how many probes have begun."""
        return len(self._starts.read_text().splitlines()) if self._starts.exists() else 0


@pytest.fixture
def harness_on(tmp_path: Path) -> Iterator[Callable[..., PoolHarness]]:
    """Open harnesses on a binary, with a cache folder of the test's own."""
    opened: list[PoolHarness] = []

    def open_one(cli: Path, cache: Path = tmp_path / "cache", **settings: Any) -> PoolHarness:
        harness = PoolHarness(
            tmp_path / f"harness{len(opened)}", cache, cli=cli, **{"max_size": 1, **settings}
        )
        opened.append(harness)
        harness.open()
        return harness

    yield open_one
    for harness in opened:
        harness.close()
    assert [process for harness in opened for process in harness.project.processes()] == []


HarnessOn = Callable[..., PoolHarness]


async def three_tasks(harness: PoolHarness) -> list[int]:
    """Check the answers of three tasks; return the pids of the processes that gave them."""
    answers = [await harness.ask(harness.plan(f"answer {n}")) for n in range(3)]
    assert [one.text for one in answers] == [f"answer {n}" for n in range(3)]
    return [one.pid for one in answers]


def test_the_verdict_is_found_once_and_kept_for_all_pools(
    harness_on: HarnessOn, tmp_path: Path
) -> None:
    wrapper = Wrapper(tmp_path / "bin", cli=real_cli())
    for _ in range(2):
        harness = harness_on(wrapper.path)
        assert len(set(harness.run(three_tasks(harness)))) == 1
    assert wrapper.probes() == 1
    (kept,) = (tmp_path / "cache" / "agent-pool" / "verdicts").iterdir()
    assert '"forgets": true' in kept.read_text()


def test_a_kept_verdict_that_cannot_be_read_is_found_again(
    harness_on: HarnessOn, tmp_path: Path
) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    harness = harness_on(wrapper.path)
    harness.run(three_tasks(harness))
    (kept,) = (tmp_path / "cache" / "agent-pool" / "verdicts").iterdir()
    good = kept.read_text()
    kept.write_bytes(b'{"forgets": tr\xff')
    again = harness_on(wrapper.path)
    assert len(set(again.run(three_tasks(again)))) == 1
    assert wrapper.probes() == 2
    assert kept.read_text() == good


@pytest.mark.parametrize("fault", ["writable", "link", "folder", "number for a truth value"])
def test_a_verdict_that_others_can_have_written_is_not_believed(tmp_path: Path, fault: str) -> None:
    launch = LaunchConfig(("/bin/true",), {}, tmp_path, "", "", True, "2.1.332")
    probe = ResetProbe(Settings(), {"XDG_CACHE_HOME": str(tmp_path)}, Watchdog("unused"))
    verdict = ResetVerdict(True, True, "tried")
    probe._keep(verdict_key(launch), launch, verdict)
    assert probe.kept(launch) == verdict
    folder = tmp_path / "agent-pool" / "verdicts"
    (file,) = folder.iterdir()
    if fault == "writable":
        file.chmod(0o602)
    elif fault == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif fault == "folder":
        folder.chmod(0o770)
    else:
        file.write_text(file.read_text().replace('"forgets": true', '"forgets": 1'))
    assert probe.kept(launch) is None
    probe._keep(verdict_key(launch), launch, verdict)
    assert probe.kept(launch) == verdict


def test_an_unwritable_cache_folder_only_logs_a_warning(
    harness_on: HarnessOn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    harness = harness_on(Wrapper(tmp_path / "bin").path, cache=in_the_way)
    assert len(set(harness.run(three_tasks(harness)))) == 1
    assert caplog.text.count("cannot be kept") == 1


def test_another_binary_or_other_flags_are_tested_again(
    harness_on: HarnessOn, tmp_path: Path
) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    harness = harness_on(wrapper.path, max_size=2)
    harness.project.agent("other", maxTurns="9")

    async def main() -> None:
        await harness.ask("one")
        await harness.ask("two", agent="other")
        await harness.wait_until_idle()
        assert wrapper.probes() == 2
        wrapper.path.write_text(wrapper.path.read_text() + "# updated\n")
        await harness.ask("three")
        await harness.wait_until_idle()

    harness.run(main())
    again = harness_on(wrapper.path)
    again.run(three_tasks(again))
    assert wrapper.probes() == 3


def test_the_probe_does_not_delay_the_first_task(harness_on: HarnessOn, tmp_path: Path) -> None:
    go = tmp_path / "go"
    waits = f"while [ ! -e {go} ]; do sleep 0.02; done"
    wrapper = Wrapper(tmp_path / "bin", in_probe=waits)
    harness = harness_on(wrapper.path)

    async def main() -> None:
        gate = Gate("the first")
        asking = asyncio.create_task(harness.ask(harness.plan(gate)))
        await gate.reached.wait()
        await wait_until(lambda: wrapper.probes() == 1)
        gate.open()
        first = await asking
        assert first.text == "the first"
        assert not go.exists()
        go.touch()
        assert set(await three_tasks(harness)) == {first.pid}

    harness.run(main())


def test_each_task_gets_a_new_process_if_the_probe_fails(
    harness_on: HarnessOn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = harness_on(Wrapper(tmp_path / "bin", in_probe="echo broken >&2; exit 3").path)
    assert len(set(harness.run(three_tasks(harness)))) == 3
    assert caplog.text.count("cannot be trusted to reset") == 1
    assert not (tmp_path / "cache" / "agent-pool" / "verdicts").exists()


def test_a_verdict_from_a_temporary_fault_is_not_kept(
    harness_on: HarnessOn, tmp_path: Path
) -> None:
    cli = install_faulty(tmp_path / "bin", "silent", "canary")
    doubting = harness_on(cli, reset_timeout=0.2)
    assert len(set(doubting.run(three_tasks(doubting)))) == 3
    folder = tmp_path / "cache" / "agent-pool" / "verdicts"
    assert [kept.read_text() for kept in folder.glob("*")] == []


def test_a_binary_that_vanishes_is_not_logged_as_a_bug(
    harness_on: HarnessOn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    harness = harness_on(wrapper.path)

    async def main() -> None:
        gate = Gate("answered")
        asking = asyncio.create_task(harness.ask(harness.plan(gate)))
        await gate.reached.wait()
        wrapper.path.unlink()
        gate.open()
        assert (await asking).text == "answered"
        await harness.wait_until_idle()

    harness.run(main())
    bugs = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert bugs == []


def test_reset_by_clear_trusts_the_cli_without_a_probe(
    harness_on: HarnessOn, tmp_path: Path
) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    harness = harness_on(wrapper.path, reset="clear")
    assert len(set(harness.run(three_tasks(harness)))) == 1
    assert wrapper.probes() == 0


def test_reset_by_respawn_prepares_the_next_process_in_time(
    harness_on: HarnessOn, tmp_path: Path
) -> None:
    wrapper = Wrapper(tmp_path / "bin")
    harness = harness_on(wrapper.path, reset="respawn")

    async def main() -> None:
        pids: list[int] = []
        for number in range(3):
            gate = Gate(f"answer {number}")
            asking = asyncio.create_task(harness.ask(harness.plan(gate)))
            await gate.reached.wait()
            ready: list[int | None] = []
            async with asyncio.timeout(30):
                while not ready:
                    ready = [w.pid for w in await harness.pool.workers() if w.state == "idle"]
                    await asyncio.sleep(0.01)
            gate.open()
            answer = await asking
            assert answer.text == f"answer {number}"
            assert not pids or pids[-1] == answer.pid
            pids.append(int(ready[0] or 0))
            await wait_until(lambda pid=answer.pid: not is_alive(pid))  # type: ignore[misc]
        assert len(set(pids)) == 3

    harness.run(main())
    assert wrapper.probes() == 0
