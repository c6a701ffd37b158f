"""`agent-pool run`: what is printed where, and how it ends, with a pool that is only a stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

import pytest
from click.testing import Result

from agent_pool import (
    AgentNotFound,
    PoolTimeout,
    Queued,
    Retry,
    Settings,
    SpawnError,
    Started,
    TaskEvent,
    TaskResult,
    TaskTimeout,
    Text,
    ToolOutput,
    ToolUse,
    Usage,
    WorkerDied,
)
from cli_world import invoke
from support import Project

EVENTS: list[TaskEvent] = [
    Queued("a", 2),
    Started("a", "worker-1", 4711, 0.1),
    Text("I will look."),
    ToolUse("t1", "Bash", {"command": "git diff\n--stat"}),
    ToolOutput("t1", "two files", is_error=False),
    Retry(529, "overloaded", 1, 2.0),
    ToolUse("t2", "Read", {"file_path": "x.py"}),
    ToolOutput("t2", "no such file", is_error=True),
    Text("Fine."),
]


def result(text: str = "Fine.", *, is_error: bool = False, subtype: str = "success") -> TaskResult:
    return TaskResult(
        text=text,
        is_error=is_error,
        subtype=subtype,
        agent="a",
        duration=1.5,
        waited=0.1,
        turns=2,
        usage=Usage(1, 20, 300, 4000),
        cost_usd=0.0123,
        session_id="s",
        worker="worker-1",
        pid=4711,
    )


class StandIn:
    """A pool that plays the events and ends as it is told."""

    end: TaskResult | Exception = result()
    settings: Settings
    asked: tuple[str, str, float | None] | None
    killed: int

    def __init__(self, settings: Settings) -> None:
        StandIn.settings, StandIn.asked, StandIn.killed = settings, None, 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def kill(self) -> None:
        StandIn.killed += 1

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        timeout: float | None = None,
        schema: dict[str, Any] | None = None,
        on_event: Callable[[TaskEvent], None] = lambda _: None,
    ) -> TaskResult:
        StandIn.asked = (agent, task, timeout)
        for event in EVENTS:
            on_event(event)
        if isinstance(StandIn.end, Exception):
            raise StandIn.end
        return StandIn.end


@pytest.fixture
def run(here: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command against the stand-in, which ends as given."""
    monkeypatch.setattr("agent_pool.cli.run.AgentPool", StandIn)

    def run(*args: str, end: TaskResult | Exception | None = None, **how: Any) -> Result:
        StandIn.end = end or result()
        return invoke("run", *args, **how)

    return run


def test_the_answer_is_on_stdout_and_what_happened_on_stderr(run: Callable[..., Result]) -> None:
    done = run("a", "Look.")
    assert (done.exit_code, done.stdout) == (0, "Fine.\n")
    assert done.stderr.splitlines() == [
        "  worker-1 (process 4711) has the task",
        "  “I will look.”",
        "  → Bash: git diff --stat",
        "  the API refused: 529 overloaded; again in 2.0 s",
        "  → Read: x.py",
        "  ← failed: no such file",
        "a: 1.5 s, 2 turns, tokens 1 in, 20 out, 300 written to cache, 4,000 read from it, $0.0123",
    ]


def test_quiet_prints_the_answer_only(run: Callable[..., Result]) -> None:
    done = run("a", "Look.", "--quiet")
    assert (done.stdout, done.stderr) == ("Fine.\n", "")


def test_json_is_the_whole_result(run: Callable[..., Result]) -> None:
    done = run("a", "Look.", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == asdict(result())


@pytest.mark.parametrize(
    ("subtype", "told"),
    [
        ("success", "a reported an error: It broke.\n"),
        ("error_max_turns", "a reported an error (error_max_turns): It broke.\n"),
    ],
)
def test_an_error_that_the_agent_reports_is_no_answer(
    run: Callable[..., Result], subtype: str, told: str
) -> None:
    end = result("It broke.", is_error=True, subtype=subtype)
    done = run("a", "Look.", "-q", end=end)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", told)
    done = run("a", "Look.", "--json", end=end)
    assert (done.exit_code, json.loads(done.stdout)["is_error"]) == (1, True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AgentNotFound("no agent is called 'a'"), 3),
        (SpawnError("no CLI"), 3),
        (TaskTimeout("stopped after 5 s"), 124),
        (PoolTimeout("no worker within 5 s"), 124),
        (WorkerDied("killed by signal 9", stderr_tail="out of memory"), 1),
    ],
)
def test_an_error_of_the_pool_is_one_message(
    run: Callable[..., Result], error: Exception, code: int
) -> None:
    done = run("a", "Look.", "-q", end=error)
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", f"Error: {error}\n")
    done = run("a", "Look.", "--json", end=error)
    told = json.loads(done.stdout)["error"]
    assert (done.exit_code, told["message"]) == (code, str(error))
    assert StandIn.killed == 1


def test_the_task_may_come_from_stdin(run: Callable[..., Result]) -> None:
    text = "Über Zeilen:\n\ufeff/clear\n"
    assert run("a", "-", stdin=b"\xef\xbb\xbf" + text.encode()).exit_code == 0
    assert StandIn.asked == ("a", text, None)


@pytest.mark.parametrize(
    ("args", "stdin", "problem"),
    [
        (("a", ""), b"", "the task is empty"),
        (("a", " \n"), b"", "the task is empty"),
        (("a", "-"), b"", "the task is empty"),
        (("a", "-"), b"x\xff", "the task is not UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (("a", "x\udcff"), b"", "the task is not UTF-8: 'utf-8' codec can't encode"),
        (("a",), b"", "Missing argument 'TASK'"),
        (("a", "x", "--timeout", "soon"), b"", "'soon': expected a time above 0"),
        (("a", "x", "--timeout", "0"), b"", "'0': expected a time above 0"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(
    run: Callable[..., Result], args: tuple[str, ...], stdin: bytes, problem: str
) -> None:
    done = run(*args, stdin=stdin)
    assert (done.exit_code, done.stdout) == (2, "")
    assert problem in done.stderr


def test_a_task_may_begin_with_a_dash(run: Callable[..., Result]) -> None:
    assert run("a", "--", "--help").exit_code == 0
    assert StandIn.asked == ("a", "--help", None)


def test_the_timeout_takes_units(run: Callable[..., Result]) -> None:
    run("a", "x", "--timeout", "2m")
    assert StandIn.asked == ("a", "x", 120.0)


def test_nothing_is_kept_ready_for_a_single_task(run: Callable[..., Result]) -> None:
    run("a", "x")
    assert (StandIn.settings.spares, StandIn.settings.prewarm) == (0, ())
