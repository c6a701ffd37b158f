"""Sums of ended tasks, by day, project and agent, for pictures of the history."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Any, Final

from agent_pool.models import ENDED_STATES, DayTotal, TaskFilter, Usage
from agent_pool.tasks.queries import filter_conditions

_DAY: Final = "date(ended, 'unixepoch', 'localtime')"
_KEYS: Final = f"{_DAY} AS day, project, agent"
_TABLES: Final = "tasks JOIN contents USING (number)"

_SUMS: Final = (
    f"SELECT {_KEYS}, count(*) AS tasks, sum(input_tokens) AS input, sum(output_tokens) AS output, "
    "sum(cache_write_tokens) AS written, sum(cache_read_tokens) AS cached, sum(cost_usd) AS cost"
)
_FAILURES: Final = (
    f"SELECT {_KEYS}, coalesce(json_extract(error, '$.code'), "
    "nullif(json_extract(result, '$.code'), ''), 'task_error') AS code, count(*) AS tasks"
)


def day_totals(connection: sqlite3.Connection, wanted: TaskFilter) -> list[DayTotal]:
    """Return the sums of the ended tasks that a filter means; its page and limit do not count."""
    whole = replace(wanted, before=None)
    states = [one for one in ENDED_STATES if not wanted.states or one in wanted.states]
    failed = _failures(connection, whole, [one for one in states if one != "succeeded"])
    # Only a text needs the contents, which are the most of the file.
    tables = _TABLES if wanted.text else "tasks"
    rows = _grouped(connection, _SUMS, tables, whole, states, "day, project, agent")
    return [
        DayTotal(
            row["day"],
            row["project"],
            row["agent"],
            row["tasks"],
            failed.get((row["day"], row["project"], row["agent"]), {}),
            Usage(row["input"], row["output"], row["written"], row["cached"]),
            row["cost"],
        )
        for row in rows
    ]


def _failures(
    connection: sqlite3.Connection, wanted: TaskFilter, states: list[Any]
) -> dict[tuple[str, str, str], dict[str, int]]:
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    rows = _grouped(connection, _FAILURES, _TABLES, wanted, states, "day, project, agent, code")
    for row in rows:
        key = (row["day"], row["project"], row["agent"])
        found.setdefault(key, {})[row["code"]] = row["tasks"]
    return found


def _grouped(
    connection: sqlite3.Connection,
    select: str,
    tables: str,
    wanted: TaskFilter,
    states: list[Any],
    group: str,
) -> list[sqlite3.Row]:
    conditions, values = filter_conditions(connection, wanted)
    named = {f"state{place}": state for place, state in enumerate(states)}
    among = f"state IN ({', '.join(f':{name}' for name in named)})"
    where = " AND ".join([*conditions, among, "ended IS NOT NULL"])
    query = f"{select} FROM {tables} WHERE {where} GROUP BY {group} ORDER BY day, project, agent"
    return connection.execute(query, {**values, **named}).fetchall()
