"""The commands of the tutorial, as a newcomer types them: one shell, the real CLI, a daemon."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock, get_result_text
from support.daemons import DaemonProject
from support.doc_blocks import ROOT, read_blocks, run_page, shell_environment

pytestmark = pytest.mark.long
IN_A_SECOND_TERMINAL = "in a second terminal"
INSTALLS = "installs"
INSTALLING_SECONDS = 500


class Reader:
    """A model that reads the file which the task names, and answers with its text.

    Attributes:
        folder: where the files are.
        tasks: the tasks, in the order in which they came.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tasks: list[str] = []

    def __call__(self, request: ModelRequest) -> Any:
        if request.tool_results:
            return "It says: " + get_result_text(request.tool_results[-1]).split("\t")[1]
        named = re.search(r"notes/\w+\.txt", request.last_user_text)
        assert named is not None, request.last_user_text
        self.tasks.append(named[0])
        return ToolUseBlock("Read", {"file_path": str(self.folder / named[0])})


def test_the_commands_of_the_tutorial_work_one_after_another(
    daemon_project: DaemonProject,
) -> None:
    codes = [block.code for block in read_blocks("tutorial.md", "sh") if not block.mark]
    reader = Reader(daemon_project.root / "first-pool")
    with LoopbackAPI(reader).in_thread() as api:
        environ = shell_environment(daemon_project, api.url)
        printed = dict(zip(codes, run_page(codes, daemon_project.root, environ), strict=True))

    def shown(*words: str) -> str:
        return next(text for code, text in printed.items() if all(w in code for w in words))

    answer = "It says: {}"
    monday = answer.format("The build was slow, so we cached the packages.")
    wednesday = answer.format("We released version 2 and nobody complained.")
    assert shown("doctor").splitlines()[-1] == "Nothing is wrong."
    assert "summarizer" in shown("agents\n")
    assert monday in shown("run summarizer").splitlines()
    assert f"mon {monday}" in shown("results.jsonl", "import json").splitlines()
    assert wednesday in shown("agent-pool wait").splitlines()
    assert "succeeded" in shown("agent-pool wait")
    assert "done\tsummarizer" in shown("top --once")
    # One for each `run`, one for each line of the batch, none for its repetition, one submitted.
    assert sorted(reader.tasks) == sorted(
        [f"notes/{day}.txt" for day in ("monday", "monday", "tuesday")]
        + [f"notes/{day}.txt" for day in ("monday", "tuesday", "wednesday", "wednesday")]
    )
    assert not (daemon_project.root / "first-pool").exists()


@pytest.mark.timeout(600)
def test_a_newcomer_installs_and_follows_the_tutorial_without_a_key(tmp_path: Path) -> None:
    blocks = read_blocks("tutorial.md", "sh")
    (model,) = [block.code for block in blocks if block.mark == IN_A_SECOND_TERMINAL]
    (install,) = [block.code for block in blocks if block.mark == INSTALLS]
    codes = [block.code for block in blocks if not block.mark]
    activate = install.splitlines()[1]
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    with tempfile.TemporaryDirectory(prefix="apt-", dir="/tmp") as home:
        environ = {"HOME": home, "PATH": os.defpath, "LANG": "C.UTF-8", "BROWSER": "true"}
        environ["IS_SANDBOX"] = "1"
        run_page([install], clone, environ, INSTALLING_SECONDS)
        with subprocess.Popen(
            ["bash", "-c", model],
            cwd=home,
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as second:
            try:
                assert second.stdout is not None
                pasted = "".join(second.stdout.readline() for _ in range(5))
                printed = run_page([f"{activate}\n{pasted}{codes[0]}", *codes[1:]], clone, environ)
            finally:
                os.killpg(second.pid, signal.SIGTERM)
                stop = f"{activate}\nagent-pool daemon stop --now || true\n"
                run_page([stop], clone, environ)
    assert printed[0].splitlines()[-1] == "Nothing is wrong."
    # The offline model repeats its prompts, the first of which begins with a line break.
    answered = re.findall(r"^(mon|tue|wed) ", printed[7], re.MULTILINE)
    assert sorted(answered) == ["mon", "tue", "wed"]
