import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool import (
    Ended,
    Queued,
    Retry,
    Started,
    Submitted,
    TaskEvent,
    TaskRequest,
    Text,
    ToolOutput,
    ToolUse,
)
from agent_pool.mcp.progress import WIDTH, Progress, progress_line
from support.fake_pool import make_result
from support.waiting import run


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Queued(3, agent="reviewer"), "reviewer waits for a worker, place 3 in the queue"),
        (Queued(1, agent="reviewer", starting=True), "reviewer: starting a process"),
        (Queued(1, starting=True, paused=9.0, reason="no", agent="a"), "a waits 9 s: no"),
        (Queued(1, paused=29.6, agent="reviewer"), "reviewer waits 30 s: the API has refused work"),
        (Started("worker-1", 4711, 0.0, agent="reviewer"), "reviewer has started on worker-1"),
        (Retry(529, "overloaded", 2, 4.2), "the API refused (HTTP 529); trying again in 4 s"),
        (Text("I will look\n\nat it."), "I will look at it."),
        (ToolUse("1", "Bash", {"command": "npm test", "description": "Run"}), "Bash: npm test"),
        (ToolUse("1", "Read", {"file_path": "src/x.py", "limit": 3}), "Read: src/x.py"),
        (ToolUse("1", "Agent", {"description": "find it", "prompt": "Find"}), "Agent: find it"),
        (ToolUse("1", "TodoWrite", {"todos": [{"content": "secret"}]}), "TodoWrite"),
        (ToolUse("1", "Odd", {"command": ["a"], "path": " "}), "Odd"),
        (Text(" \n "), None),
        (ToolOutput("1", "output", False), None),
        (Submitted(TaskRequest("reviewer", "look")), None),
        (Ended(result=make_result()), None),
    ],
)
def test_each_event_becomes_one_progress_line_or_no_line(
    event: TaskEvent, line: str | None
) -> None:
    assert progress_line(event) == line


@given(st.text(), st.text())
def test_progress_line_stays_short_for_any_event_text(name: str, value: str) -> None:
    for event in (Text(value), ToolUse("1", name, {"command": value}), Queued(1, agent=name)):
        line = progress_line(event)
        assert line is None or (len(line) <= WIDTH and "\n" not in line)


class Listener:
    """Keeps the lines that are sent, and lets a test wait for them."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str]] = []
        self._more = asyncio.Event()

    async def __call__(self, number: int, line: str) -> None:
        self.sent.append((number, line))
        self._more.set()

    async def until(self, enough: Callable[[], bool]) -> None:
        while not enough():
            self._more.clear()
            await self._more.wait()


def listening(test: Callable[[Progress, Listener], object], *, gap: float, beat: float) -> None:
    async def main() -> None:
        listener = Listener()
        progress = Progress(listener, gap=gap, beat=beat)
        running = asyncio.create_task(progress.run())
        await test(progress, listener)  # type: ignore[misc]
        running.cancel()

    run(main())


def test_only_the_latest_of_many_progress_lines_is_sent() -> None:
    async def test(progress: Progress, listener: Listener) -> None:
        for n in range(1000):
            progress.update(f"line {n}")
        await listener.until(lambda: len(listener.sent) == 1)
        assert listener.sent == [(1, "line 999")]

    listening(test, gap=0, beat=60)


def test_there_is_a_gap_between_two_progress_lines() -> None:
    async def test(progress: Progress, listener: Listener) -> None:
        progress.update("first")
        await listener.until(lambda: len(listener.sent) == 1)
        for n in range(50):
            progress.update(f"line {n}")
            await asyncio.sleep(0)
        assert len(listener.sent) == 1

    listening(test, gap=60, beat=60)


def test_last_progress_line_is_repeated_with_its_age_during_silence() -> None:
    async def test(progress: Progress, listener: Listener) -> None:
        progress.update("Bash: make")
        await listener.until(lambda: len(listener.sent) == 3)
        assert listener.sent == [
            (1, "Bash: make"),
            (2, "Bash: make (0 s)"),
            (3, "Bash: make (0 s)"),
        ]

    listening(test, gap=0, beat=0.001)


def test_progress_numbers_grow_with_every_line() -> None:
    async def test(progress: Progress, listener: Listener) -> None:
        for n in range(1, 20):
            progress.update(f"line {n}")
            await listener.until(lambda n=n: len(listener.sent) == n)  # type: ignore[misc]
        assert listener.sent == [(n, f"line {n}") for n in range(1, 20)]

    listening(test, gap=0, beat=60)
