"""Every reset is checked, and every answer is the task's own, whatever the CLI says.

The CLI of these tests lies; see `liar`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_pool import TaskTimeout
from isolation.lab import Gate, Lab, Said, flat
from isolation.liar import NOTICE, install
from pool_world import is_alive, until

LabOf = Callable[..., Lab]


@pytest.fixture
def lab_of(labs: Callable[..., Lab], tmp_path: Path) -> LabOf:
    """Opens a pool on a CLI that tells these lies."""

    def open_lab(*lies: str, version: str = "", **settings: object) -> Lab:
        hasty = {"reset_timeout": 0.5, "stop_grace": 0.3, "kill_grace": 0.3, "max_size": 1}
        version = version or ("2.1.197" if "unstamped" in lies else "2.1.330")
        cli = install(tmp_path / "liar", *lies, version=version)
        return labs(cli=cli, **{**hasty, **settings})

    return open_lab


def test_an_honest_cli_is_believed_and_reused(lab_of: LabOf) -> None:
    lab = lab_of()

    async def main() -> None:
        answers = [await lab.ask(lab.plan(f"answer {n}")) for n in range(4)]
        assert [one.text for one in answers] == [f"answer {n}" for n in range(4)]
        assert len({one.pid for one in answers}) == 1
        await lab.settled()
        assert lab.pool.stats().resets == 4

    lab.run(main())


def test_a_cli_that_stamps_nothing_gives_every_task_its_own_answer_too(lab_of: LabOf) -> None:
    lab = lab_of("unstamped")

    async def main() -> None:
        answers = [await lab.ask(lab.plan(f"answer {n}")) for n in range(4)]
        assert [one.text for one in answers] == [f"answer {n}" for n in range(4)]

    lab.run(main())


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("same-session", "/clear kept the session id"),
        ("text", "/clear was answered with text: 'All clear now!'"),
        ("error", "/clear failed: error_during_execution"),
        ("other-command", "/clear was taken for 'help'"),
        ("unannounced", "/clear was not announced by conversation_reset"),
        ("silent", "no reset within 0.5 s"),
        ("twice", "a result came that nobody had asked for"),
        ("turn-after-clear", "a turn started by itself"),
        ("model", "its model changed"),
        ("mode", "its permissionMode changed"),
        ("cwd", "its cwd changed"),
    ],
)
def test_a_worker_that_answers_the_reset_otherwise_is_replaced_and_it_is_said_why(
    lab_of: LabOf, lie: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lab = lab_of(lie)

    async def main() -> None:
        first = await lab.ask(lab.plan("the first"))
        await until(lambda: not is_alive(first.pid))
        second = await lab.ask(lab.plan("the second"))
        assert (first.text, second.text) == ("the first", "the second")
        assert lab.pool.stats().retired["tainted"] >= 1
        assert said in caplog.text

    lab.run(main())


def test_a_worker_that_dies_of_the_reset_is_replaced(lab_of: LabOf) -> None:
    lab = lab_of("dies")

    async def main() -> None:
        first = await lab.ask(lab.plan("the first"))
        second = await lab.ask(lab.plan("the second"))
        assert (first.text, second.text) == ("the first", "the second")
        assert first.pid != second.pid

    lab.run(main())


@pytest.mark.parametrize("version", [(), ("unstamped",)])
@pytest.mark.parametrize("lie", ["turn-after-clear", "turn-across-clear", "turn-after"])
def test_a_turn_that_starts_by_itself_is_no_tasks_answer_and_ends_the_worker(
    lab_of: LabOf, lie: str, version: tuple[str, ...]
) -> None:
    lab = lab_of(lie, *version)

    async def main() -> None:
        tasks = [asyncio.create_task(lab.ask(lab.plan(f"answer {n}"))) for n in range(4)]
        answers = [await task for task in tasks]
        assert [one.text for one in answers] == [f"answer {n}" for n in range(4)]
        await lab.settled()
        for one in answers:
            await until(lambda pid=one.pid: not is_alive(pid))  # type: ignore[misc]

    lab.run(main())


@pytest.mark.parametrize("lie", ["turn-before", "stranger"])
def test_an_answer_to_something_else_is_counted_and_not_delivered(lab_of: LabOf, lie: str) -> None:
    lab = lab_of(lie)

    async def main() -> None:
        heard: list[object] = []
        one = await lab.ask(lab.plan("my own"), on_event=heard.append)
        assert one.text == "my own"
        assert NOTICE not in str(heard)
        await until(lambda: not is_alive(one.pid))
        stats = lab.pool.stats()
        assert stats.strays == 1
        assert stats.retired == {"tainted": 1}

    lab.run(main())


def test_a_task_whose_result_says_of_no_task_that_it_is_its_own_ends_with_that_said(
    lab_of: LabOf,
) -> None:
    lab = lab_of("unstamped", version="2.1.330", reset="clear")

    async def main() -> None:
        with pytest.raises(TaskTimeout, match="a result came that nobody had asked for"):
            await lab.ask(lab.plan("unheard"), timeout=1)

    lab.run(main())


def test_without_stamps_two_results_for_one_task_end_the_worker(lab_of: LabOf) -> None:
    lab = lab_of("turn-after", "unstamped")

    async def main() -> None:
        first = await lab.ask(lab.plan("the first"))
        second = await lab.ask(lab.plan("the second"))
        assert (first.text, second.text) == ("the first", "the second")
        await until(lambda: not is_alive(first.pid))

    lab.run(main())


@pytest.mark.parametrize("version", [(), ("unstamped",)])
def test_a_cli_that_only_seems_to_forget_is_found_out_and_replaced_after_each_task(
    lab_of: LabOf, version: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    lab = lab_of("remembers", "canary", *version)

    async def main() -> None:
        canary = lab.word("canary")
        first = await lab.ask(lab.plan(f"I keep {canary}"))
        later = [await lab.ask(lab.plan("later")) for _ in range(3)]
        assert len({first.pid, *(one.pid for one in later)}) == 4
        assert all(canary not in flat(r) for one in later for r in one.requests)
        assert caplog.text.count("it sent the earlier conversation again") == 1

    lab.run(main())


def test_cleaning_up_after_one_worker_harms_no_other_whatever_their_names(lab_of: LabOf) -> None:
    lab = lab_of(max_size=11, max_workers=11, spawn_concurrency=4)

    async def main() -> None:
        gates = [Gate(f"answer {n}") for n in range(11)]
        asking = [asyncio.create_task(lab.ask(lab.plan(gate))) for gate in gates]
        await asyncio.gather(*(gate.reached.wait() for gate in gates))
        names = {worker.worker for worker in await lab.pool.list()}
        assert any(one != two and two.startswith(one) for one in names for two in names)
        for task, gate in zip(asking, gates, strict=True):
            gate.open()
            await asyncio.wait([task])
            await until(lambda: not lab.pool.stats().workers.get("resetting"))
        answers = await asyncio.gather(*asking, return_exceptions=True)
        told = [one.text if isinstance(one, Said) else str(one) for one in answers]
        assert told == [f"answer {n}" for n in range(11)]

    lab.run(main())
