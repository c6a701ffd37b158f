"""`agent-pool run` with a fake pool: the output on stdout and stderr, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Self

import pytest
from click.testing import Result

from agent_pool import (
    AgentNotFound,
    AgentPoolError,
    Attachment,
    Ended,
    NoCredit,
    PoolTimeout,
    Queued,
    Retry,
    Settings,
    SpawnError,
    Started,
    Submitted,
    TaskEvent,
    TaskRequest,
    TaskResult,
    TaskTimeout,
    Text,
    ToolOutput,
    ToolUse,
    TurnLimitReached,
    Usage,
    WorkerDied,
)
from agent_pool.views.activity import describe_activity
from support.cli_runner import invoke
from support.fake_pool import make_result
from support.project import TempProject

EVENTS: list[TaskEvent] = [
    Submitted(TaskRequest("a", "Look."), agent="a"),
    Queued(2, agent="a"),
    Started("worker-1", 4711, 0.1, agent="a"),
    Text("I will look."),
    ToolUse("t1", "Bash", {"command": "git diff\n--stat"}),
    ToolOutput("t1", "two files", is_error=False),
    Retry(529, "overloaded", 1, 2.0),
    ToolUse("t2", "Read", {"file_path": "x.py"}),
    ToolOutput("t2", "no such file", is_error=True),
    Text("Fine."),
]


def result(text: str = "Fine.", *, is_error: bool = False, subtype: str = "success") -> TaskResult:
    return make_result(
        text,
        is_error=is_error,
        subtype=subtype,
        agent="a",
        waited=0.1,
        usage=Usage(1, 20, 300, 4000),
        cost_usd=0.0123,
        session_id="s",
        worker="worker-1",
    )


class FakeRunPool:
    """A pool that sends the events, and then the result or error in `end`."""

    end: TaskResult | Exception = result()
    settings: Settings
    asked: tuple[str, str, float | None] | None
    options: dict[str, Any]
    killed: int

    def __init__(self, settings: Settings, *, environ: None) -> None:
        FakeRunPool.settings, FakeRunPool.asked, FakeRunPool.killed = settings, None, 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def kill(self) -> None:
        FakeRunPool.killed += 1

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        timeout: float | None = None,
        schema: dict[str, Any] | None = None,
        on_permission: Callable[..., Any] | None = None,
        on_event: Callable[[TaskEvent], None] = lambda _: None,
        **options: Any,
    ) -> TaskResult:
        FakeRunPool.asked = (agent, task, timeout)
        FakeRunPool.options = options
        for event in EVENTS:
            on_event(event)
        if isinstance(FakeRunPool.end, Exception):
            raise FakeRunPool.end
        on_event(Ended(FakeRunPool.end))
        return FakeRunPool.end


@pytest.fixture
def run(here: TempProject, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs the command with the fake pool, whose task ends with `end`."""
    monkeypatch.setattr("agent_pool.AgentPool", FakeRunPool)

    def run(*args: str, end: TaskResult | Exception | None = None, **how: Any) -> Result:
        FakeRunPool.end = end or result()
        return invoke("run", *args, **how)

    return run


def test_the_answer_goes_to_stdout_and_progress_to_stderr(run: Callable[..., Result]) -> None:
    done = run("a", "Look.")
    assert (done.exit_code, done.stdout) == (0, "Fine.\n")
    assert done.stderr.splitlines() == [
        "  worker-1 (process 4711) has the task",
        "  “I will look.”",
        "  → Bash: git diff --stat",
        "  the API refused: 529 overloaded; again in 2.0 s",
        "  → Read: x.py",
        "  ← failed: no such file",
        "a: 1.5 s, 2 turns, 4,301 tokens sent (300 written to the cache, 4,000 read from it), "
        "20 received, $0.0123",
    ]


def test_each_event_is_described_as_the_current_activity() -> None:
    assert [describe_activity(event) for event in [*EVENTS, Ended(result())]] == [
        "waiting for a worker",
        "waiting for a worker, number 2 in the queue",
        "thinking",
        "I will look.",
        "Bash: git diff --stat",
        "thinking",
        "the API refused: 529 overloaded; again in 2.0 s",
        "Read: x.py",
        "thinking",
        "Fine.",
        "",
    ]
    assert describe_activity(Queued(1, starting=True)) == "starting a process"
    paused = describe_activity(Queued(1, paused=30.0))
    assert paused == "the API refused work, so no task is started for the next 30.0 s"
    unreachable = describe_activity(Retry(0, "connection refused", 1, 1.0))
    assert unreachable == "the API cannot be reached: connection refused; again in 1.0 s"


def test_the_quiet_option_prints_only_the_answer(run: Callable[..., Result]) -> None:
    done = run("a", "Look.", "--quiet")
    assert (done.stdout, done.stderr) == ("Fine.\n", "")


def test_the_json_option_prints_the_whole_result(run: Callable[..., Result]) -> None:
    done = run("a", "Look.", "--json")
    assert done.exit_code == 0
    expected = {**asdict(result()), "retryable": False, "advice": ""}
    assert json.loads(done.stdout) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("code", "partial", "message"),
    [
        ("no_credit", "", f"a failed (no_credit): It broke.\n{NoCredit.advice}\n"),
        (
            "turn_limit",
            "Found one.",
            f"a failed (turn_limit): It broke.\n{TurnLimitReached.advice}\n"
            "what the agent had said, not a complete answer:\nFound one.\n",
        ),
    ],
)
def test_an_error_reported_by_the_agent_gives_exit_code_1(
    run: Callable[..., Result], code: str, partial: str, message: str
) -> None:
    end = replace(result("It broke.", is_error=True), code=code, partial=partial)
    done = run("a", "Look.", "-q", end=end)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", message)
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
def test_a_pool_error_gives_one_message_and_its_exit_code(
    run: Callable[..., Result], error: AgentPoolError, code: int
) -> None:
    done = run("a", "Look.", "-q", end=error)
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", f"Error: {error}\n")
    done = run("a", "Look.", "--json", end=error)
    reported = json.loads(done.stdout)["error"]
    assert (done.exit_code, reported) == (code, error.as_json())
    assert str(error).startswith(reported["message"])
    assert reported.get("stderr_tail", "") in str(error)
    assert FakeRunPool.killed == 1


def test_the_task_can_be_read_from_standard_input(run: Callable[..., Result]) -> None:
    text = "Über Zeilen:\n\ufeff/clear\n"
    assert run("a", "-", stdin=b"\xef\xbb\xbf" + text.encode()).exit_code == 0
    assert FakeRunPool.asked == ("a", text, None)


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
        (("a", "x", "--budget", "0"), b"", "Invalid value for '--budget': 0.0 is not"),
        (("a", "x", "--max-tokens", "0"), b"", "Invalid value for '--max-tokens': 0 is not"),
        (("a", "x", "--attach", "no.png"), b"", "attachment no.png: cannot be read"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(
    run: Callable[..., Result], args: tuple[str, ...], stdin: bytes, problem: str
) -> None:
    done = run(*args, stdin=stdin)
    assert (done.exit_code, done.stdout) == (2, "")
    assert problem in done.stderr


def test_budgets_and_files_of_the_command_reach_the_pool(
    run: Callable[..., Result], here: TempProject
) -> None:
    for name in ("a.txt", "b.txt"):
        (here.root / name).write_text(f"words of {name}")
    limits = ("--budget", "0.5", "--max-tokens", "1000")
    done = run("a", "Look.", *limits, "--attach", "a.txt", "--attach", "b.txt")
    assert done.exit_code == 0, done.stderr
    assert FakeRunPool.options == {
        "max_budget_usd": 0.5,
        "max_tokens": 1000,
        "attachments": tuple(
            Attachment("text/plain", f"words of {name}", name) for name in ("a.txt", "b.txt")
        ),
    }
    assert run("a", "Look.").exit_code == 0
    assert FakeRunPool.options == {}


def test_a_task_can_begin_with_a_dash_after_two_dashes(run: Callable[..., Result]) -> None:
    assert run("a", "--", "--help").exit_code == 0
    assert FakeRunPool.asked == ("a", "--help", None)


@pytest.mark.parametrize(
    ("args", "task", "timeout"),
    [
        (("a", "- fix this"), "- fix this", None),
        (("a", "--help me", "--timeout", "5s", "-q"), "--help me", 5.0),
        (("--timeout", "5s", "a", "-1 is wrong"), "-1 is wrong", 5.0),
        (("a", "-q", "--", "- fix --this"), "- fix --this", None),
        (("a", "--timeout=5 s", "x y"), "x y", 5.0),
    ],
)
def test_a_task_of_several_words_can_begin_with_a_dash(
    run: Callable[..., Result], args: tuple[str, ...], task: str, timeout: float | None
) -> None:
    done = run(*args)
    assert (done.exit_code, FakeRunPool.asked) == (0, ("a", task, timeout)), done.stderr


def test_a_mistyped_option_is_no_task_and_gets_a_suggestion(run: Callable[..., Result]) -> None:
    done = run("a", "--quite")
    assert done.exit_code == 2
    assert "No such option" in done.stderr
    assert "--quiet" in done.stderr
    assert "A task that begins with a dash comes after --." in done.stderr


def test_the_timeout_option_accepts_a_unit_of_time(run: Callable[..., Result]) -> None:
    run("a", "x", "--timeout", "2m")
    assert FakeRunPool.asked == ("a", "x", 120.0)


def test_a_single_task_runs_without_spares_and_without_prewarming(
    run: Callable[..., Result],
) -> None:
    run("a", "x")
    assert (FakeRunPool.settings.spares, FakeRunPool.settings.prewarm) == (0, ())
