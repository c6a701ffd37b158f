"""The list of tasks on terminals of some widths, and text of others that a terminal acts on."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace

import pytest
from rich.cells import cell_len

from agent_pool import (
    PermissionRequest,
    TaskQuestion,
    TaskRecord,
    TaskRequest,
    TaskState,
)
from agent_pool.cli.guarded_console import GuardedConsole
from agent_pool.cli.tasks import print_tasks

EVIL = "\x1b]0;owned\x07\x9b31m\u202eb\x08\u2066"
SHOWN = r"\x1b]0;owned\x07\x9b31m\u202eb\x08\u2066"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
STYLE = re.compile(r"\x1b\[[0-9;]*m")
TEXT = "Review the whole of src/agent_pool for bugs, missing tests and unclear code. " * 5


def record(
    number: int, state: TaskState, task: str = TEXT, *, project: str = "/srv/shop"
) -> TaskRecord:
    return TaskRecord(
        f"code-reviewer-{number:06x}",
        number,
        state,
        TaskRequest("code-reviewer", task),
        "code-reviewer",
        project,
        time.time() - 3600 * number,
        started=time.time() - 125.4,
        ended=time.time(),
        cost_usd=0.125,
    )


STATES: tuple[TaskState, ...] = ("running", "failed", "succeeded")


def three_tasks() -> list[TaskRecord]:
    """Make a task of each state now: their ages are shown."""
    return [record(number, state) for number, state in enumerate(STATES, 1)]


def shown(found: list[TaskRecord], width: int) -> list[str]:
    """Return what a terminal of this width shows, without its styles."""
    screen = io.StringIO()
    console = GuardedConsole(
        file=screen,
        force_terminal=True,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )
    print_tasks(found, console, limit=50)
    return STYLE.sub("", screen.getvalue()).splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_of_tasks_shortens_only_the_request(width: int) -> None:
    head, *rows = shown(three_tasks(), width)
    assert head.split() == ["Task", "State", "Age", "Time", "Cost", "Request"]
    assert [row.split()[:3] for row in rows] == [
        ["code-reviewer-000001", "running", "60"],
        ["code-reviewer-000002", "failed", "2"],
        ["code-reviewer-000003", "succeeded", "3"],
    ]
    assert all("2 min 5 s  $0.12  Review" in row for row in rows)
    assert {cell_len(row) for row in rows} <= {width - 1, width}
    assert all(row.endswith("…") for row in rows)


def test_a_narrow_terminal_gets_a_block_for_each_task() -> None:
    lines = shown(three_tasks(), 60)
    assert [line for line in lines if not line.startswith(" ")] == [one.id for one in three_tasks()]
    assert max(map(cell_len, lines)) <= 60
    assert "State: running  Age: 60 min  Time: 2 min 5 s" in " ".join(lines)


def test_the_project_is_shown_only_if_there_are_several() -> None:
    assert not any("/srv/shop" in line for line in shown(three_tasks(), 200))
    both = shown([*three_tasks(), record(9, "queued", project="/srv/other")], 200)
    assert "Project" in both[0]
    assert "/srv/other" in both[-1]


def test_text_of_others_reaches_a_terminal_as_escapes() -> None:
    request = PermissionRequest("a", f"Bash{EVIL}", {})
    evil = replace(
        record(1, "input_required", EVIL, project=f"/srv/{EVIL}"),
        id=f"id{EVIL}",
        questions=(TaskQuestion("k", request, 0.0),),
    )
    for width in (60, 200):
        text = "\n".join(shown([evil, *three_tasks()], width))
        assert RAW.search(text) is None
        assert f"id{SHOWN}" in text
        assert f"asks for permission to use Bash{SHOWN}" in " ".join(text.split())


def test_a_request_of_wide_characters_is_cut_to_the_width() -> None:
    lines = shown([record(1, "succeeded", "世界" * 100)], 80)
    assert cell_len(lines[1]) in (79, 80)
