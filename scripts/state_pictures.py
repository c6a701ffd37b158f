"""Draw the pictures of states in docs/pictures: ``python scripts/state_pictures.py``.

The sessions' picture has exactly the steps of the table in the package. A state without a place
here is an error, and `tests/test_docs.py` compares the files with this script.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import get_args

from agent_pool.claude.protocol.states import TRANSITIONS, SessionState, Step
from agent_pool.models import ENDED_STATES, TaskState
from agent_pool.pool.scheduler.model import WorkerState

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH, HEIGHT = 124, 36
"""The size of a state's box."""
BEND_FLAT, BEND_STEEP = 22, 36
"""How far two arrows between the same two boxes stand apart from the straight line: their words are
wider than high."""
ENTRY = 90
"""The length of the arrow that begins nowhere."""
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2430; text-anchor: middle; }
.step { font-size: 12px; fill: #4a5264; paint-order: stroke; stroke: #ffffff; stroke-width: 5px; }
.state { fill: #e8edfb; stroke: #4a63c8; stroke-width: 1.5; }
.end { fill: #f1f1f1; stroke: #7a7f8c; stroke-width: 1.5; }
.arrow { fill: none; stroke: #4a5264; stroke-width: 1.4; marker-end: url(#head); }
.paper { fill: #ffffff; }
"""
Point = tuple[float, float]


@dataclass(frozen=True)
class Arrow:
    """One step from a state to another.

    Attributes:
        start: the first state; empty for the arrow that begins nowhere.
        end: the second state.
        text: the words beside it.
    """

    start: str
    end: str
    text: str


@dataclass(frozen=True)
class Picture:
    """Boxes and arrows.

    Attributes:
        title: what it shows, for readers who do not see it.
        places: the centre of each state's box.
        arrows: the steps.
        ends: states that are drawn as ends.
    """

    title: str
    places: dict[str, Point]
    arrows: tuple[Arrow, ...]
    ends: frozenset[str] = frozenset()

    def svg(self) -> str:
        """Return the picture as SVG."""
        right = max(x for x, _ in self.places.values()) + WIDTH / 2 + 30
        low = max(y for _, y in self.places.values()) + HEIGHT / 2 + 30
        parts = [self._arrow(arrow) for arrow in self.arrows]
        parts += [self._box(name, place) for name, place in self.places.items()]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right:g} {low:g}" '
            f'width="{right:g}" role="img">\n<title>{escape(self.title)}</title>\n'
            f"<style>{STYLE}</style>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#4a5264"/></marker>'
            "</defs>\n"
            f'<rect class="paper" width="{right:g}" height="{low:g}" rx="8"/>\n'
            + "\n".join(parts)
            + "\n</svg>\n"
        )

    def _box(self, name: str, place: Point) -> str:
        x, y = place
        kind = "end" if name in self.ends else "state"
        return (
            f'<rect class="{kind}" x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" '
            f'width="{WIDTH}" height="{HEIGHT}" rx="9"/>'
            f'<text x="{x:g}" y="{y + 5:g}">{escape(name)}</text>'
        )

    def _arrow(self, arrow: Arrow) -> str:
        end = self.places[arrow.end]
        start = self.places.get(arrow.start, (end[0] - WIDTH - ENTRY, end[1]))
        back = any((a.start, a.end) == (arrow.end, arrow.start) for a in self.arrows)
        is_flat = abs(end[0] - start[0]) > abs(end[1] - start[1])
        middle = _aside(start, end, (BEND_FLAT if is_flat else BEND_STEEP) if back else 0)
        first, last = _border(start, middle), _border(end, middle)
        top = _aside(first, last, 0)
        control = (2 * middle[0] - top[0], 2 * middle[1] - top[1])
        x, y = middle
        return (
            f'<path class="arrow" d="M{_point(first)} Q{_point(control)} {_point(last)}"/>'
            f'<text class="step" x="{x:.0f}" y="{y + 4:.0f}">{escape(arrow.text)}</text>'
        )


def _aside(start: Point, end: Point, by: float) -> Point:
    """Return the middle between two points, moved to the left of the way by some pixels."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    return (start[0] + end[0]) / 2 + dy / length * by, (start[1] + end[1]) / 2 - dx / length * by


def _border(box: Point, towards: Point) -> Point:
    """Return where the line from a box's centre to a point leaves the box."""
    dx, dy = towards[0] - box[0], towards[1] - box[1]
    share = min(
        (WIDTH / 2 + 3) / abs(dx) if dx else math.inf,
        (HEIGHT / 2 + 3) / abs(dy) if dy else math.inf,
    )
    return box[0] + dx * share, box[1] + dy * share


def _point(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"


def session_picture() -> Picture:
    """Return the states of one Claude Code process, as the protocol's table has them."""
    places: dict[str, Point] = {
        SessionState.STARTING: (200, 60),
        SessionState.READY: (440, 60),
        SessionState.CONFIGURING: (680, 60),
        SessionState.IN_TURN: (440, 190),
        SessionState.INTERRUPTING: (680, 255),
        SessionState.USED: (440, 320),
        SessionState.RESETTING: (200, 190),
    }
    steps: dict[tuple[str, str], list[Step]] = {}
    for state, following in TRANSITIONS.items():
        for step, target in following.items():
            steps.setdefault((state, target), []).append(step)
    arrows = [Arrow("", SessionState.STARTING, "start")]
    arrows += [Arrow(a, b, ", ".join(words)) for (a, b), words in steps.items()]
    return Picture("The states of one Claude Code process", places, tuple(arrows))


def worker_picture() -> Picture:
    """Return the states of a worker, as the scheduler has them."""
    places: dict[str, Point] = {
        WorkerState.STARTING: (200, 60),
        WorkerState.IDLE: (450, 60),
        WorkerState.LEASED: (700, 60),
        WorkerState.RESETTING: (700, 200),
        WorkerState.STOPPING: (450, 200),
    }
    arrows = (
        Arrow("", WorkerState.STARTING, ""),
        Arrow(WorkerState.STARTING, WorkerState.IDLE, "ready"),
        Arrow(WorkerState.IDLE, WorkerState.LEASED, "task"),
        Arrow(WorkerState.LEASED, WorkerState.RESETTING, "task ended"),
        Arrow(WorkerState.RESETTING, WorkerState.IDLE, "has forgotten"),
        Arrow(WorkerState.RESETTING, WorkerState.STOPPING, "in doubt"),
        Arrow(WorkerState.IDLE, WorkerState.STOPPING, "too old, too large"),
        Arrow(WorkerState.STARTING, WorkerState.STOPPING, "start failed"),
    )
    assert set(places) == set(WorkerState)
    return Picture("The states of a worker", places, arrows, frozenset({WorkerState.STOPPING}))


def task_picture() -> Picture:
    """Return the states of a stored task."""
    places: dict[str, Point] = {
        "queued": (210, 120),
        "running": (470, 120),
        "input_required": (470, 250),
        "succeeded": (740, 50),
        "failed": (740, 120),
        "cancelled": (740, 190),
        "interrupted": (740, 260),
    }
    arrows = (
        Arrow("", "queued", "submit"),
        Arrow("queued", "running", "a worker is free"),
        Arrow("running", "input_required", "asks"),
        Arrow("input_required", "running", "answered"),
        Arrow("running", "succeeded", "answer"),
        Arrow("running", "failed", "error, limit"),
        Arrow("running", "cancelled", "cancel"),
        Arrow("running", "interrupted", "daemon killed"),
    )
    assert set(places) == set(get_args(TaskState))
    return Picture("The states of a task", places, arrows, frozenset(ENDED_STATES))


def pictures() -> dict[Path, str]:
    """Return all pictures, by their files."""
    drawn = {
        "session": session_picture(),
        "worker": worker_picture(),
        "task-states": task_picture(),
    }
    return {FOLDER / f"{name}.svg": picture.svg() for name, picture in drawn.items()}


if __name__ == "__main__":
    for path, text in pictures().items():
        path.write_text(text, encoding="utf-8")
