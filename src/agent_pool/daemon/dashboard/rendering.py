"""The templates, and the forms in which they show numbers and times.

Jinja2 escapes every value, so what an agent wrote is text and never markup.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agent_pool.text import clock_text, printable_json
from agent_pool.views.rows import TaskRow, WorkerRow

_TEMPLATES: Final = "daemon/dashboard/templates"


@cache
def templates() -> Environment:
    """Return the templates of the pages."""
    made = Environment(
        loader=PackageLoader("agent_pool", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"seconds": clock_text, "clock": _clock, "json": _json}
    made.filters["command"] = shlex.join
    return made


def render(template: str, /, **values: Any) -> str:
    """Return a page or a part of one."""
    return templates().get_template(template).render(**values)


def render_task_cells(row: TaskRow) -> str:
    """Return the cells of a task's row."""
    return _macro("task_cells")(row)


def render_worker_cells(row: WorkerRow) -> str:
    """Return the cells of a worker's row."""
    return _macro("worker_cells")(row)


def render_step(step: object) -> str:
    """Return one step of a task as an item of a list."""
    return _macro("step")(step)


@cache
def _macro(name: str) -> Callable[[object], str]:
    macro: Callable[[object], Markup] = getattr(templates().get_template("parts.html").module, name)
    return lambda value: str(macro(value))


def _clock(value: float | None) -> str:
    """Return a time of today as ``14:05:33``, another one with its date."""
    if value is None:
        return ""
    then, now = time.localtime(value), time.localtime()
    is_today = then[:3] == now[:3]
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", then)


def _json(value: Any) -> str:
    return printable_json(value, indent=2)
