"""The results of a batch: JSON Lines, written at once, and read again to continue a batch."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from agent_pool import ConfigError, Outcome, TaskResult
from agent_pool.cli.batch.lines import BatchLine
from agent_pool.cli.batch.stdout import ResultWriter, StdoutWriter
from agent_pool.cli.command import error_object
from agent_pool.text import printable_json

_LINE_START: Final = b'{"line": '
"""The start of every result; a partial last line that starts otherwise is not ours."""


class BatchResults:
    """Writes results to a file or to stdout.

    Attributes:
        finished: the numbers of the lines that need not be run again: the last result in the file
            is a success, and so is that of every other line of the same conversation.
    """

    def __init__(self, file: ResultWriter, finished: frozenset[int] = frozenset()) -> None:
        self.finished = finished
        self._file = file

    def add(self, line: BatchLine, outcome: Outcome) -> None:
        """Write how a task ended.

        Raises:
            OSError: that is not possible.
        """
        entry: dict[str, Any] = {"line": line.number}
        if line.id is not None:
            entry["id"] = line.id
        entry |= {"agent": line.agent, "call": line.digest}
        if isinstance(outcome, TaskResult):
            entry["result"] = outcome.as_json()
        else:
            entry |= error_object(outcome)
        self._file.write(f"{printable_json(entry)}\n".encode())
        self._file.flush()


@contextmanager
def _open_stdout() -> Iterator[ResultWriter]:
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a replacement that is not a real file, as in tests
        yield sys.stdout.buffer
        return
    sys.stdout.flush()
    stdout = StdoutWriter(number)
    yield stdout
    stdout.finish()


@contextmanager
def open_results(path: Path | None, lines: Sequence[BatchLine]) -> Iterator[BatchResults]:
    """Open the file of results, which can hold results of an earlier run; None is stdout.

    Raises:
        ConfigError: the file holds something else than results of these lines, cannot be opened,
            or another batch is writing to it.
    """
    if path is None:
        with _open_stdout() as stdout:
            yield BatchResults(stdout)
        return
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: expected a file that can be read again later")
    try:
        opened = path.open("a+b")  # every write goes to the end, also after the reads below
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
    with opened as file:
        _lock(file, path)
        succeeded = _read_successes(file, path, lines)
        yield BatchResults(file, _without_open_conversations(succeeded, lines))


def _lock(file: BinaryIO, path: Path) -> None:
    # The kernel releases the lock when the process ends, however it ends.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{path}: another batch is writing to it; wait for its end, or name another file"
        ) from None


def _read_successes(file: BinaryIO, path: Path, lines: Sequence[BatchLine]) -> frozenset[int]:
    """Return the numbers of the lines whose last result is a success; cut off a partial line."""
    file.seek(0)
    *whole, rest = file.read().split(b"\n")
    known = {line.number: line for line in lines}
    last: dict[int, bool] = {}
    for number, text in enumerate(whole, 1):
        if not text.strip():
            continue
        entry = _parse_entry(text)
        if entry is None:
            raise ConfigError(f"{path}:{number}: this is no result of a batch; name another file")
        _check_same_input(entry, known, f"{path}:{number}")
        last[entry["line"]] = "result" in entry and not entry["result"].get("is_error")
    if rest:
        # A batch that was killed while it wrote leaves a part of a line.
        _cut_off(file, path, rest)
    return frozenset(line for line, is_success in last.items() if is_success)


def _parse_entry(text: bytes) -> dict[str, Any] | None:
    """Parse a line of the file; return None if it is not a result of a batch."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_ours = (
        isinstance(entry, dict)
        and type(entry.get("line")) is int  # not isinstance: true is an int for it
        and isinstance(entry.get("call"), str)
        and (isinstance(entry.get("result"), dict) or isinstance(entry.get("error"), dict))
    )
    return entry if is_ours else None


def _check_same_input(entry: Mapping[str, Any], known: Mapping[int, BatchLine], where: str) -> None:
    line = known.get(entry["line"])
    if line is None or line.digest != entry["call"]:
        problem = "has no task now" if line is None else "has another task now"
        raise ConfigError(
            f"{where}: this is the result of line {entry['line']}, which {problem}: the file "
            "belongs to another input; name another file, or only add lines at the end of the input"
        )


def _cut_off(file: BinaryIO, path: Path, rest: bytes) -> None:
    """Remove the partial line at the end of the file."""
    if not (rest.startswith(_LINE_START) or _LINE_START.startswith(rest)):
        raise ConfigError(f"{path}: its last line is no result of a batch; name another file")
    os.ftruncate(file.fileno(), file.seek(0, os.SEEK_END) - len(rest))


def _without_open_conversations(
    succeeded: frozenset[int], lines: Sequence[BatchLine]
) -> frozenset[int]:
    """Remove the lines of each conversation that has a line to be run."""
    # That line needs the context of the earlier ones, and no worker has it any more.
    to_run = {line.conversation for line in lines if line.number not in succeeded}
    to_run.discard(None)
    return frozenset(
        line.number
        for line in lines
        if line.number in succeeded and line.conversation not in to_run
    )
