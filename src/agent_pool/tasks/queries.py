"""The queries of the store that build their SQL from a filter."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from agent_pool.models import ENDED_STATES, OPEN_STATES, TaskFilter
from agent_pool.tasks.rows import TASK_COLUMNS

RECORDS: Final = (
    f"SELECT {', '.join(f'tasks.{name}' for name in TASK_COLUMNS)}, contents.task, "
    "contents.request, contents.answer, contents.result, contents.error "
    "FROM tasks JOIN contents USING (number)"
)
"""Selects what `rows.record_from` needs."""


def find_numbers(connection: sqlite3.Connection, wanted: TaskFilter) -> list[int]:
    """Return the numbers of the tasks that a filter means, the newest first, at most its limit.

    Each part of the search has one state, because an index can be read in order only then.
    """
    conditions, values = filter_conditions(connection, wanted)
    states: tuple[str | None, ...] = wanted.states
    if not states:
        states = (*OPEN_STATES, *ENDED_STATES) if wanted.agent or wanted.project else (None,)
    found: list[int] = []
    for state in states:
        own = [*conditions, "state = :state"] if state else conditions
        where = f"WHERE {' AND '.join(own)}" if own else ""
        query = f"SELECT tasks.number FROM {_tables(wanted)} {where} ORDER BY tasks.number DESC"
        rows = connection.execute(f"{query} LIMIT :limit", {**values, "state": state})
        found += [row[0] for row in rows]
    return sorted(found, reverse=True)[: wanted.limit]


def _tables(wanted: TaskFilter) -> str:
    return "tasks JOIN contents USING (number)" if wanted.text else "tasks"


def filter_conditions(
    connection: sqlite3.Connection, wanted: TaskFilter
) -> tuple[list[str], dict[str, Any]]:
    """Return the conditions of a filter in SQL, without its states, and their values."""
    values: dict[str, Any] = {"limit": wanted.limit}
    conditions: list[str] = []
    for name in ("agent", "project", "parent"):
        if value := getattr(wanted, name):
            conditions.append(f"tasks.{name} = :{name}")
            values[name] = value
    if wanted.before is not None:
        conditions.append("tasks.number < :before")
        values["before"] = wanted.before
    if wanted.since is not None:
        # The clock can be set back, so a later task can have an earlier time. The bound on the
        # number only ends the search early.
        first = _first_since(connection, wanted.since)
        conditions += ["tasks.created >= :since", "tasks.number >= :first"]
        values |= {"since": wanted.since, "first": first}
    if wanted.until is not None:
        conditions.append("tasks.created < :until")
        values["until"] = wanted.until
    if wanted.text:
        conditions.append("(contents.task LIKE :text ESCAPE '\\' OR answer LIKE :text ESCAPE '\\')")
        escaped = "".join(f"\\{one}" if one in "\\%_" else one for one in wanted.text)
        values["text"] = f"%{escaped}%"
    return conditions, values


def _first_since(connection: sqlite3.Connection, since: float) -> int:
    query = "SELECT min(number) FROM tasks INDEXED BY tasks_created WHERE created >= ?"
    first: int | None = connection.execute(query, (since,)).fetchone()[0]
    return 2**62 if first is None else first


def load_rows(connection: sqlite3.Connection, numbers: list[int]) -> list[sqlite3.Row]:
    """Return the rows of these tasks, the newest first."""
    marks = ",".join("?" * len(numbers))
    query = f"{RECORDS} WHERE tasks.number IN ({marks}) ORDER BY tasks.number DESC"
    return connection.execute(query, numbers).fetchall()
