"""The templates, and the forms in which they show numbers and times.

Jinja2 escapes every value, so what an agent wrote is text and never markup.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape

from agent_pool.text import clock_text, printable, printable_json
from agent_pool.views.rows import TaskRow, WorkerRow

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES: Final = "daemon/dashboard/templates"


@cache
def templates() -> Environment:
    """Return the templates of the pages."""
    # Late: most daemons show no page.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("agent_pool", _TEMPLATES),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"seconds": clock_text, "clock": _clock, "json": _json}
    made.filters |= {"command": shlex.join, "exact": lambda value: escape(str(value))}
    return made


def _shown(value: object) -> object:
    """Return a text with escapes for the characters that change the order of what is shown.

    A command whose end is shown as its beginning would be permitted for another one. What was
    rendered already, and the value of a form that comes back (filter ``exact``), stay as they are.
    """
    return printable(value) if type(value) is str else value


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
