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

from agent_pool import TaskResult, Usage, WorkerDied
from agent_pool.cli.batch.calls import Call
from agent_pool.cli.batch.results import open_results
from agent_pool.loopback import Failure, LoopbackAPI, Reply, Request, Text, ToolUse
from cli_world import agent_pool, command, invoke
from support import Project

FEW = {"AGENT_POOL_SPARES": "0", "AGENT_POOL_RESET": "clear"}
ONE_BY_ONE = {**FEW, "AGENT_POOL_MAX_SIZE": "1"}


class Model:
    """Says the task back; fails those that hold `fails`, and remembers all."""

    def __init__(self, fails: str = "\0") -> None:
        self.fails = fails
        self.asked: list[str] = []

    def __call__(self, request: Request) -> Any:
        task = request.last_user_text.strip()
        if request.is_side:
            return "side"
        if task not in self.asked:  # the CLI tries some failures again
            self.asked.append(task)
        return Failure(400, message="no such thing") if self.fails in task else f"echo: {task}"


@contextmanager
def offline(model: Callable[[Request], Any]) -> Iterator[str]:
    with LoopbackAPI(model).in_thread() as api:
        yield api.url


def lines(*calls: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps(call) for call in calls).encode()


def tasks(*texts: str, **more: Any) -> bytes:
    return lines(*[{"agent": "one", "task": text, **more} for text in texts])


def batch(
    project: Project, *args: str, given: bytes, url: str, **more: str
) -> subprocess.CompletedProcess[str]:
    (project.root / "in.jsonl").write_bytes(given)
    return agent_pool(project, "batch", "in.jsonl", *args, url=url, **{**FEW, **more})


def said(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_without_a_cli_it_is_said_once_and_nothing_is_written(project: Project) -> None:
    project.agent("one")
    missing = str(project.root / "missing")
    nowhere = "http://127.0.0.1:9"
    done = batch(project, "-o", "out.jsonl", given=tasks("a", "b"), url=nowhere, CLAUDE_CLI=missing)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count(missing) == 1
    assert not (project.root / "out.jsonl").exists()


def test_each_end_is_a_line_and_a_failure_stands_beside_successes(project: Project) -> None:
    project.agent("one")
    project.agent("two")
    together = asyncio.Barrier(2)

    async def model(request: Request) -> Any:
        task = request.last_user_text.strip()
        if "meet" in task:
            await together.wait()
        return Reply(f"did {task}", delay=60 if task == "hang" else 0)

    given = lines(
        {"agent": "one", "task": "meet 1", "id": "first"},
        {"agent": "two", "task": "meet 2", "id": None},
        {"agent": "two", "task": "hang", "timeout": "400ms", "id": 3},
    )
    with offline(model) as url:
        done = agent_pool(project, "batch", "-", url=url, stdin=given + b"\n\n", **FEW)
    assert done.returncode == 1
    ended = {entry["line"]: entry for entry in said(done.stdout)}
    assert [ended[line].get("id") for line in (1, 2, 3)] == ["first", None, 3]
    assert [ended[line]["agent"] for line in (1, 2, 3)] == ["one", "two", "two"]
    assert [ended[line]["result"]["text"] for line in (1, 2)] == ["did meet 1", "did meet 2"]
    assert set(ended[1]["result"]) == {field.name for field in fields(TaskResult)}
    error = ended[3]["error"]
    assert (error["code"], error["retryable"]) == ("task_timeout", True)
    assert "400ms" not in error["message"]
    assert "after 0.4 s" in error["message"]
    *told, summary = done.stderr.splitlines()
    assert [line.split()[0] for line in told] == ["1/3", "2/3", "3/3"]
    assert sum("two: failed: the task of agent 'two'" in line for line in told) == 1
    assert summary.startswith("3 tasks: 2 done, 1 failed; ")
    assert "tokens 0 in, " in summary
    assert "$0.0" in summary


def test_what_has_succeeded_is_not_run_again(project: Project) -> None:
    project.agent("one")
    output = project.root / "out.jsonl"
    model = Model(fails="b")
    given = tasks("a", "b", "c")
    with offline(model) as url:
        first = batch(project, "-o", "out.jsonl", given=given, url=url)
        assert (first.returncode, first.stdout) == (1, "")
        assert {
            entry["line"]: entry["result"]["is_error"] for entry in said(output.read_text())
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
    assert [entry["line"] for entry in said(output.read_text())][-2:] in ([2, 4], [4, 2])
    kept = output.read_bytes()
    third = batch(project, "-o", "out.jsonl", "-q", given=given, url="http://127.0.0.1:9")
    assert third.returncode == 3  # line 4 is gone: the results are of another input
    again = batch(
        project, "-oout.jsonl", given=given + b"\n" + tasks("d"), url="http://127.0.0.1:9"
    )
    assert (again.returncode, output.read_bytes()) == (0, kept)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_batch_keeps_what_is_done_and_leaves_no_process(
    project: Project, number: signal.Signals
) -> None:
    project.agent("one")
    alive, output = project.root / "alive", project.root / "out.jsonl"
    os.mkfifo(alive)
    (project.root / "in.jsonl").write_bytes(tasks("a", "hold", "c"))

    def holding(request: Request) -> Any:
        if "hold" not in request.last_user_text or request.tool_results:
            return f"echo: {request.last_user_text.strip()}"
        hold = f"exec 9> '{alive}'; tail -f /dev/null"
        return [Text("I wait."), ToolUse("Bash", {"command": hold})]

    with offline(holding) as url:
        running = subprocess.Popen(
            command("batch", "in.jsonl", "--output", "out.jsonl"),
            cwd=project.root,
            env=project.environment(url, **ONE_BY_ONE),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with alive.open("rb") as held:  # opens once the agent's shell has opened it
            assert [entry["line"] for entry in said(output.read_text())] == [1]  # at once
            running.send_signal(number)
            stdout, stderr = running.communicate(timeout=60)
            assert held.read() == b""  # the end: whoever held it for writing is dead
    assert (running.returncode, stdout) == (128 + number, b"")
    *_, summary, last = stderr.decode().splitlines()
    assert summary.startswith("3 tasks: 1 done, 0 failed, 2 not finished; ")
    assert last == f"stopped by {number.name}"
    assert [entry["line"] for entry in said(output.read_text())] == [1]

    if number is signal.SIGINT:
        model = Model()
        with offline(model) as url:
            done = batch(
                project, "-o", "out.jsonl", given=tasks("a", "hold", "c"), url=url, **ONE_BY_ONE
            )
        assert (done.returncode, model.asked) == (0, ["hold", "c"])


def test_a_conversation_runs_in_order_and_is_run_again_as_a_whole(project: Project) -> None:
    project.agent("one")
    model = Model(fails="y4")
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
    ended = said((project.root / "out.jsonl").read_text())
    assert ended[4]["error"]["code"] == "context_lost"
    assert [entry["result"]["place"] for entry in ended[-3:]] == [1, 2, 3]


def test_on_a_terminal_running_calls_are_shown_while_results_go_to_the_file(
    project: Project,
) -> None:
    project.agent("one")
    (project.root / "in.jsonl").write_bytes(tasks("a", "b"))
    screen, terminal = pty.openpty()
    with offline(Model()) as url:
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
    assert {entry["line"] for entry in said(stdout.decode())} == {1, 2}
    assert "line 1 one" in seen
    assert "0 of 2, 0 failed" in seen
    assert "2 tasks: 2 done, 0 failed" in seen
    assert '"result"' not in seen


def _all_of(screen: int) -> str:
    shown = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # nobody draws any more
            part = b""
        if not part:
            os.close(screen)
            return shown.decode()
        shown += part


def test_a_reader_that_leaves_ends_the_batch(project: Project) -> None:
    project.agent("one")
    (project.root / "in.jsonl").write_bytes(tasks("a", "b", "c"))
    model = Model()
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


# What cannot be run


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not JSON: Expecting property name enclosed in double quotes at character 2"),
        (b"\xff", "not UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "not JSON"),
        (b'["one", "x"]', 'expected an object such as {"agent"'),
        (b'{"agent": "one"}', "'task' is missing"),
        (b'{"agent": null, "task": "x"}', "'agent' is missing"),
        (b'{"agent": "one", "task": "x", "tiemout": 5}', "did you mean 'timeout'?"),
        (b'{"agent": "one", "task": " "}', "the task is empty"),
        (b'{"agent": "one", "task": 7}', "a task is text, found int"),
        (b'{"agent": "one", "task": "\\ud800"}', "half a surrogate pair"),
        (b'{"agent": "oen", "task": "x"}', "did you mean one?"),
        (b'{"agent": ["one"], "task": "x"}', "an agent's name is text"),
        (b'{"agent": "one", "task": "x", "timeout": "soon"}', "'soon': expected a time above 0"),
        (b'{"agent": "one", "task": "x", "timeout": 0}', "expected seconds above 0"),
        (b'{"agent": "one", "task": "x", "timeout": true}', "expected seconds above 0"),
        (b'{"agent": "one", "task": "x", "conversation": ""}', "conversation: expected a name"),
        (b'{"agent": "one", "task": "x", "schema": {"type": "array"}}', "`type: object`"),
        (b'{"agent": "one", "task": "x", "schema": "s.json"}', "`type: object`"),
        (b'{"agent": "one", "task": "x", "id": [1]}', "'id': expected text or a whole number"),
        (b'{"agent": "one", "task": "x", "id": "a"}', "the id 'a' is that of line 1"),
    ],
)
def test_a_line_that_cannot_be_run_is_told_and_nothing_is_run(
    here: Project, line: bytes, problem: str
) -> None:
    here.agent("one")
    given = b'\xef\xbb\xbf{"agent": "one", "task": "x", "id": "a"}\r\n\n' + line + b"\n"
    done = invoke("batch", "-", "--output", "out.jsonl", stdin=given)
    assert (done.exit_code, done.stdout) == (3, "")
    assert "1 line of the batch cannot be run, so nothing was:\n  line 3: " in done.stderr
    assert problem in done.stderr
    assert not (here.root / "out.jsonl").exists()


def test_all_wrong_lines_are_told_at_once(here: Project) -> None:
    done = invoke("batch", "-", stdin=b"x\n" * 30)
    assert "30 lines of the batch cannot be run" in done.stderr
    assert "\n  line 20: not JSON: Expecting value at character 1\n  and 10 more\n" in done.stderr


def test_nothing_to_do_is_done(here: Project) -> None:
    done = invoke("batch", "-", stdin=b"\n")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("0 tasks: 0 done, 0 failed; ")


# The file of the results


def call(line: int, task: str = "x", **more: Any) -> Call:
    return Call(line, None, {"agent": "one", "task": task, **more})


def result(text: str, *, is_error: bool = False) -> TaskResult:
    return TaskResult(text, is_error, "success", "one", 1, 0, 1, Usage(), 0.0, "s", "worker-1", 7)


CALLS = [call(number, f"task {number}") for number in range(1, 4)]


def written(path: Path, calls: list[Call] = CALLS) -> bytes:
    with open_results(path, calls) as results:
        for one in calls:
            results.add(one, result(f"{one.line} \ud800 \u2028\n"))
    return path.read_bytes()


def test_a_file_cut_off_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "out"
    whole = written(path)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        lines_left = whole[:size].count(b"\n")
        with open_results(path, CALLS) as results:
            assert results.kept == set(range(1, lines_left + 1))
            for one in CALLS[lines_left:]:
                results.add(one, WorkerDied("killed"))
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
        with open_results(path, CALLS) as results:
            results.add(CALLS[0], outcome)
        with open_results(path, CALLS) as results:
            assert results.kept == kept


@pytest.mark.parametrize(
    "other",
    [
        call(2, "task 2b"),
        call(2, "task 2", schema={"type": "object"}),
        call(2, "task 2", conversation="c"),
        Call(2, "id", {"agent": "one", "task": "task 2"}),
        Call(2, None, {"agent": "two", "task": "task 2"}),
    ],
)
def test_results_of_another_input_are_refused(here: Project, tmp_path: Path, other: Call) -> None:
    path = tmp_path / "out"
    kept = written(path)
    with (
        pytest.raises(ValueError, match=r"out:2: the result of line 2, which is another call now"),
        open_results(path, [CALLS[0], other, CALLS[2]]),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"out:3: the result of line 3, which is no call"),
        open_results(path, CALLS[:2]),
    ):
        pass
    assert path.read_bytes() == kept


def test_a_file_that_cannot_be_written_is_named_before_anything_is_run(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "out"
    with (
        pytest.raises(ValueError, match=r"nowhere/out: cannot be written: No such file"),
        open_results(path, CALLS),
    ):
        pass


def test_more_time_makes_no_other_call(tmp_path: Path) -> None:
    path = tmp_path / "out"
    written(path)
    patient = [call(one.line, one.arguments["task"], timeout=600.0) for one in CALLS]
    with open_results(path, patient) as results:
        assert results.kept == {1, 2, 3}


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b"[]\n", b'{"line": 1}\n', b'{"a": 1}'])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no result of a batch"), open_results(path, CALLS):
        pass
    assert path.read_bytes() == content


def test_two_batches_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another batch is writing"), open_results(path, CALLS):
            pass


def test_what_cannot_be_read_again_takes_no_results(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (
        pytest.raises(ValueError, match="expected a file that can be read again"),
        open_results(tmp_path / "fifo", CALLS),
    ):
        pass
