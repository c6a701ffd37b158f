"""`agent-pool batch`: many tasks side by side, on the real CLI and the offline model."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agent_pool import TaskRequest, TaskResult, Usage, WorkerDied
from agent_pool.cli.batch.lines import BatchLine
from agent_pool.cli.batch.results import open_results
from agent_pool.loopback import (
    ErrorResponse,
    LoopbackAPI,
    ModelReply,
    ModelRequest,
    TextBlock,
    ToolUseBlock,
)
from support.cli_runner import agent_pool, command, invoke, invoke_in
from support.fake_pool import make_result
from support.project import TempProject
from support.variants import later

FEW: dict[str, Any] = {"AGENT_POOL_SPARES": "0", "AGENT_POOL_RESET": "clear"}
ONE_BY_ONE = {**FEW, "AGENT_POOL_MAX_SIZE": "1"}


class EchoModel:
    """Answers with the task itself; fails tasks that contain `fails`; keeps all tasks."""

    def __init__(self, fails: str = "\0") -> None:
        self.fails = fails
        self.asked: list[str] = []

    def __call__(self, request: ModelRequest) -> Any:
        task = request.last_user_text.strip()
        if request.is_side:
            return "side"
        if task not in self.asked:  # the CLI tries some failures again
            self.asked.append(task)
        return (
            ErrorResponse(400, message="no such thing") if self.fails in task else f"echo: {task}"
        )


@contextmanager
def offline(model: Callable[[ModelRequest], Any]) -> Iterator[str]:
    with LoopbackAPI(model).in_thread() as api:
        yield api.url


def lines(*calls: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps(call) for call in calls).encode()


def tasks(*texts: str, **more: Any) -> bytes:
    return lines(*[{"agent": "one", "task": text, **more} for text in texts])


def batch(
    project: TempProject, *args: str, given: bytes, url: str, **more: str
) -> subprocess.CompletedProcess[str]:
    (project.root / "in.jsonl").write_bytes(given)
    return invoke_in(project, "batch", "in.jsonl", *args, url=url, **{**FEW, **more})


def entries(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_without_a_cli_batch_reports_once_and_writes_no_file(project: TempProject) -> None:
    project.agent("one")
    missing = str(project.root / "missing")
    nowhere = "http://127.0.0.1:9"
    done = batch(project, "-o", "out.jsonl", given=tasks("a", "b"), url=nowhere, CLAUDE_CLI=missing)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count(missing) == 1
    assert not (project.root / "out.jsonl").exists()


def test_each_task_gives_one_line_and_failures_stop_no_other(project: TempProject) -> None:
    project.agent("one")
    project.agent("two")
    together = asyncio.Barrier(2)

    async def model(request: ModelRequest) -> Any:
        task = request.last_user_text.strip()
        if "meet" in task:
            await together.wait()
        return ModelReply(f"did {task}", delay=60 if task == "hang" else 0)

    given = lines(
        {"agent": "one", "task": "meet 1", "id": "first"},
        {"agent": "two", "task": "meet 2", "id": None},
        {"agent": "two", "task": "hang", "timeout": "400ms", "id": 3},
    )
    with offline(model) as url:
        done = agent_pool(project, "batch", "-", url=url, stdin=given + b"\n\n", **FEW)
    assert done.returncode == 1
    ended = {entry["line"]: entry for entry in entries(done.stdout)}
    assert [ended[line].get("id") for line in (1, 2, 3)] == ["first", None, 3]
    assert [ended[line]["agent"] for line in (1, 2, 3)] == ["one", "two", "two"]
    assert [ended[line]["result"]["text"] for line in (1, 2)] == ["did meet 1", "did meet 2"]
    names = {field.name for field in fields(TaskResult)} | {"retryable", "advice"}
    assert set(ended[1]["result"]) == names
    error = ended[3]["error"]
    assert (error["code"], error["retryable"]) == ("task_timeout", True)
    assert "400ms" not in error["message"]
    assert "after 0.4 s" in error["message"]
    *ends, summary = done.stderr.splitlines()
    assert [line.split()[0] for line in ends] == ["1/3", "2/3", "3/3"]
    assert sum("two: failed: the task of agent 'two'" in line for line in ends) == 1
    assert summary.startswith("3 tasks: 2 done, 1 failed; ")
    assert " tokens sent (" in summary
    assert "$0.0" in summary


@pytest.mark.long
def test_lines_can_attach_files_and_have_budgets(project: TempProject) -> None:
    project.agent("one")
    (project.root / "notes.txt").write_text("words of a file")

    def model(request: ModelRequest) -> Any:
        if "spend" in request.last_user_text and not request.tool_results:
            call = ToolUseBlock("Bash", {"command": "sleep 30", "description": "Tests."})
            return ModelReply(["I begin", call], usage={"output_tokens": 5000})
        return f"read: {'words of a file' in json.dumps(request.body)}"

    given = lines(
        {"agent": "one", "task": "read", "attach": ["notes.txt"]},
        {"agent": "one", "task": "read nothing", "max_budget_usd": 9},
        {"agent": "one", "task": "spend", "max_tokens": 1000},
    )
    with offline(model) as url:
        done = batch(project, given=given, url=url)
    assert done.returncode == 1, done.stderr
    results = {entry["line"]: entry["result"] for entry in entries(done.stdout)}
    assert [results[line]["text"] for line in (1, 2)] == ["read: True", "read: False"]
    assert (results[3]["code"], results[3]["partial"]) == ("budget_limit", "I begin")
    assert "words of a file" not in done.stdout + done.stderr


def test_a_blocked_task_of_a_batch_is_run_again(project: TempProject) -> None:
    project.agent("one")
    free = project.root / "free"
    block = f"test -e {free} || {{ touch {free}; echo not now >&2; exit 2; }}"
    hooks = {"UserPromptSubmit": [{"hooks": [{"type": "command", "command": block}]}]}
    settings = project.home / ".claude/settings.json"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(json.dumps({"hooks": hooks}))
    model = EchoModel(fails="\0")
    with offline(model) as url:
        first = batch(project, "-o", "out.jsonl", given=tasks("a"), url=url)
        assert (first.returncode, model.asked) == (1, [])
        second = batch(project, "-o", "out.jsonl", given=tasks("a"), url=url)
        assert (second.returncode, model.asked) == (0, ["a"])
    ended = entries((project.root / "out.jsonl").read_text())
    assert [entry["result"]["code"] for entry in ended] == ["prompt_blocked", ""]


def test_a_second_run_skips_tasks_that_have_succeeded(project: TempProject) -> None:
    project.agent("one")
    output = project.root / "out.jsonl"
    model = EchoModel(fails="b")
    given = tasks("a", "b", "c")
    with offline(model) as url:
        first = batch(project, "-o", "out.jsonl", given=given, url=url)
        assert (first.returncode, first.stdout) == (1, "")
        assert {
            entry["line"]: entry["result"]["is_error"] for entry in entries(output.read_text())
        } == {
            1: False,
            2: True,
            3: False,
        }
        model.fails = "\0"
        model.asked.clear()
        output.write_bytes(output.read_bytes() + b'{"line": 3, "agent": "one", "ca')
        second = batch(project, "-o", "out.jsonl", given=given + b"\n" + tasks("d"), url=url)
        assert (second.returncode, sorted(model.asked)) == (0, ["b", "d"])
    assert second.stderr.splitlines()[-1].startswith("4 tasks: 2 done before, 2 done, 0 failed; ")
    assert [entry["line"] for entry in entries(output.read_text())][-2:] in ([2, 4], [4, 2])
    kept = output.read_bytes()
    third = batch(project, "-o", "out.jsonl", "-q", given=given, url="http://127.0.0.1:9")
    assert third.returncode == 3  # line 4 is gone: the results are of another input
    again = batch(
        project, "-oout.jsonl", given=given + b"\n" + tasks("d"), url="http://127.0.0.1:9"
    )
    assert (again.returncode, output.read_bytes()) == (0, kept)


@pytest.mark.parametrize("number", [signal.SIGINT, later(signal.SIGTERM)])
def test_a_stopped_batch_keeps_finished_results_and_leaves_no_process(
    project: TempProject, number: signal.Signals
) -> None:
    project.agent("one")
    alive, output = project.root / "alive", project.root / "out.jsonl"
    os.mkfifo(alive)
    (project.root / "in.jsonl").write_bytes(tasks("a", "hold", "c"))

    def holding(request: ModelRequest) -> Any:
        if "hold" not in request.last_user_text or request.tool_results:
            return f"echo: {request.last_user_text.strip()}"
        hold = f"exec 9> '{alive}'; tail -f /dev/null"
        return [TextBlock("I wait."), ToolUseBlock("Bash", {"command": hold})]

    with LoopbackAPI(holding).in_thread() as api:
        running = subprocess.Popen(
            command("batch", "in.jsonl", "--output", "out.jsonl"),
            cwd=project.root,
            env=project.environment(api.url, **ONE_BY_ONE),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with alive.open("rb") as held:  # this waits until the agent's shell has opened it
            assert [entry["line"] for entry in entries(output.read_text())] == [1]  # at once
            running.send_signal(number)
            stdout, stderr = running.communicate(timeout=60)
            assert held.read() == b""  # the end: the process that held it open has ended
    assert (running.returncode, stdout) == (128 + number, b"")
    *_, summary, last = stderr.decode().splitlines()
    assert summary.startswith("3 tasks: 1 done, 0 failed, 2 not finished; ")
    assert f" {api.usage.total.usage.output_tokens} received, " in summary
    assert last == f"stopped by {number.name}"
    assert [entry["line"] for entry in entries(output.read_text())] == [1]

    if number is signal.SIGINT:
        model = EchoModel()
        with offline(model) as url:
            done = batch(
                project, "-o", "out.jsonl", given=tasks("a", "hold", "c"), url=url, **ONE_BY_ONE
            )
        assert (done.returncode, model.asked) == (0, ["hold", "c"])


@pytest.mark.long
def test_a_conversation_runs_in_order_and_is_repeated_completely(project: TempProject) -> None:
    project.agent("one")
    model = EchoModel(fails="y4")
    given = lines(
        *[{"agent": "one", "task": f"x{number}", "conversation": "x"} for number in (1, 2, 3)],
        *[{"agent": "one", "task": f"y{number}", "conversation": "y"} for number in (4, 5)],
    )
    bounds = {"AGENT_POOL_MAX_CONVERSATIONS": "1", "AGENT_POOL_MAX_WORKERS": "1"}
    with offline(model) as url:
        first = batch(project, "-o", "out.jsonl", given=given, url=url, **bounds)
        assert (first.returncode, model.asked) == (1, ["x1", "x2", "x3", "y4"])
        model.fails = "\0"
        model.asked.clear()
        second = batch(project, "-o", "out.jsonl", given=given, url=url, **bounds)
        assert (second.returncode, model.asked) == (0, ["y4", "y5"])
        model.asked.clear()
        third = batch(
            project,
            "-o",
            "out.jsonl",
            given=given + b"\n" + tasks("y6", conversation="y"),
            url=url,
            **bounds,
        )
        assert (third.returncode, model.asked) == (0, ["y4", "y5", "y6"])
    ended = entries((project.root / "out.jsonl").read_text())
    assert ended[4]["error"]["code"] == "context_lost"
    assert [entry["result"]["place"] for entry in ended[-3:]] == [1, 2, 3]


def test_a_terminal_shows_running_calls_while_stdout_gets_results(
    project: TempProject,
) -> None:
    project.agent("one")
    (project.root / "in.jsonl").write_bytes(tasks("a", "b"))
    screen, terminal = pty.openpty()
    with offline(EchoModel()) as url:
        running = subprocess.Popen(
            command("batch", "in.jsonl"),
            cwd=project.root,
            env=project.environment(url, TERM="xterm-256color", COLUMNS="120", **FEW),
            stdout=subprocess.PIPE,
            stderr=terminal,
        )
        os.close(terminal)
        seen = _all_of(screen)
        stdout, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert {entry["line"] for entry in entries(stdout.decode())} == {1, 2}
    assert "line 1 one" in seen
    assert "0 of 2, 0 failed" in seen
    assert "2 tasks: 2 done, 0 failed" in seen
    assert '"result"' not in seen


def _all_of(screen: int) -> str:
    shown = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # Linux: the other end was closed
            part = b""
        if not part:
            os.close(screen)
            return shown.decode()
        shown += part


def test_a_reader_that_closes_stdout_ends_the_batch(project: TempProject) -> None:
    project.agent("one")
    (project.root / "in.jsonl").write_bytes(tasks("a", "b", "c"))
    model = EchoModel()
    with offline(model) as url:
        running = subprocess.Popen(
            command("batch", "in.jsonl", "-q"),
            cwd=project.root,
            env=project.environment(url, **ONE_BY_ONE),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert running.stdout is not None
        running.stdout.close()
        assert running.wait(timeout=60) == 1
        assert running.stderr is not None
        assert running.stderr.read() == b""
        running.stderr.close()
    assert model.asked == ["a"]


# Invalid lines


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not JSON: Expecting property name enclosed in double quotes at character 2"),
        (b"\xff", "not UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "not JSON"),
        (b'["one", "x"]', 'expected an object such as {"agent"'),
        (b'{"agent": "one"}', "'task' is missing"),
        (b'{"agent": null, "task": "x"}', "'agent' is missing"),
        (
            b'{"agent": "one", "task": "x", "tiemout": 5}',
            "unknown (did you mean timeout?)",
        ),
        (b'{"agent": "one", "task": " "}', "task: it is empty"),
        (b'{"agent": "one", "task": 7}', "task: expected text, found int"),
        (b'{"agent": "one", "task": "\\ud800"}', "half a surrogate pair"),
        (b'{"agent": "oen", "task": "x"}', "did you mean one?"),
        (b'{"agent": ["one"], "task": "x"}', "agent: expected the name of an agent, found ['one']"),
        (b'{"agent": "one", "task": "x", "timeout": "soon"}', "'soon': expected a time above 0"),
        (b'{"agent": "one", "task": "x", "timeout": 0}', "expected seconds above 0"),
        (b'{"agent": "one", "task": "x", "timeout": true}', "expected seconds above 0"),
        (b'{"agent": "one", "task": "x", "conversation": ""}', "conversation: expected a name"),
        (b'{"agent": "one", "task": "x", "schema": {"type": "array"}}', "`type: object`"),
        (b'{"agent": "one", "task": "x", "schema": "s.json"}', "`type: object`"),
        (b'{"agent": "one", "task": "x", "id": [1]}', "'id': expected text or a whole number"),
        (b'{"agent": "one", "task": "x", "id": "a"}', "the id 'a' is that of line 1"),
        (b'{"agent": "one", "task": "x", "attach": "a.png"}', "'attach': expected a list of paths"),
        (b'{"agent": "one", "task": "x", "attach": ["no.png"]}', "attachment no.png: cannot be"),
        (b'{"agent": "one", "task": "x", "max_tokens": 0}', "max_tokens: expected a whole number"),
    ],
)
def test_an_invalid_line_is_reported_and_no_task_is_run(
    here: TempProject, line: bytes, problem: str
) -> None:
    here.agent("one")
    given = b'\xef\xbb\xbf{"agent": "one", "task": "x", "id": "a"}\r\n\n' + line + b"\n"
    done = invoke("batch", "-", "--output", "out.jsonl", stdin=given)
    assert (done.exit_code, done.stdout) == (3, "")
    assert "1 line of the batch cannot be run, so no task was started:\n  line 3: " in done.stderr
    assert problem in done.stderr
    assert not (here.root / "out.jsonl").exists()


def test_all_invalid_lines_are_reported_in_one_message(here: TempProject) -> None:
    done = invoke("batch", "-", stdin=b"x\n" * 30)
    assert "30 lines of the batch cannot be run" in done.stderr
    assert "\n  line 20: not JSON: Expecting value at character 1\n  and 10 more\n" in done.stderr


def test_an_empty_batch_ends_with_exit_code_0(here: TempProject) -> None:
    done = invoke("batch", "-", stdin=b"\n")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("0 tasks: 0 done, 0 failed; ")


# The file of results


def batch_line(number: int, task: str = "x", **more: Any) -> BatchLine:
    return BatchLine(number, None, TaskRequest("one", task, **more))


def result(text: str, *, is_error: bool = False) -> TaskResult:
    return make_result(
        text,
        is_error=is_error,
        agent="one",
        duration=1,
        waited=0,
        turns=1,
        usage=Usage(),
        cost_usd=0.0,
        session_id="s",
        worker="worker-1",
        pid=7,
    )


LINES = [batch_line(number, f"task {number}") for number in range(1, 4)]


def written(path: Path) -> bytes:
    """Write a result for each of the lines, and return the content of the file."""
    with open_results(path, LINES) as results:
        for line in LINES:
            results.add(line, result(f"{line.number} \ud800 \u2028\n"))
    return path.read_bytes()


def test_a_result_file_cut_anywhere_keeps_its_complete_lines(tmp_path: Path) -> None:
    path = tmp_path / "out"
    whole = written(path)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        lines_left = whole[:size].count(b"\n")
        with open_results(path, LINES) as results:
            assert results.finished == set(range(1, lines_left + 1))
            for line in LINES[lines_left:]:
                results.add(line, WorkerDied("killed"))
        left = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        assert [("result" in entry, entry["line"]) for entry in left] == [
            (number <= lines_left, number) for number in (1, 2, 3)
        ]


def test_the_last_result_of_a_call_counts(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for outcome, kept in (
        (WorkerDied("killed"), set()),
        (result("no", is_error=True), set()),
        (result("yes"), {1}),
        (WorkerDied("killed"), set()),
    ):
        with open_results(path, LINES) as results:
            results.add(LINES[0], outcome)
        with open_results(path, LINES) as results:
            assert results.finished == kept


@pytest.mark.parametrize(
    "other",
    [
        batch_line(2, "task 2b"),
        batch_line(2, "task 2", schema={"type": "object"}),
        batch_line(2, "task 2", conversation="c"),
        BatchLine(2, "id", TaskRequest("one", "task 2")),
        BatchLine(2, None, TaskRequest("two", "task 2")),
    ],
)
def test_results_of_another_input_are_refused(
    here: TempProject, tmp_path: Path, other: BatchLine
) -> None:
    path = tmp_path / "out"
    kept = written(path)
    with (
        pytest.raises(ValueError, match=r"out:2: .* result of line 2, which has another task"),
        open_results(path, [LINES[0], other, LINES[2]]),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"out:3: .* result of line 3, which has no task now"),
        open_results(path, LINES[:2]),
    ):
        pass
    assert path.read_bytes() == kept


def test_the_error_names_a_result_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "out"
    with (
        pytest.raises(ValueError, match=r"nowhere/out: cannot be written: No such file"),
        open_results(path, LINES),
    ):
        pass


def test_a_call_with_a_new_timeout_is_the_same_call(tmp_path: Path) -> None:
    path = tmp_path / "out"
    written(path)
    patient = [batch_line(line.number, line.request.task, timeout=600.0) for line in LINES]
    with open_results(path, patient) as results:
        assert results.finished == {1, 2, 3}


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b"[]\n", b'{"line": 1}\n', b'{"a": 1}'])
def test_a_file_with_other_content_is_refused_and_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no result of a batch"), open_results(path, LINES):
        pass
    assert path.read_bytes() == content


def test_two_batches_cannot_write_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another batch is writing"), open_results(path, LINES):
            pass


def test_a_pipe_is_refused_as_the_file_of_results(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (
        pytest.raises(ValueError, match="expected a file that can be read again"),
        open_results(tmp_path / "fifo", LINES),
    ):
        pass
