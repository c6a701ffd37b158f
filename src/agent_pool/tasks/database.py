"""A SQLite file for asyncio: one thread that writes, a few that read, and no lost update.

All writes that wait are one transaction, so sixteen clients share one write to the disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from agent_pool.errors import StoreFailed

log = logging.getLogger("agent_pool")

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
"""A part of a transaction; runs in a thread of the database, never on the event loop."""

READERS: Final = 3
MAX_BATCH: Final = 1000
"""Operations of one transaction at most, so that the first of them does not wait for too many."""
RETRY_SECONDS: Final = 1.0
"""The pause before an update that could not be written is tried again."""
CLOSE_TIMEOUT: Final = 10.0
"""Seconds in which `close` waits for the writer: a disk can hang."""
BUSY_SECONDS: Final = 5.0
"""Seconds for which a connection waits for the lock of another program, such as a backup."""
WAL_LIMIT: Final = 16 * 2**20
ERASE_SECONDS: Final = 1.0
"""For so long what was deleted can be left in the write-ahead log."""

_OWN_FAULTS: Final = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
)
"""Errors of SQLite for one operation alone; all others are about the disk or the file."""


@dataclass(eq=False, slots=True)
class _Write:
    """One operation that waits for the writer.

    Attributes:
        future: gets the result, or the error; None for an update that is kept until it is written.
        done: called on the event loop when a kept update is written.
    """

    operation: Operation[Any]
    future: asyncio.Future[Any] | None = None
    done: Callable[[], None] | None = None
    result: Any = None
    error: Exception | None = None


class Database:
    """One SQLite file in WAL mode; a transaction is on the disk when its writer hears of it.

    Args:
        path: the file, in a folder that only this user can enter.
        migrations: the steps from each version of the tables to the next one.
    """

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        self.path = path
        self._migrations = migrations
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._connections: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._lock: int | None = None
        self._writer: sqlite3.Connection | None = None
        self._is_failing = False
        self._erase_at: float | None = None  # only the writer's thread uses it

    async def open(self) -> None:
        """Make or open the file, and bring its tables to the newest version.

        Raises:
            StoreFailed: another pool uses the file, it is newer than this program, or it cannot
                be read or written.
        """
        self._loop = asyncio.get_running_loop()
        self._lock = self._take_lock()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="agent-pool store", daemon=True
        )
        self._thread.start()
        try:
            await opened
        except BaseException:
            self._release_lock()
            raise
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="agent-pool reader")

    def _take_lock(self) -> int:
        # Not on the file itself: closing any descriptor of it would drop SQLite's own locks.
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self.failure("opened", error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise StoreFailed(
                f"{self.path}: another agent-pool uses this store of tasks; use its daemon, or "
                "set AGENT_POOL_STATE_DIR to another folder"
            ) from None
        return descriptor

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def hand_over(self) -> None:
        """Let another pool own the file; both can write to it from now on."""
        self._release_lock()

    async def close(self) -> None:
        """Write what waits, and close the file; a second call has no effect.

        Updates that cannot be written are lost then, and logged.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._writes.put(None)
        await asyncio.to_thread(thread.join, CLOSE_TIMEOUT)
        if self._readers is not None:
            ended = asyncio.to_thread(self._readers.shutdown, True, cancel_futures=True)
            with suppress(TimeoutError):  # a query that waits for a disk for ever
                await asyncio.wait_for(ended, CLOSE_TIMEOUT)
                for connection in self._connections:
                    connection.close()
        self._connections.clear()
        self._release_lock()

    # Writing

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation in a transaction; return its result when it is on the disk.

        Raises:
            StoreFailed: it could not be written; nothing of it is in the file.
        """
        return await self.begin_write(operation)

    def begin_write(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Begin as `write`, without waiting; the future must be awaited."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._thread is None:
            future.set_exception(StoreFailed(f"{self.path}: the store of tasks is closed"))
        else:
            self._writes.put(_Write(operation, future))
        return future

    def post(self, operation: Operation[object], done: Callable[[], None] | None = None) -> None:
        """Write an update that must not be lost: it is tried again until it is written.

        Updates are written in the order in which they are posted.
        """
        self._writes.put(_Write(operation, done=done))

    async def flush(self) -> None:
        """Wait until every earlier write is on the disk.

        Raises:
            StoreFailed: the file cannot be written now.
        """
        await self.write(lambda _: None)

    def erase_soon(self) -> None:
        """Remove what an operation deletes from the write-ahead log too; call it in the operation.

        `secure_delete` overwrites it in the file only. The log keeps its old pages until new ones
        take their place, on an idle daemon for hours.
        """
        if self._erase_at is None:
            self._erase_at = time.monotonic() + ERASE_SECONDS

    def _erase_log(self, connection: sqlite3.Connection) -> None:
        now = time.monotonic()
        if self._erase_at is None or now < self._erase_at:
            return
        self._erase_at = now + ERASE_SECONDS  # the next attempt, if this one fails
        with suppress(sqlite3.Error):
            # Without a wait for readers: other writes must not wait for them too.
            connection.execute("PRAGMA busy_timeout = 0")
            is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if not is_busy:
                self._erase_at = None
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_SECONDS)}")

    def _next_wait(self, *, is_retrying: bool) -> float | None:
        """Return for how many seconds the writer waits for operations; None for any time."""
        times = [RETRY_SECONDS] if is_retrying else []
        if self._erase_at is not None:
            times.append(max(0.0, self._erase_at - time.monotonic()))
        return min(times, default=None)

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            connection = self._writer = self._open_writer()
        except (sqlite3.Error, OSError, StoreFailed) as error:
            failed = error if isinstance(error, StoreFailed) else self.failure("opened", error)
            self._call(_set_error, opened, failed)
            return
        self._call(_set_result, opened, None)
        kept: list[_Write] = []
        is_closing = False
        while not is_closing:
            batch = self._take_batch(self._next_wait(is_retrying=bool(kept)))
            is_closing = None in batch
            kept = self._write_batch(connection, [*kept, *(one for one in batch if one)])
            self._erase_log(connection)
        if kept:
            log.error("%s: %d updates of tasks could not be written", self.path, len(kept))
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def _take_batch(self, timeout: float | None) -> list[_Write | None]:
        batch: list[_Write | None] = []
        try:
            batch.append(self._writes.get(timeout=timeout))
            while len(batch) < MAX_BATCH:
                batch.append(self._writes.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _write_batch(self, connection: sqlite3.Connection, batch: list[_Write]) -> list[_Write]:
        """Write operations in one transaction; return those that must be tried again."""
        if not batch:
            return []
        try:
            self._transact(connection, batch)
        except Exception as error:
            # A full disk ends the transaction in the middle of a statement.
            with suppress(sqlite3.Error):
                connection.rollback()
            failed = self.failure("written", error)
            if not self._is_failing:  # once, and not with each try
                log.error("%s", failed)
            self._is_failing = True
            waiting = [one for one in batch if one.future is not None]
            for one in waiting:
                one.error = failed
            self._call(_report, waiting)
            return [one for one in batch if one.future is None]
        if self._is_failing:
            log.warning("%s: the store of tasks can be written again", self.path)
        self._is_failing = False
        self._call(_report, batch)
        return []

    def _transact(self, connection: sqlite3.Connection, batch: Sequence[_Write]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for one in batch:
            connection.execute("SAVEPOINT one")
            try:
                one.result, one.error = one.operation(connection), None
            except Exception as error:
                if isinstance(error, sqlite3.Error) and not isinstance(error, _OWN_FAULTS):
                    raise
                connection.execute("ROLLBACK TO one")
                one.error = error
                if one.future is None:
                    log.exception("%s: a bug lost an update of a task", self.path)
            connection.execute("RELEASE one")
        connection.execute("COMMIT")

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        # The loop can be closed already if its program did not close the store.
        with suppress(RuntimeError):
            assert self._loop is not None
            self._loop.call_soon_threadsafe(function, *args)

    # Reading

    async def read(self, query: Operation[T]) -> T:
        """Run a query in a thread of its own; it sees every write that is on the disk.

        Raises:
            StoreFailed: the file cannot be read.
        """
        if self._thread is None or self._readers is None:
            raise StoreFailed(f"{self.path}: the store of tasks is not open")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, self._query, query)
        except sqlite3.Error as error:
            raise self.failure("read", error) from None

    def _query(self, query: Operation[T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
            self._connections.append(connection)
        return query(connection)

    # The file

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        # Made first: SQLite gives its other files the mode of this one.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.path.chmod(0o600)
        connection = self._connect()
        try:
            # Before the first table, or it has no effect.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
            # Values of `env` are secrets: what is deleted is overwritten.
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA foreign_keys = ON")
            self._migrate(connection)
            self.erase_soon()  # what a program that was killed has left in the log
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        newest = len(self._migrations)
        if version > newest:
            raise StoreFailed(
                f"{self.path}: this store of tasks has version {version}, and this agent-pool "
                f"knows versions up to {newest}; install the newer agent-pool again, or move the "
                "file away"
            )
        for number, step in enumerate(self._migrations[version:], version + 1):
            # One transaction a step: a program that is killed here leaves a whole version.
            script = f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT"
            connection.executescript(script)

    def failure(self, what: str, error: Exception) -> StoreFailed:
        """Build the error for a file that could not be opened, read or written."""
        text = str(error)
        if "full" in text or "No space" in text:
            advice = "free some space on its disk, then try again"
        elif "malformed" in text or "not a database" in text:
            advice = "it is broken: move it away, and agent-pool begins a new one"
        else:
            advice = "check the disk and the permissions of the folder, then try again"
        return StoreFailed(f"{self.path}: the store of tasks cannot be {what}: {text}; {advice}")


def _report(batch: Sequence[_Write]) -> None:
    for one in batch:
        if one.future is None:
            if one.done is not None:
                one.done()
        elif one.error is not None:
            _set_error(one.future, one.error)
        else:
            _set_result(one.future, one.result)


def _set_result(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # its caller can have been cancelled
        future.set_result(result)


def _set_error(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
