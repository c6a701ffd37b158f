"""The commands of durable tasks, on a store with a pool without processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from agent_pool import (
    NoCredit,
    Settings,
    Started,
    TaskRequest,
    TaskResult,
    TaskTimeout,
    Text,
    ToolOutput,
    ToolUse,
    Usage,
)
from agent_pool.api import OnEvent
from agent_pool.runtime import DaemonAddress, config_scope, config_stamp
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.cli_runner import invoke
from support.fake_pool import FakePool, make_result
from support.pool_in_thread import PoolInThread
from support.project import TempProject


class ScriptedAgents:
    """Agents that do what their task says: ``wait …``, ``fail …``, ``late …``; others answer."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.open_gates: set[str] = set()
        self._gate: asyncio.Event | None = None

    async def run(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        self.running.append(task)
        emit(Started(f"{agent}-1", 4711, 0.1, agent=agent))
        emit(Text(f"I do {task}.", agent=agent))
        emit(ToolUse("t1", "Bash", {"command": "git diff"}, agent=agent))
        emit(ToolOutput("t1", "two files", is_error=False, agent=agent))
        if task.startswith("wait"):
            await self.gate().wait()
        if task.startswith("late"):
            raise TaskTimeout(f"agent {agent!r} took too long")
        if task.startswith("fail"):
            credit = "no credit"
            return make_result(
                credit, is_error=True, code="no_credit", partial="Half.", agent=agent
            )
        return make_result(f"did {task}", agent=agent, usage=Usage(1, 2, 3, 4), cost_usd=0.25)

    def gate(self) -> asyncio.Event:
        if self._gate is None:
            self._gate = asyncio.Event()
        return self._gate


class Tasks(PoolInThread):
    """A store in a thread, and agents that do what their tasks say."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.agents = ScriptedAgents()
        self.fake = FakePool(self.agents.run)
        store = folder / "tasks.db"
        super().__init__(
            lambda: DurablePool(
                self.fake, Store(store), Settings(project_dir=folder / "own", **settings)
            )
        )

    def submit(self, agent: str, task: str, **fields: Any) -> str:
        handle = self.call(self.pool.submit(TaskRequest(agent, task, **fields)))
        return str(handle.id)

    def ended(self, agent: str, task: str, **fields: Any) -> str:
        """Submit a task and wait for its end; return its id."""
        task_id = self.submit(agent, task, **fields)
        self.until(task_id, "succeeded", "failed", "cancelled")
        return task_id

    def until(self, task_id: str, *states: str) -> None:
        """Wait until a task is in one of these states."""

        async def wait() -> None:
            while (await self.pool.task(task_id)).state not in states:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        self.call(asyncio.wait_for(wait(), 30))

    def open_gate(self) -> None:
        self.loop.call_soon_threadsafe(self.agents.gate().set)

    def record(self, task_id: str) -> Any:
        return self.call(self.pool.task(task_id))


@pytest.fixture
def tasks(here: TempProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tasks]:
    """Return a store whose pool the commands use, as they do that of a daemon."""
    monkeypatch.delenv("AGENT_POOL_DAEMON")
    monkeypatch.setenv("AGENT_POOL_RUNTIME_DIR", str(tmp_path / "run"))
    with Tasks(tmp_path) as tasks:
        monkeypatch.setattr("agent_pool.connect", tasks.connect, raising=False)
        address = DaemonAddress(
            os.getpid(),
            "1",
            0.0,
            "",
            "",
            "",
            "",
            config_scope(os.environ),
            config_stamp(os.environ),
        )
        monkeypatch.setattr("agent_pool.cli.connect.find_daemon", lambda _: address)
        yield tasks
        tasks.open_gate()


# submit


def test_submit_prints_only_the_id_and_does_not_wait(tasks: Tasks) -> None:
    done = invoke("submit", "reviewer", "wait here")
    assert (done.exit_code, done.stderr) == (0, "")
    (record,) = tasks.call(tasks.pool.tasks())
    assert done.stdout == f"{record.id}\n"
    assert record.state in ("queued", "running")


def test_submit_passes_every_option_on_to_the_store(tasks: Tasks, tmp_path: Path) -> None:
    parent = tasks.submit("reviewer", "wait parent")
    done = invoke(
        *("submit", "reviewer", "-", "--timeout", "2m", "--model", "haiku", "--effort", "low"),
        *("--priority", "5", "--key", "k1", "--not-before", "1h", "--deadline", "2h", "--ask"),
        *("--idempotent", "--worktree", "--parent", parent, "--cwd", str(tmp_path), "--json"),
        *("--schema", '{"type": "object"}', "--permission-mode", "plan"),
        stdin=b"Do it.\n",
    )
    assert done.exit_code == 0, done.output
    request = json.loads(done.stdout)["request"]
    assert 3590 < request.pop("not_before") - tasks.record(parent).created < 3700
    assert 7190 < request.pop("deadline") - tasks.record(parent).created < 7300
    assert {
        name: value for name, value in request.items() if value not in (None, False, 0, [])
    } == {
        "agent": "reviewer",
        "task": "Do it.\n",
        "project": str(tmp_path),
        "timeout": 120.0,
        "schema": {"type": "object"},
        "model": "haiku",
        "effort": "low",
        "permission_mode": "plan",
        "isolation": "worktree",
        "priority": 5,
        "idempotency_key": "k1",
        "idempotent": True,
        "parent": parent,
        "asks": True,
    }


def test_a_second_submit_with_a_key_prints_the_same_id(tasks: Tasks) -> None:
    first, second = (invoke("submit", "reviewer", "Look.", "--key", "k") for _ in range(2))
    assert first.stdout == second.stdout
    assert len(tasks.call(tasks.pool.tasks())) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--not-before", "2h", "--deadline", "1h"), "could not begin"),
        (("--deadline", "2001-01-01"), "in the past"),
        (("--not-before", "soon"), "expected a time such as"),
        (("--parent", "nobody"), "nobody"),
    ],
    ids=["never", "past", "no time", "no parent"],
)
def test_submit_refuses_options_with_which_no_task_could_run(
    tasks: Tasks, arguments: tuple[str, ...], words: str
) -> None:
    done = invoke("submit", "reviewer", "Look.", *arguments)
    assert done.exit_code in (2, 3)
    assert words in done.stderr
    assert (done.stdout, tasks.call(tasks.pool.tasks())) == ("", [])


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "reviewer", "Look."),
        ("wait", "x"),
        ("tasks",),
        ("task", "x"),
        ("logs", "x"),
        ("answer", "x"),
        ("cancel", "x"),
        ("retry", "x"),
        ("warmup", "reviewer"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_durable_commands_say_that_they_need_the_daemon(
    here: TempProject, arguments: tuple[str, ...]
) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (3, "")
    assert "needs the daemon" in done.stderr
    assert "AGENT_POOL_DAEMON=off" in done.stderr


# wait


def test_wait_prints_the_answer_and_figures_as_run_does(tasks: Tasks) -> None:
    task_id = tasks.ended("reviewer", "Look.")
    done = invoke("wait", task_id)
    assert (done.exit_code, done.stdout) == (0, "did Look.\n")
    assert done.stderr.startswith("reviewer: 1.5 s, 2 turns")
    shown = json.loads(invoke("wait", task_id, "--json").stdout)
    assert (shown["text"], shown["task_id"]) == ("did Look.", task_id)


def test_wait_shows_the_progress_of_a_running_task(tasks: Tasks) -> None:
    task_id = tasks.submit("reviewer", "wait")
    tasks.until(task_id, "running")
    threading.Timer(0.3, tasks.open_gate).start()
    done = invoke("wait", task_id)
    assert (done.exit_code, done.stdout) == (0, "did wait\n")
    assert done.stderr.splitlines()[:3] == [
        "  reviewer-1 (process 4711) has the task",
        "  “I do wait.”",
        "  → Bash: git diff",
    ]


def test_wait_prints_several_answers_in_the_order_of_ids(tasks: Tasks) -> None:
    second, first = tasks.ended("reviewer", "two"), tasks.ended("reviewer", "one")
    done = invoke("wait", first, second, "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "did one\ndid two\n", "")
    shown = json.loads(invoke("wait", first, second, "--json", "-q").stdout)
    assert [one["text"] for one in shown] == ["did one", "did two"]


def test_the_first_failure_of_several_tasks_gives_the_exit_code(tasks: Tasks) -> None:
    ids = [tasks.ended("reviewer", task) for task in ("one", "late", "fail")]
    done = invoke("wait", *ids, "-q")
    assert (done.exit_code, done.stdout) == (124, "did one\n")
    assert "took too long" in done.stderr
    assert "reviewer failed (no_credit): no credit" in done.stderr
    assert "Half." in done.stderr
    assert invoke("wait", ids[2], "-q").exit_code == 1
    shown = json.loads(invoke("wait", *ids, "--json").stdout)
    assert [one.get("text") or one["error"]["code"] for one in shown] == [
        "did one",
        "task_timeout",
        "no credit",
    ]


def test_wait_gives_up_after_its_timeout_and_leaves_the_task(tasks: Tasks) -> None:
    done_id, task_id = tasks.ended("reviewer", "one"), tasks.submit("reviewer", "wait")
    tasks.until(task_id, "running")
    done = invoke("wait", done_id, task_id, "--timeout", "300ms", "-q")
    assert (done.exit_code, done.stdout) == (124, "did one\n")
    assert f"{task_id} has not ended within 300 ms (--timeout); it is running" in done.stderr
    assert tasks.record(task_id).state == "running"
    shown = json.loads(invoke("wait", task_id, "--timeout", "100ms", "--json").stdout)
    assert shown["error"]["code"] == "pool_timeout"


# ids


def test_a_unique_beginning_of_an_id_is_enough(tasks: Tasks) -> None:
    one, other = tasks.ended("reviewer", "one"), tasks.ended("writer", "other")
    assert invoke("wait", one[: len("reviewer") + 3], "-q").stdout == "did one\n"
    assert json.loads(invoke("task", "writer", "--json").stdout)["id"] == other


def test_a_beginning_of_several_ids_names_them_and_does_nothing(tasks: Tasks) -> None:
    ids = [tasks.submit("reviewer", f"wait {number}") for number in range(2)]
    done = invoke("cancel", "review")
    assert done.exit_code == 3
    assert all(one in done.stderr for one in ids)
    assert {tasks.record(one).state for one in ids} <= {"queued", "running"}


@pytest.mark.parametrize("command", ["wait", "task", "logs", "answer", "cancel", "retry"])
def test_an_unknown_id_gives_exit_code_3_and_names_it(tasks: Tasks, command: str) -> None:
    done = invoke(command, "nobody-1")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "nobody-1" in done.stderr
    empty = invoke(command, "")
    assert empty.exit_code == 3


# tasks


def listed(*arguments: str) -> list[dict[str, Any]]:
    done = invoke("tasks", "--json", *arguments)
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_tasks_that_wait_or_run_come_before_ended_ones(tasks: Tasks) -> None:
    running = [tasks.submit("reviewer", f"wait {number}") for number in range(2)]
    for one in running:
        tasks.until(one, "running")
    later = tasks.submit("reviewer", "later", not_before=4e9)
    ended = [tasks.ended("writer", f"task {number}") for number in range(3)]
    ids = [*reversed(running), later, *reversed(ended)]
    assert [one["id"] for one in listed()] == ids
    assert [one["id"] for one in listed("--limit", "4")] == ids[:4]
    assert [one["id"] for one in listed("--limit", "1")] == ids[:1]


def test_each_filter_of_tasks_leaves_out_the_others(tasks: Tasks, tmp_path: Path) -> None:
    good, bad = tasks.ended("reviewer", "one"), tasks.ended("writer", "fail", project=str(tmp_path))
    assert [one["id"] for one in listed("--state", "failed", "--state", "running")] == [bad]
    assert [one["id"] for one in listed("--agent", "reviewer")] == [good]
    assert [one["id"] for one in listed("--project", str(tmp_path))] == [bad]
    assert [one["id"] for one in listed("--text", "did one")] == [good]
    assert listed("--since", "1h") == listed()
    assert listed("--since", "2999-01-01") == []


def test_a_pipe_gets_a_line_with_tabs_for_each_task(tasks: Tasks, here: TempProject) -> None:
    task_id = tasks.ended("reviewer", "Look\nat\tit.")
    done = invoke("tasks")
    head, row = (line.split("\t") for line in done.stdout.splitlines())
    assert head[:4] == ["Task", "State", "Agent", "Project"]
    assert head[-2:] == ["Step", "Request"]
    assert row[:3] == [task_id, "succeeded", "reviewer"]
    assert row[6] == "$0.2500"
    assert row[-1] == "Look at it."
    assert done.stderr == "1 task\n"
    assert invoke("tasks", "--state", "failed").stdout == ""


# task and logs


def test_task_shows_request_steps_and_answer_whole(tasks: Tasks) -> None:
    text = "Look.\n" * 20
    task_id = tasks.ended("reviewer", text, model="haiku", env={"TOKEN": "s3cret"})
    done = invoke("task", task_id)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{task_id}\n  state: succeeded\n  agent: reviewer\n")
    assert "\n  model: haiku\n" in done.stdout
    assert "s3cret" not in done.stdout
    assert f"\nRequest\n{text}" in done.stdout
    assert '→ Bash\n    {\n      "command": "git diff"\n    }\n' in done.stdout
    assert "← output:\n    two files\n" in done.stdout
    assert "\nAnswer\ndid Look.\n" in done.stdout


def test_task_shows_why_a_task_failed_and_what_was_said(tasks: Tasks) -> None:
    shown = invoke("task", tasks.ended("reviewer", "fail")).stdout
    assert f"\nFailure (no_credit)\nno credit\n{NoCredit.advice}\n" in shown
    assert "\nWhat the agent had said, not a complete answer\nHalf.\n" in shown
    late = invoke("task", tasks.ended("reviewer", "late")).stdout
    assert "\nFailure (task_timeout)\nagent 'reviewer' took too long\n" in late


def test_the_json_of_a_task_has_its_record_and_events(tasks: Tasks) -> None:
    task_id = tasks.ended("reviewer", "Look.")
    shown = json.loads(invoke("task", task_id, "--json").stdout)
    events = shown.pop("events")
    assert shown == json.loads(json.dumps(tasks.record(task_id).as_json()))
    assert [one["type"] for one in events][-1] == "task.ended"
    assert [one["number"] for one in events] == sorted({one["number"] for one in events})


@pytest.mark.parametrize("command", ["task", "logs"])
def test_the_steps_of_a_running_task_are_shown_up_to_now(tasks: Tasks, command: str) -> None:
    task_id = tasks.submit("reviewer", "wait")
    tasks.until(task_id, "running")
    done = invoke(command, task_id)
    assert done.exit_code == 0
    assert "→ Bash" in done.stdout
    assert tasks.record(task_id).state == "running"


def test_logs_can_be_continued_after_any_line(tasks: Tasks) -> None:
    task_id = tasks.ended("reviewer", "Look.")
    whole = invoke("logs", task_id).stdout.splitlines()
    steps = [line.split("\t") for line in whole]
    assert [one[2] for one in steps if one[2].startswith(("→", "←", "“"))] == [
        "“I do Look..”",
        "→ Bash: git diff",
        "← two files",
    ]
    assert steps[-1][2].startswith("succeeded; reviewer: 1.5 s")
    for place, (number, *_) in enumerate(steps):
        assert invoke("logs", task_id, "--after", number).stdout.splitlines() == whole[place + 1 :]


def test_logs_follow_a_task_until_it_has_ended(tasks: Tasks) -> None:
    task_id = tasks.submit("reviewer", "wait")
    tasks.until(task_id, "running")
    threading.Timer(0.3, tasks.open_gate).start()
    done = invoke("logs", task_id, "--follow", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.exit_code, events[-1]["type"]) == (0, "task.ended")
    assert events[-1]["result"]["text"] == "did wait"


# cancel and retry


def test_cancel_ends_tasks_and_reports_those_that_had_ended(tasks: Tasks) -> None:
    running, ended = tasks.submit("reviewer", "wait"), tasks.ended("reviewer", "one")
    tasks.until(running, "running")
    done = invoke("cancel", running, ended)
    assert (done.exit_code, done.stdout) == (
        1,
        f"{running}: cancelled\n{ended}: had ended before: succeeded\n",
    )
    tasks.until(running, "cancelled")
    waiting = invoke("wait", running, "-q")
    assert (waiting.exit_code, waiting.stdout) == (1, "")
    assert "cancelled" in waiting.stderr


def test_an_unknown_id_among_others_cancels_no_task(tasks: Tasks) -> None:
    running = tasks.submit("reviewer", "wait")
    tasks.until(running, "running")
    assert invoke("cancel", running, "nobody-1").exit_code == 3
    assert tasks.record(running).state == "running"


def test_retry_queues_a_failed_task_with_its_id(tasks: Tasks) -> None:
    task_id = tasks.ended("reviewer", "fail")
    done = invoke("retry", task_id)
    assert (done.exit_code, done.stdout) == (0, f"{task_id}\n")
    tasks.until(task_id, "failed")
    assert tasks.agents.running == ["fail", "fail"]
    assert tasks.record(task_id).attempts == 2
    again = invoke("retry", tasks.ended("reviewer", "one"))
    assert (again.exit_code, again.stdout) == (3, "")


# answer


@pytest.fixture
def asking(tasks: Tasks) -> Callable[..., str]:
    """Return a function that submits a task which asks for these tools, and waits until it does."""
    tasks.fake._run_task = None

    def submit(*tools: str) -> str:
        tasks.fake.asks = tools
        task_id = tasks.submit("reviewer", "Look.", asks=True)
        tasks.until(task_id, "input_required")
        return task_id

    return submit


def test_a_question_is_shown_whole_and_comes_first(
    tasks: Tasks, asking: Callable[..., str]
) -> None:
    task_id = asking("Bash")
    tasks.submit("reviewer", "later", not_before=4e9)
    assert listed()[0]["id"] == task_id
    hint = f"{task_id} asks for permission to use Bash: agent-pool answer {task_id}\n"
    assert hint in invoke("tasks").stderr
    shown = invoke("answer", task_id)
    assert shown.exit_code == 0
    assert 'reviewer asks to use Bash:\n{\n  "for": "Look."\n}\n' in shown.stdout
    (question,) = json.loads(invoke("answer", task_id, "--json").stdout)
    assert question["request"]["tool"] == "Bash"
    assert invoke("answer", task_id, "--deny").exit_code == 0


@pytest.mark.parametrize(("choice", "permitted"), [("--allow", "['Bash']"), ("--deny", "[]")])
def test_an_answer_reaches_the_task_and_lets_it_go_on(
    tasks: Tasks, asking: Callable[..., str], choice: str, permitted: str
) -> None:
    task_id = asking("Bash")
    done = invoke("answer", task_id, choice)
    how = "allowed" if choice == "--allow" else "denied"
    assert (done.exit_code, done.stdout) == (0, f"Bash: {how}\n")
    assert invoke("wait", task_id, "-q").stdout == f"reviewer did Look., permitted {permitted}\n"
    late = invoke("answer", task_id, choice)
    assert late.exit_code == 1
    assert "has no open question; it is succeeded" in late.stderr


def test_a_reason_without_a_denial_is_a_usage_error(tasks: Tasks) -> None:
    assert invoke("answer", "x", "--allow", "--reason", "no").exit_code == 2


# warmup, reset, stats, run, batch


def test_warmup_and_reset_act_on_the_daemon(tasks: Tasks) -> None:
    done = invoke("warmup", "reviewer")
    assert (done.exit_code, done.stdout) == (
        0,
        "reviewer: reviewer-1 (process 4711) is ready, up 12.3 s, 181 MiB\n",
    )
    done = invoke("reset", "reviewer")
    assert (done.exit_code, done.stdout) == (0, "reviewer: 0 workers stopped\n")
    assert ("reset", "reviewer") in tasks.fake.calls
    assert ("warmup", "reviewer") in tasks.fake.calls


def test_reset_without_a_daemon_says_that_none_runs(here: TempProject) -> None:
    here.agent("one")
    done = invoke("reset", "one")
    assert (done.exit_code, done.stdout) == (0, "one: 0 workers stopped; no daemon runs\n")
    assert invoke("reset", "nobody").exit_code == 3


def test_run_uses_the_daemon_where_one_runs(tasks: Tasks) -> None:
    done = invoke("run", "reviewer", "Look.")
    assert (done.exit_code, done.stdout) == (0, "did Look.\n")
    assert [one["state"] for one in listed()] == ["succeeded"]


def test_run_starts_its_own_pool_for_other_settings(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_POOL_MAX_SIZE", "2")
    done = invoke("run", "nobody", "Look.")
    assert done.exit_code == 3
    assert (tasks.clients, tasks.fake.calls) == (0, [])


def test_a_batch_on_the_daemon_leaves_its_tasks_there(tasks: Tasks, here: TempProject) -> None:
    here.agent("reviewer")
    lines = here.root / "tasks.jsonl"
    lines.write_text(
        '{"agent": "reviewer", "task": "one"}\n{"agent": "reviewer", "task": "fail"}\n'
    )
    results = here.root / "results.jsonl"
    done = invoke("batch", str(lines), "--output", str(results))
    assert done.exit_code == 1
    assert "$0.2600" in done.stderr  # the cost of these two tasks
    assert len(results.read_text().splitlines()) == 2
    assert {one["request"]["task"]: one["state"] for one in listed()} == {
        "one": "succeeded",
        "fail": "failed",
    }
    invoke("batch", str(lines), "--output", str(results))
    assert tasks.agents.running.count("one") == 1
    assert tasks.agents.running.count("fail") == 2


def test_a_batch_with_conversations_does_not_use_the_daemon(
    tasks: Tasks, here: TempProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.agent("reviewer")
    own = FakePool()
    monkeypatch.setattr("agent_pool.AgentPool", lambda settings, environ: own)
    line = b'{"agent": "reviewer", "task": "one", "conversation": "c"}\n'
    done = invoke("batch", "-", stdin=line)
    assert done.exit_code == 0, done.output
    assert (tasks.clients, len(own.requests)) == (0, 1)


def test_stats_show_the_daemon_and_open_questions(tasks: Tasks, asking: Callable[..., str]) -> None:
    task_id = asking("Bash")
    done = invoke("stats")
    assert done.exit_code == 0
    assert done.stdout.startswith("1 task waiting for your permission: agent-pool tasks\n")
    assert f"agent-pool daemon, pid {os.getpid()}" in done.stdout
    shown = json.loads(invoke("stats", "--json").stdout)
    assert shown["daemon"] == {"pid": os.getpid(), "input_required": 1}
    invoke("answer", task_id, "--deny")


# Text of others

EVIL = "\x1b]0;owned\x07\x9b31m\u202eb\x08\u2066"
SHOWN = r"\x1b]0;owned\x07\x9b31m\u202eb\x08\u2066"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def test_no_command_prints_text_of_others_as_it_is(tasks: Tasks) -> None:
    fields = {"model": EVIL, "project": f"/srv/{EVIL}"}
    ids = [tasks.ended("reviewer", f"{kind}{EVIL}", **fields) for kind in ("do", "fail", "late")]
    runs = [invoke("tasks"), invoke("wait", "-q", *ids[1:]), invoke("wait", "--json", *ids)]
    for task_id in ids:
        runs += [
            invoke("task", task_id),
            invoke("logs", task_id),
            invoke("task", task_id, "--json"),
        ]
    runs += [invoke("cancel", EVIL), invoke("submit", "reviewer", "x", "--not-before", EVIL)]
    for done in runs:
        assert RAW.search(done.output) is None
    for done in runs[:1] + runs[3:5]:
        assert SHOWN in done.output
    # The answer itself is exact in a pipe, as that of `run` is.
    assert invoke("wait", ids[0], "-q").stdout == f"did do{EVIL}\n"
    assert json.loads(runs[2].stdout)[0]["text"] == f"did do{EVIL}"


def test_a_question_of_an_agent_is_shown_with_escapes(
    tasks: Tasks, asking: Callable[..., str]
) -> None:
    task_id = asking(f"Bash{EVIL}")
    shown = [invoke("answer", task_id), invoke("tasks"), invoke("task", task_id), invoke("stats")]
    shown.append(invoke("answer", task_id, "--allow"))
    assert [RAW.search(done.output) for done in shown] == [None] * 5
    assert all(SHOWN in done.output for done in (*shown[:3], shown[4]))


# completion


def complete(*words: str) -> Result:
    from click.testing import CliRunner

    from agent_pool.cli.app import cli

    environ = {
        "_AGENT_POOL_COMPLETE": "zsh_complete",
        "COMP_WORDS": " ".join(("agent-pool", *words)),
        "COMP_CWORD": str(len(words)),
    }
    return CliRunner(env=environ).invoke(cli, [], prog_name="agent-pool")


def test_ids_of_tasks_are_completed_while_a_daemon_runs(tasks: Tasks) -> None:
    one, _ = tasks.ended("reviewer", "Look\x1b."), tasks.ended("writer", "other")
    for command in ("wait", "task", "logs", "answer", "cancel", "retry"):
        done = complete(command, "rev")
        assert done.stdout.splitlines() == ["plain", one, r"succeeded: Look\x1b."], command


def test_no_id_is_completed_and_no_daemon_started_without_one(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.ended("reviewer", "Look.")
    monkeypatch.setattr("agent_pool.cli.connect.find_daemon", lambda _: None)
    assert complete("wait", "rev").stdout.strip() == ""
    assert tasks.clients == 0


def test_an_ended_task_is_listed_with_its_error_or_answer(tasks: Tasks) -> None:
    tasks.ended("reviewer", "do it")
    tasks.ended("reviewer", "fail now")
    rows = [line.split("\t") for line in invoke("tasks").stdout.splitlines()]
    listed = {row[-1]: row[-2] for row in rows}
    assert listed["do it"] == "did do it"
    assert "thinking" not in listed["fail now"]
    assert listed["fail now"] != ""
