"""The commands of tasks with a real daemon, the real CLI and the offline model."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import chdir, closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from agent_pool.daemon.app import STORE
from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.cli_runner import command, invoke
from support.daemons import DaemonProject, wait_gone
from support.model_scripts import bash, echo_task, shell
from support.terminals import ShownRun, run_on_terminal, terminal, until_closed, until_shown
from support.variants import later
from support.waiting import blocking_wait

EVIL = "\x1b]0;owned\x07\x9b31m\u202eb\x08\u2066"
SHOWN = r"\x1b]0;owned\x07\x9b31m\u202eb\x08\u2066"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
COMMAND_SECONDS = 60


class CommandLine:
    """The commands of one test, and the tasks that it gives.

    Attributes:
        project: the project, whose daemon the commands start.
        environ: the environment of the commands.
        started: a file that a task with the word ``hang`` writes when it has begun.
        go: the file that lets it go on.
    """

    def __init__(self, project: DaemonProject, environ: dict[str, str], folder: Path) -> None:
        self.project = project
        self.environ = environ
        self.started, self.go = folder / "started", folder / "go"
        self._before = self._tasks()

    def script(self, request: ModelRequest) -> Any:
        """Answer as the model: a task with ``hang`` waits in a shell, the others are echoed."""
        text = request.last_user_text
        if request.tool_results or not {"hang", "touch"} & set(text.split()):
            return echo_task(request)
        if "touch" in text.split():
            return bash(f"touch {self.go}")
        return bash(shell(self.started, f"until [ -e {self.go} ]; do sleep 0.05; done; echo on"))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this process: each process of its own takes half a second."""
        with mock.patch.dict(os.environ, self.environ, clear=True), chdir(self.project.root):
            done = invoke(*arguments)
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    def submit(self, *arguments: str) -> str:
        done = self.run("submit", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(*arguments),
            cwd=self.project.root,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def states(self) -> dict[str, str]:
        """Return the state of each task of this test, by its id."""
        return {key: state for key, state in self._tasks().items() if key not in self._before}

    def _tasks(self) -> dict[str, str]:
        found = json.loads(self.run("tasks", "--json").stdout)
        return {one["id"]: one["state"] for one in found}

    def until_started(self) -> None:
        blocking_wait(self.started.exists, COMMAND_SECONDS)

    def until_end_is_written(self, task_id: str) -> None:
        """Wait until the end of a task is on the disk; its caller hears of it a moment earlier."""

        def is_written() -> bool:
            query = "SELECT 1 FROM tasks WHERE id = ? AND state = 'succeeded'"
            with closing(sqlite3.connect(self.project.state / STORE)) as connection:
                return connection.execute(query, (task_id,)).fetchone() is not None

        blocking_wait(is_written, COMMAND_SECONDS)

    def kill_daemon(self) -> None:
        address = self.project.address()
        assert address is not None
        os.kill(address.pid, signal.SIGKILL)
        wait_gone(address.pid)


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[DaemonProject, LoopbackAPI]]:
    """Make a project with a daemon, and its model, for all tests of this module."""
    with tempfile.TemporaryDirectory(prefix="apd-", dir="/tmp") as short:
        project = DaemonProject(tmp_path_factory.mktemp("commands"), Path(short))
        project.agent("asker", permissionMode="ask")
        with LoopbackAPI().in_thread() as api:
            yield project, api
            project.stop(now=True)
        left = [" ".join(process.cmdline()) for process in project.processes()]
        project.end()
    assert left == []


@pytest.fixture
def console(shared: tuple[DaemonProject, LoopbackAPI], tmp_path: Path) -> CommandLine:
    """Return the commands for one test; a daemon runs already."""
    project, api = shared
    console = CommandLine(project, project.daemon_environment(api.url), tmp_path)
    api.script = console.script
    return console


def test_an_answer_is_fetched_after_the_daemon_was_killed(console: CommandLine) -> None:
    task_id = console.submit("tester", "quince", "--key", "k")
    assert console.run("wait", task_id).stdout == "echo: quince\n"
    console.until_end_is_written(task_id)
    console.kill_daemon()
    done = console.run("wait", task_id, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "echo: quince\n", "")
    assert console.submit("tester", "quince", "--key", "k") == task_id
    assert console.states() == {task_id: "succeeded"}


def test_a_task_that_a_kill_interrupted_is_shown_and_retried(console: CommandLine) -> None:
    task_id = console.submit("tester", "hang")
    following = console.begin("logs", task_id, "--follow")
    console.until_started()
    console.kill_daemon()
    # The reader finds the next daemon by itself, and gets the end of the task from it.
    stdout, stderr = following.communicate(timeout=COMMAND_SECONDS)
    assert (following.returncode, stderr) == (0, "")
    assert "interrupted: " in stdout.splitlines()[-1]
    assert console.states() == {task_id: "interrupted"}
    done = console.run("wait", task_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert "its result is unknown" in done.stderr
    console.go.touch()
    assert console.run("retry", task_id).stdout == f"{task_id}\n"
    assert console.run("wait", task_id, "-q").stdout == "tool: on\n"
    numbers = [line.split("\t")[0] for line in console.run("logs", task_id).stdout.splitlines()]
    assert numbers == sorted(set(numbers), key=int)


def test_an_idempotent_task_runs_again_after_a_kill(console: CommandLine) -> None:
    task_id = console.submit("tester", "hang", "--idempotent")
    console.until_started()
    waiting = console.begin("wait", task_id, "-q")
    console.kill_daemon()
    console.go.touch()
    stdout, stderr = waiting.communicate(timeout=COMMAND_SECONDS)
    assert (waiting.returncode, stdout, stderr) == (0, "tool: on\n", "")
    assert json.loads(console.run("task", task_id, "--json").stdout)["attempts"] == 2


@pytest.mark.parametrize("arguments", [("wait",), ("logs", "--follow")], ids=["wait", "logs"])
def test_ctrl_c_ends_the_reader_and_not_the_task(
    console: CommandLine, arguments: tuple[str, ...]
) -> None:
    task_id = console.submit("tester", "hang")
    console.until_started()
    run = command(*arguments, task_id)
    with terminal(run, {**console.environ, "TERM": "xterm"}) as (process, screen):
        shown = until_shown(screen, b"Bash")
        process.send_signal(signal.SIGINT)
        shown += until_closed(screen)
        assert process.wait() == 130
    assert b"go on" in shown or b"goes on" in shown
    assert console.states() == {task_id: "running"}
    console.go.touch()
    assert console.run("wait", task_id, "-q").stdout == "tool: on\n"


def test_ctrl_c_on_run_cancels_the_task_of_the_daemon(console: CommandLine) -> None:
    assert console.run("daemon", "start").returncode == 0
    running = console.begin("run", "tester", "hang")
    console.until_started()
    task_process = int(console.started.read_text())
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=COMMAND_SECONDS)
    assert (running.returncode, stdout) == (130, "")
    assert stderr.endswith("stopped by SIGINT\n")
    assert list(console.states().values()) == ["cancelled"]
    wait_gone(task_process)


def test_runs_and_a_batch_share_the_worker_of_the_daemon(console: CommandLine) -> None:
    console.project.stop()  # it can have workers
    warm = json.loads(console.run("warmup", "tester", "--json").stdout)
    pids = [json.loads(console.run("run", "tester", text, "--json").stdout)["pid"] for text in "ab"]
    lines = console.project.root / "lines.jsonl"
    lines.write_text('{"agent": "tester", "task": "c"}\n')
    done = console.run("batch", str(lines), "-q")
    pids.append(json.loads(done.stdout)["result"]["pid"])
    assert pids == [warm["pid"]] * 3
    assert "agent-pool daemon, pid" in console.run("stats").stdout
    assert console.run("reset", "tester").stdout == "tester: 1 worker stopped\n"


def test_run_does_not_start_a_daemon(console: CommandLine) -> None:
    console.project.stop()
    assert console.run("run", "tester", "quince", "-q").stdout == "echo: quince\n"
    assert console.run("agents").returncode == 0
    assert console.run("stats").returncode == 0
    assert console.run("reset", "tester").returncode == 0
    assert console.project.address() is None


def question(console: CommandLine) -> str:
    """Submit a task that asks for permission, and wait until it does; return its id."""
    task_id = console.submit("asker", "touch", "--ask")
    blocking_wait(lambda: console.states() == {task_id: "input_required"}, COMMAND_SECONDS)
    return task_id


@pytest.mark.parametrize("choice", ["--allow", "--deny"])
def test_an_answer_from_another_terminal_decides(console: CommandLine, choice: str) -> None:
    task_id = question(console)
    assert "touch" in console.run("answer", task_id).stdout
    reason = ("--reason", "Not today.") if choice == "--deny" else ()
    assert console.run("answer", task_id, choice, *reason).returncode == 0
    done = console.run("wait", task_id, "-q")
    assert (done.returncode, console.go.exists()) == (0, choice == "--allow")
    assert ("Not today." in done.stdout) == (choice == "--deny")


def test_a_typed_yes_permits_what_was_shown(console: CommandLine) -> None:
    task_id = question(console)
    run = command("answer", task_id)
    with terminal(run, {**console.environ, "TERM": "xterm"}) as (process, screen):
        shown = until_shown(screen, b"[y/N]")
        os.write(screen, b"y\n")
        until_closed(screen)
        assert process.wait() == 0
    assert str(console.go).encode() in shown
    assert console.run("wait", task_id, "-q").returncode == 0
    assert console.go.exists()


@pytest.mark.parametrize("columns", [60, later(80)])
def test_text_of_others_reaches_no_terminal_as_it_is(console: CommandLine, columns: int) -> None:
    task_id = console.submit("tester", f"quince {EVIL}")
    console.run("wait", task_id)

    def shown(*arguments: str) -> ShownRun:
        root = console.project.root
        return run_on_terminal(command(*arguments), console.environ, root, columns)

    for arguments in (("tasks",), ("task", task_id), ("logs", task_id), ("wait", task_id)):
        done = shown(*arguments)
        assert done.code == 0, done.screen
        assert RAW.search(done.text) is None
        if arguments[0] != "tasks":  # there the request is cut
            assert SHOWN in done.text.replace("\n", "")
    listed = shown("tasks").lines
    assert any(task_id in line.split() for line in listed)
    assert all(len(line) <= columns for line in listed)
