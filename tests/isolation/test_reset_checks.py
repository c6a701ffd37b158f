"""Every reset is checked, and every task gets its own answer, even if the CLI misbehaves.

The CLI of these tests is the fake one with single faults; see `FAULTS` in `fake_cli`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_pool import RemoteProtocolError, TaskTimeout
from support.fake_cli import UNASKED_TEXT, install_faulty
from support.model_scripts import Gate, as_text
from support.pool_harness import PoolHarness, TaskOutcome
from support.pools import wait_for_stats
from support.process_checks import is_alive
from support.waiting import wait_until

HarnessWith = Callable[..., PoolHarness]


@pytest.fixture
def harness_with(open_harness: Callable[..., PoolHarness], tmp_path: Path) -> HarnessWith:
    """Open a pool on a CLI with these faults."""

    def open_one(*faults: str, version: str = "", **settings: object) -> PoolHarness:
        hasty = {"reset_timeout": 0.5, "stop_grace": 0.3, "kill_grace": 0.3, "max_size": 1}
        version = version or ("2.1.197" if "unstamped" in faults else "2.1.330")
        cli = install_faulty(tmp_path / "fake", *faults, version=version)
        return open_harness(cli=cli, **{**hasty, **settings})

    return open_one


def test_a_cli_that_resets_correctly_is_reused(harness_with: HarnessWith) -> None:
    harness = harness_with()

    async def main() -> None:
        answers = [await harness.ask(harness.plan(f"answer {n}")) for n in range(4)]
        assert [one.text for one in answers] == [f"answer {n}" for n in range(4)]
        assert len({one.pid for one in answers}) == 1
        await harness.wait_until_idle()
        assert (await harness.pool.stats()).resets == 4

    harness.run(main())


def test_a_cli_without_stamps_gives_each_task_its_own_answer(
    harness_with: HarnessWith,
) -> None:
    harness = harness_with("unstamped")

    async def main() -> None:
        answers = [await harness.ask(harness.plan(f"answer {n}")) for n in range(4)]
        assert [one.text for one in answers] == [f"answer {n}" for n in range(4)]

    harness.run(main())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("same-session", "/clear kept the session id"),
        ("text", "/clear was answered with text: 'All clear now!'"),
        ("error", "/clear failed: error_during_execution"),
        ("other-command", "/clear was taken for 'help'"),
        ("unannounced", "/clear was not announced by conversation_reset"),
        ("silent", "no reset within 0.5 s"),
        ("never-idle", "it was not idle 0.5 s after its turn"),
        ("twice", "a result came that no task had asked for"),
        ("turn-after-clear", "a turn started by itself"),
        ("model", "its model changed"),
        ("mode", "its permissionMode changed"),
        ("cwd", "its cwd changed"),
    ],
)
def test_a_wrong_reset_answer_is_logged_and_replaces_the_worker(
    harness_with: HarnessWith, fault: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # From 2.1.330 on such a turn fails at once, see below.
    harness = harness_with(fault, version="2.1.300" if fault in ("cwd", "mode") else "")

    async def main() -> None:
        first = await harness.ask(harness.plan("the first"))
        await wait_until(lambda: not is_alive(first.pid))
        second = await harness.ask(harness.plan("the second"))
        assert (first.text, second.text) == ("the first", "the second")
        assert (await harness.pool.stats()).retired["tainted"] >= 1
        assert reason in caplog.text

    harness.run(main())


def test_a_turn_in_another_folder_fails(harness_with: HarnessWith) -> None:
    harness = harness_with("cwd")

    async def main() -> None:
        with pytest.raises(RemoteProtocolError, match="it works in number 1; its answer was disc"):
            await harness.ask(harness.plan("an answer from elsewhere"))
        await wait_for_stats(harness.pool, lambda stats: stats.retired.get("tainted"))

    harness.run(main())


def test_a_worker_that_dies_during_the_reset_is_replaced(harness_with: HarnessWith) -> None:
    harness = harness_with("dies")

    async def main() -> None:
        first = await harness.ask(harness.plan("the first"))
        second = await harness.ask(harness.plan("the second"))
        assert (first.text, second.text) == ("the first", "the second")
        assert first.pid != second.pid

    harness.run(main())


@pytest.mark.parametrize("version", [(), ("unstamped",)])
@pytest.mark.parametrize("fault", ["turn-after-clear", "turn-across-clear", "turn-after"])
def test_a_turn_that_starts_by_itself_ends_the_worker(
    harness_with: HarnessWith, fault: str, version: tuple[str, ...]
) -> None:
    harness = harness_with(fault, *version)

    async def main() -> None:
        tasks = [asyncio.create_task(harness.ask(harness.plan(f"answer {n}"))) for n in range(4)]
        answers = [await task for task in tasks]
        assert [one.text for one in answers] == [f"answer {n}" for n in range(4)]
        await harness.wait_until_idle()
        for one in answers:
            await wait_until(lambda pid=one.pid: not is_alive(pid))  # type: ignore[misc]

    harness.run(main())


@pytest.mark.parametrize("fault", ["turn-before", "stranger"])
def test_a_stray_answer_is_counted_but_not_delivered(harness_with: HarnessWith, fault: str) -> None:
    harness = harness_with(fault)

    async def main() -> None:
        events: list[object] = []
        one = await harness.ask(harness.plan("my own"), on_event=events.append)
        assert one.text == "my own"
        assert UNASKED_TEXT not in str(events)
        await wait_until(lambda: not is_alive(one.pid))
        stats = await harness.pool.stats()
        assert stats.strays == 1
        assert stats.retired == {"tainted": 1}

    harness.run(main())


def test_a_timeout_names_an_unrequested_result_as_its_reason(
    harness_with: HarnessWith,
) -> None:
    harness = harness_with("unstamped", version="2.1.330", reset="clear")

    async def main() -> None:
        with pytest.raises(TaskTimeout, match="a result came that no task had asked for"):
            await harness.ask(harness.plan("unheard"), timeout=1)

    harness.run(main())


def test_two_unstamped_results_for_one_task_end_the_worker(harness_with: HarnessWith) -> None:
    harness = harness_with("turn-after", "unstamped")

    async def main() -> None:
        first = await harness.ask(harness.plan("the first"))
        second = await harness.ask(harness.plan("the second"))
        assert (first.text, second.text) == ("the first", "the second")
        await wait_until(lambda: not is_alive(first.pid))

    harness.run(main())


@pytest.mark.parametrize("version", [(), ("unstamped",)])
def test_a_cli_that_only_pretends_to_forget_is_replaced(
    harness_with: HarnessWith, version: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    harness = harness_with("remembers", "canary", *version)

    async def main() -> None:
        canary = harness.word("canary")
        first = await harness.ask(harness.plan(f"I keep {canary}"))
        later = [await harness.ask(harness.plan("later")) for _ in range(3)]
        assert len({first.pid, *(one.pid for one in later)}) == 4
        assert all(canary not in as_text(r) for one in later for r in one.requests)
        assert caplog.text.count("it sent the earlier conversation again") == 1

    harness.run(main())


def test_a_cli_that_only_pretends_to_rewind_is_cleared(harness_with: HarnessWith) -> None:
    harness = harness_with("rewinds", "canary")

    async def main() -> None:
        canaries = [harness.word("canary") for _ in range(3)]
        said = [await harness.ask(harness.plan(f"I keep {canary}")) for canary in canaries]
        for number, one in enumerate(said):
            assert all(c not in as_text(r) for r in one.requests for c in canaries[:number])
        assert len({one.pid for one in said}) == 1
        await harness.wait_until_idle()
        stats = await harness.pool.stats()
        assert (stats.resets, stats.rewinds) == (3, 0)

    harness.run(main())


@pytest.mark.parametrize(("faults", "rewinds"), [((), 3), (("dies-of-text",), 0)])
def test_a_failure_late_in_the_probe_keeps_what_was_proved(
    harness_with: HarnessWith, faults: tuple[str, ...], rewinds: int
) -> None:
    harness = harness_with("honest-rewinds", *faults, "canary", attribution=False)

    async def main() -> None:
        said = [await harness.ask(harness.plan(f"answer {n}")) for n in range(3)]
        assert [one.text for one in said] == [f"answer {n}" for n in range(3)]
        assert len({one.pid for one in said}) == 1
        await harness.wait_until_idle()
        stats = await harness.pool.stats()
        assert (stats.resets, stats.rewinds) == (3, rewinds)

    harness.run(main())


def test_cleaning_up_one_worker_harms_no_other_worker(
    harness_with: HarnessWith,
) -> None:
    harness = harness_with(max_size=11, max_workers=11, spawn_concurrency=4)

    async def main() -> None:
        gates = [Gate(f"answer {n}") for n in range(11)]
        asking = [asyncio.create_task(harness.ask(harness.plan(gate))) for gate in gates]
        await asyncio.gather(*(gate.reached.wait() for gate in gates))
        names = {worker.worker for worker in await harness.pool.workers()}
        assert any(one != two and two.startswith(one) for one in names for two in names)
        for task, gate in zip(asking, gates, strict=True):
            gate.open()
            await asyncio.wait([task])
            await wait_for_stats(harness.pool, lambda stats: not stats.workers.get("resetting"))
        answers = await asyncio.gather(*asking, return_exceptions=True)
        texts = [one.text if isinstance(one, TaskOutcome) else str(one) for one in answers]
        assert texts == [f"answer {n}" for n in range(11)]

    harness.run(main())
