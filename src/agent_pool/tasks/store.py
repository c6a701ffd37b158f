"""The store of tasks: what is kept of each, and how it is found again."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent_pool.errors import AgentPoolError
from agent_pool.events import Ended, Submitted, TaskEvent, event_from_json
from agent_pool.models import (
    DayTotal,
    TaskFilter,
    TaskRecord,
    TaskRequest,
    TaskResult,
    TaskState,
    Usage,
)
from agent_pool.tasks.database import Database, Operation
from agent_pool.tasks.keeper import Keeper
from agent_pool.tasks.queries import RECORDS, find_numbers, load_rows
from agent_pool.tasks.rows import (
    attachments_from,
    error_json,
    record_from,
    request_json,
    result_columns,
    shown_request,
    to_json,
)
from agent_pool.tasks.schema import MIGRATIONS
from agent_pool.tasks.totals import day_totals

log = logging.getLogger("agent_pool")

BUFFER_SECONDS: Final = 0.25
"""For so long events wait to be written together: each write waits for the disk."""
MAX_BUFFERED: Final = 32 * 2**20
"""Bytes of events that wait while the disk is full; later ones are not kept."""
PRUNE_CHUNK: Final = 20
"""Tasks that one transaction removes, so that other writes do not wait for long."""
VACUUM_PAGES: Final = 2000
DAYS_KEPT: Final = 400
_OPEN: Final = "('queued', 'running', 'input_required')"
_OPEN_NUMBERS: Final = f"SELECT number FROM tasks WHERE state IN {_OPEN}"


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task with all that is needed to run it.

    Attributes:
        record: the task; secrets masked.
        request: what was submitted, with its secrets and attachments.
        last_event: the number of its last event that was kept; 0 without one.
        keeper: the former owner of the store that still runs it, see `Keeper`; usually empty.
    """

    record: TaskRecord
    request: TaskRequest
    last_event: int
    keeper: str = ""


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended, as it is written."""

    state: TaskState
    ended: float
    started: float | None
    line: str
    usage: Usage
    cost_usd: float
    worker: str
    pid: int
    node: str
    result: TaskResult | None
    error: AgentPoolError | None


@dataclass(frozen=True, slots=True)
class _EventRow:
    task: int
    number: int
    time: float
    text: str
    removed: tuple[int, int] | None


class Store:
    """All tasks of a user, in one file.

    What must be on the disk before anybody relies on it is awaited; other updates are posted, and
    are kept in memory until they are written.

    Args:
        path: the file; its folder must be private to this user.

    Attributes:
        last_number: the number of the newest task; the owner of the store gives out the next ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_number = 0
        self._database = Database(path, MIGRATIONS)
        self._buffer: list[_EventRow] = []
        self._later: list[Operation[object]] = []
        self._unwritten_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._keeper: Keeper | None = None
        self._owner = secrets.token_hex(8)

    async def open(self) -> None:
        """Open the file, or make it.

        Raises:
            StoreFailed: see `Database.open`.
        """
        await self._database.open()
        query = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'tasks'"
        found = await self._database.read(lambda c: c.execute(query).fetchone()[0])
        self.last_number = found or 0

    async def close(self) -> None:
        """Write what waits and close the file."""
        self._write_buffer()
        await self._database.close()
        if self._keeper is not None:
            self._keeper.release()
            self._keeper = None

    async def flush(self) -> None:
        """Wait until everything so far is on the disk.

        Raises:
            StoreFailed: the file cannot be written now.
        """
        self._write_buffer()
        await self._database.flush()

    # Changes of a task

    def begin_add(self, record: TaskRecord, request: TaskRequest) -> asyncio.Future[None]:
        """Begin to store a new task; the future is done when it is on the disk.

        The future raises `StoreFailed` if nothing of it is in the file.
        """
        columns = _new_task(record, request)
        texts = (record.number, request.task, request_json(record.request))
        attachments = to_json([one.as_json() for one in request.attachments])
        env = to_json(dict(request.env)) if request.env else None

        def add(connection: sqlite3.Connection) -> None:
            names, marks = ", ".join(columns), ", ".join("?" * len(columns))
            values = list(columns.values())
            connection.execute(f"INSERT INTO tasks ({names}) VALUES ({marks})", values)
            connection.execute(
                "INSERT INTO contents (number, task, request) VALUES (?, ?, ?)", texts
            )
            if request.attachments:
                connection.execute(
                    "INSERT INTO attachments VALUES (?, ?)", (record.number, attachments)
                )
            if env is not None:
                connection.execute("INSERT INTO secrets VALUES (?, ?)", (record.number, env))

        return self._database.begin_write(add)

    async def mark_running(self, number: int, attempts: int) -> None:
        """Note that a task is being given to a worker; before this it has not begun.

        Raises:
            StoreFailed: it could not be written, so the task must not begin.
        """
        query = "UPDATE tasks SET state = 'running', attempts = ? WHERE number = ?"
        await self._database.write(lambda c: c.execute(query, (attempts, number)))

    async def requeue(
        self, record: TaskRecord, transcript_limit: int, env: Mapping[str, str] | None = None
    ) -> None:
        """Queue a task again that had ended; drop a transcript that is longer than the limit.

        Args:
            record: the task.
            transcript_limit: bytes of its events so far.
            env: its variables, kept until it has ended again.

        Raises:
            StoreFailed: it could not be written.
        """

        def write(connection: sqlite3.Connection) -> None:
            _requeue(connection, record, transcript_limit)
            if env:
                values = (record.number, to_json(dict(env)))
                connection.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?)", values)

        await self._database.write(write)

    def post_requeue(self, record: TaskRecord, transcript_limit: int) -> None:
        """Queue a task again as `requeue`, without waiting."""
        self._write_buffer()
        self._database.post(lambda c: _requeue(c, record, transcript_limit))

    def post_remove(self, number: int) -> None:
        """Remove a task whose caller was told that it could not be stored."""
        self._database.post(lambda c: c.execute("DELETE FROM tasks WHERE number = ?", (number,)))

    def post_state(self, number: int, state: TaskState) -> None:
        """Note a new state of a task that runs."""
        query = "UPDATE tasks SET state = ? WHERE number = ?"
        self._write_later(lambda c: c.execute(query, (state, number)))

    def post_usage(self, number: int, usage: Usage, cost_usd: float) -> None:
        """Note what a task has used so far."""
        query = (
            "UPDATE tasks SET input_tokens = ?, output_tokens = ?, cache_write_tokens = ?, "
            "cache_read_tokens = ?, cost_usd = ? WHERE number = ?"
        )
        values = (*_counts(usage), cost_usd, number)
        self._write_later(lambda c: c.execute(query, values))

    def post_start(self, record: TaskRecord) -> None:
        """Note the worker that has a task, and the agent that its request meant."""
        query = (
            "UPDATE tasks SET agent = ?, project = ?, worker = ?, pid = ?, node = ?, started = ? "
            "WHERE number = ?"
        )
        values = (
            *(record.agent, record.project, record.worker, record.pid, record.node),
            *(record.started, record.number),
        )
        self._write_later(lambda c: c.execute(query, values))

    def post_end(self, number: int, end: TaskEnd, done: Callable[[], None]) -> None:
        """Note the end of a task, and remove its secrets; `done` is called when it is written."""
        answer, result = result_columns(end.result)
        error = error_json(end.error)

        def write(connection: sqlite3.Connection) -> None:
            _write_end(connection, number, end)
            connection.execute(
                "UPDATE contents SET answer = ?, result = ?, error = ? WHERE number = ?",
                (answer, result, error, number),
            )
            query = "DELETE FROM secrets WHERE number = ?"
            if connection.execute(query, (number,)).rowcount:
                self._database.erase_soon()

        self._write_buffer()
        self._database.post(write, done)

    # Events

    def add_event(
        self, task: int, number: int, when: float, text: str, removed: tuple[int, int] | None
    ) -> None:
        """Keep an event, and remove the events of the task from and to these numbers."""
        if self._unwritten_bytes > MAX_BUFFERED:
            return  # the disk is full: the numbers show later that some are missing
        self._unwritten_bytes += len(text)
        self._buffer.append(_EventRow(task, number, when, text, removed))
        self._set_timer()

    def _write_later(self, operation: Operation[object]) -> None:
        """Write an update together with the next events."""
        self._later.append(operation)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(BUFFER_SECONDS, self._write_buffer)

    def _write_buffer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        updates, self._later = self._later, []
        rows, self._buffer = self._buffer, []
        if not updates and not rows:
            return
        size = sum(len(row.text) for row in rows)

        def write(connection: sqlite3.Connection) -> None:
            for update in updates:
                update(connection)
            _write_events(connection, rows)

        def written() -> None:
            self._unwritten_bytes -= size

        self._database.post(write, written)

    async def events(self, task: int, after: int, limit: int = 200) -> list[TaskEvent]:
        """Return the kept events of a task with a higher number than `after`, in order.

        The end of an earlier attempt is left out: the last event of a task is its only `Ended`.
        """
        return await self._database.read(lambda c: _read_events(c, task, after, limit))

    async def last_event(self, task: int) -> tuple[int, bool]:
        """Return the number of the last kept event of a task, and whether it is its end."""
        query = (
            "SELECT number, json LIKE '%\"task.ended\"%' FROM events WHERE task = ? "
            "ORDER BY number DESC LIMIT 1"
        )
        row = await self._database.read(lambda c: c.execute(query, (task,)).fetchone())
        return (0, False) if row is None else (row[0], bool(row[1]))

    # Queries

    async def load(self, task_id: str) -> TaskRecord | None:
        """Return a task; None if it is not in the store."""
        return await self._database.read(lambda c: _load(c, "tasks.id = ?", task_id))

    async def load_key(self, key: str) -> TaskRecord | None:
        """Return the task with an idempotency key; None without one."""
        return await self._database.read(lambda c: _load(c, "tasks.idempotency_key = ?", key))

    async def find(self, wanted: TaskFilter) -> list[TaskRecord]:
        """Return the tasks that a filter means, the newest first."""

        def find(connection: sqlite3.Connection) -> list[TaskRecord]:
            rows = load_rows(connection, find_numbers(connection, wanted))
            return [record_from(row) for row in rows]

        return await self._database.read(find)

    # Tasks that a former owner still runs

    async def hand_over(self, numbers: list[int]) -> None:
        """Let another pool own the store, and keep these tasks, which run, until they have ended.

        Raises:
            StoreFailed: it could not be written; this pool is the owner still.
        """
        try:
            keeper = Keeper.hold(self.path)
        except OSError as error:
            raise self._database.failure("handed over", error) from None

        def mark(connection: sqlite3.Connection) -> None:
            rows = [(keeper.name, number) for number in numbers]
            connection.executemany("UPDATE tasks SET keeper = ? WHERE number = ?", rows)

        try:
            await self.flush()
            await self._database.write(mark)
        except BaseException:
            keeper.release()
            raise
        self._keeper = keeper
        self._database.hand_over()

    def is_kept(self, keeper: str) -> bool:
        """Return whether a former owner still lives, and so its tasks may run."""
        return Keeper.is_held(self.path, keeper)

    async def open_among(self, numbers: list[int]) -> list[StoredTask]:
        """Return those of these tasks that have not ended, the oldest first."""
        wanted = set(numbers)
        return [one for one in await self.open_tasks() if one.record.number in wanted]

    async def ask_cancel(self, number: int) -> None:
        """Ask the former owner that runs a task to cancel it."""
        query = "UPDATE tasks SET cancel_asked = 1 WHERE number = ?"
        await self._database.write(lambda c: c.execute(query, (number,)))

    async def cancels_asked(self) -> list[str]:
        """Return the ids of the tasks that this former owner keeps and is asked to cancel."""
        query = "SELECT id FROM tasks WHERE keeper = ? AND cancel_asked = 1 AND ended IS NULL"
        name = self._keeper.name if self._keeper is not None else ""
        rows = await self._database.read(lambda c: c.execute(query, (name,)).fetchall())
        return [row["id"] for row in rows]

    async def open_tasks(self) -> list[StoredTask]:
        """Return all tasks that have not ended, the oldest first."""
        return await self._database.read(_load_open)

    async def load_stored(self, task_id: str) -> StoredTask | None:
        """Return a task with its attachments; its secrets are gone if it has ended."""

        def load(connection: sqlite3.Connection) -> StoredTask | None:
            record = _load(connection, "tasks.id = ?", task_id)
            return None if record is None else _stored(connection, record)

        return await self._database.read(load)

    # The environment of the store's owner

    async def take_environment(self, environ: Mapping[str, str]) -> None:
        """Note the variables that every task has, and give open tasks those that they had before.

        A task has what its client had differently from the owner of the store. With another owner
        the difference is another one: otherwise the task would run with the keys of this one.

        Raises:
            StoreFailed: open tasks need other variables now, and these could not be written.
        """

        def take(connection: sqlite3.Connection) -> None:
            _take_environment(connection, self._owner, environ)

        if await self._database.read(lambda c: _needs_change(c, environ)):
            await self._database.write(take)
        else:
            # Not awaited: a daemon starts on a full disk. It is written before the next new task.
            self._database.post(take)

    async def forget_environment(self) -> None:
        """Remove the owner's variables, unless tasks are open or there is another owner.

        Raises:
            StoreFailed: it could not be written.
        """

        def forget(connection: sqlite3.Connection) -> None:
            query = f"DELETE FROM owner WHERE name = ? AND NOT EXISTS ({_OPEN_NUMBERS})"
            if connection.execute(query, (self._owner,)).rowcount:
                self._database.erase_soon()

        await self._database.write(forget)

    # Sums of days

    def post_spending(self, day: str, project: str, tokens: int, cost_usd: float) -> None:
        """Add to the sums of a day and a project."""
        query = (
            "INSERT INTO days VALUES (?, ?, ?, ?) ON CONFLICT (day, project) DO UPDATE SET "
            "tokens = tokens + excluded.tokens, cost_usd = cost_usd + excluded.cost_usd"
        )
        self._write_later(lambda c: c.execute(query, (day, project, tokens, cost_usd)))

    async def day_sums(self, day: str) -> dict[str, tuple[int, float]]:
        """Return tokens and cost of a day by project."""
        query = "SELECT project, tokens, cost_usd FROM days WHERE day = ?"
        rows = await self._database.read(lambda c: c.execute(query, (day,)).fetchall())
        return {row["project"]: (row["tokens"], row["cost_usd"]) for row in rows}

    async def totals(self, wanted: TaskFilter) -> list[DayTotal]:
        """Return the sums of the ended tasks that a filter means, by day, project and agent."""
        return await self._database.read(lambda c: day_totals(c, wanted))

    # The history's bounds

    async def prune(self, max_age: float | None, max_size: int | None) -> int:
        """Remove some ended tasks that are too old or too many; return how many it were.

        Args:
            max_age: seconds since its end for which a task is kept; None for ever.
            max_size: bytes of all records; None for any number.

        Raises:
            StoreFailed: it could not be written.
        """
        oldest = None if max_age is None else time.time() - max_age
        return await self._database.write(lambda c: _prune(c, oldest, max_size))

    async def vacuum(self) -> int:
        """Give some free pages back to the file system; return how many are left.

        Raises:
            StoreFailed: it could not be written.
        """

        def free(connection: sqlite3.Connection) -> int:
            # Each row of this statement frees one page.
            connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
            return int(connection.execute("PRAGMA freelist_count").fetchone()[0])

        return await self._database.write(free)


def _new_task(record: TaskRecord, request: TaskRequest) -> dict[str, Any]:
    return {
        "number": record.number,
        "id": record.id,
        "state": record.state,
        "agent": record.agent,
        "project": record.project,
        "created": record.created,
        "attempts": record.attempts,
        "priority": request.priority,
        "not_before": request.not_before,
        "deadline": request.deadline,
        "idempotency_key": request.idempotency_key,
        "idempotent": request.idempotent,
        "parent": request.parent,
    }


def _requeue(connection: sqlite3.Connection, record: TaskRecord, limit: int) -> None:
    query = "SELECT sum(length(json)) FROM events WHERE task = ?"
    if (connection.execute(query, (record.number,)).fetchone()[0] or 0) > limit:
        connection.execute("DELETE FROM events WHERE task = ?", (record.number,))
    connection.execute(
        "UPDATE tasks SET state = 'queued', started = NULL, ended = NULL, deadline = ?, line = '', "
        "attempts = ?, keeper = '', cancel_asked = 0 WHERE number = ?",
        (record.request.deadline, record.attempts, record.number),
    )
    connection.execute(
        "UPDATE contents SET request = ?, answer = NULL, result = NULL, error = NULL "
        "WHERE number = ?",
        (request_json(record.request), record.number),
    )


def _write_end(connection: sqlite3.Connection, number: int, end: TaskEnd) -> None:
    connection.execute(
        "UPDATE tasks SET state = ?, ended = ?, started = ?, line = ?, worker = ?, pid = ?, "
        "node = ?, input_tokens = ?, output_tokens = ?, cache_write_tokens = ?, "
        "cache_read_tokens = ?, cost_usd = ?, keeper = '', cancel_asked = 0 WHERE number = ?",
        (
            *(end.state, end.ended, end.started, end.line, end.worker, end.pid, end.node),
            *_counts(end.usage),
            *(end.cost_usd, number),
        ),
    )


def _counts(usage: Usage) -> tuple[int, int, int, int]:
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_write_tokens,
        usage.cache_read_tokens,
    )


def _write_events(connection: sqlite3.Connection, rows: list[_EventRow]) -> None:
    connection.executemany(
        # A task whose first write failed is not in the store, and its events must not be either.
        "INSERT OR REPLACE INTO events SELECT ?1, ?2, ?3, ?4 "
        "WHERE EXISTS (SELECT 1 FROM tasks WHERE number = ?1)",
        [(row.task, row.number, row.time, row.text) for row in rows],
    )
    connection.executemany(
        "DELETE FROM events WHERE task = ? AND number BETWEEN ? AND ?",
        [(row.task, *row.removed) for row in rows if row.removed],
    )


def event_text(event: TaskEvent) -> dict[str, Any]:
    """Return an event as JSON values without what the task's own row has already."""
    values = event.as_json()
    if isinstance(event, Submitted):
        del values["request"]
    elif isinstance(event, Ended):
        values["result"] = values["error"] = None
    return values


def _read_events(
    connection: sqlite3.Connection, task: int, after: int, limit: int
) -> list[TaskEvent]:
    record = _load(connection, "tasks.number = ?", task)
    if record is None:
        return []
    query = "SELECT number, json FROM events WHERE task = ? AND number > ? ORDER BY number LIMIT ?"
    rows = connection.execute(query, (task, after, limit)).fetchall()
    last = _last_event(connection, task)
    events: list[TaskEvent] = []
    for row in rows:
        values = json.loads(row["json"])
        if values["type"] == "task.submitted":
            values["request"] = record.request.as_json()
        event: Any = event_from_json(values)
        if isinstance(event, Ended):
            if not record.has_ended or row["number"] != last:
                continue
            event = replace(event, result=record.result, error=record.error)
        events.append(event)
    return events


def _last_event(connection: sqlite3.Connection, task: int) -> int:
    query = "SELECT max(number) FROM events WHERE task = ?"
    return connection.execute(query, (task,)).fetchone()[0] or 0


def _load(connection: sqlite3.Connection, condition: str, value: object) -> TaskRecord | None:
    row = connection.execute(f"{RECORDS} WHERE {condition}", (value,)).fetchone()
    return None if row is None else record_from(row)


def _former_environment(connection: sqlite3.Connection) -> dict[str, str] | None:
    row = connection.execute("SELECT env FROM owner").fetchone()
    return None if row is None else json.loads(row["env"])


def _needs_change(connection: sqlite3.Connection, environ: Mapping[str, str]) -> bool:
    """Return whether there are open tasks, and they had other variables than these."""
    has_open = connection.execute(f"{_OPEN_NUMBERS} LIMIT 1").fetchone() is not None
    return has_open and _former_environment(connection) not in (None, dict(environ))


def _take_environment(
    connection: sqlite3.Connection, owner: str, environ: Mapping[str, str]
) -> None:
    former = _former_environment(connection)
    if former is not None and former != dict(environ):
        for stored in _load_open(connection):
            _write_env(
                connection, stored, _difference({**former, **(stored.request.env or {})}, environ)
            )
    connection.execute("DELETE FROM owner")
    connection.execute("INSERT INTO owner VALUES (?, ?)", (owner, to_json(dict(environ))))


def _difference(wanted: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what must be added to an environment to get another one; "" removes a variable."""
    names = {**environ, **wanted}
    return {
        name: wanted.get(name, "")
        for name in names
        if wanted.get(name, "") != environ.get(name, "")
    }


def _write_env(connection: sqlite3.Connection, stored: StoredTask, env: dict[str, str]) -> None:
    number = stored.record.number
    request = shown_request(replace(stored.request, env=env or None))
    connection.execute(
        "UPDATE contents SET request = ? WHERE number = ?", (request_json(request), number)
    )
    connection.execute("DELETE FROM secrets WHERE number = ?", (number,))
    if env:
        connection.execute("INSERT INTO secrets VALUES (?, ?)", (number, to_json(env)))


def _load_open(connection: sqlite3.Connection) -> list[StoredTask]:
    query = f"{RECORDS} WHERE state IN {_OPEN} ORDER BY number"
    return [_stored(connection, record_from(row)) for row in connection.execute(query)]


def _stored(connection: sqlite3.Connection, record: TaskRecord) -> StoredTask:
    request = record.request
    query = "SELECT json FROM attachments WHERE number = ?"
    if row := connection.execute(query, (record.number,)).fetchone():
        request = replace(request, attachments=attachments_from(row["json"]))
    query = "SELECT env FROM secrets WHERE number = ?"
    if row := connection.execute(query, (record.number,)).fetchone():
        request = replace(request, env=json.loads(row["env"]))
    query = "SELECT keeper FROM tasks WHERE number = ?"
    keeper = connection.execute(query, (record.number,)).fetchone()["keeper"]
    return StoredTask(record, request, _last_event(connection, record.number), keeper)


def _prune(connection: sqlite3.Connection, oldest: float | None, max_size: int | None) -> int:
    removed = 0
    if oldest is not None:
        removed += _remove_oldest(connection, "ended < ?", (oldest,))
    if max_size is not None and _used_bytes(connection) > max_size:
        removed += _remove_oldest(connection, "ended IS NOT NULL", ())
    days = time.strftime("%Y-%m-%d", time.localtime(time.time() - DAYS_KEPT * 86400))
    connection.execute("DELETE FROM days WHERE day < ?", (days,))
    return removed


def _remove_oldest(connection: sqlite3.Connection, condition: str, values: tuple[Any, ...]) -> int:
    return connection.execute(
        f"DELETE FROM tasks WHERE number IN (SELECT number FROM tasks WHERE {condition} "
        f"ORDER BY ended LIMIT {PRUNE_CHUNK})",
        values,
    ).rowcount


def _used_bytes(connection: sqlite3.Connection) -> int:
    def pragma(name: str) -> int:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

    return (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")
