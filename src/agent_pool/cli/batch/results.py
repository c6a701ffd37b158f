"""The results of a batch: one JSON object a line, written at once, and read again to go on."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from agent_pool import AgentPoolError, ConfigError, TaskResult
from agent_pool.cli.batch.calls import Call
from agent_pool.cli.batch.stdout import Stdout, Writer
from agent_pool.cli.command import describe

_BEGINNING: Final = b'{"line": '
"""How every line begins, by which one that was cut off is told from a stranger's."""


class Results:
    """Where results go.

    Attributes:
        kept: the lines of the input that need not be run again: their last result, there before,
            is a success, and so is that of every other line of their conversation.
    """

    def __init__(self, file: Writer, kept: frozenset[int] = frozenset()) -> None:
        self.kept = kept
        self._file = file

    def add(self, call: Call, outcome: TaskResult | AgentPoolError) -> None:
        """Write down how a call ended.

        Raises OSError when that is not possible.
        """
        entry: dict[str, Any] = {"line": call.line}
        if call.id is not None:
            entry["id"] = call.id
        entry |= {"agent": call.agent, "call": call.digest}
        if isinstance(outcome, TaskResult):
            entry["result"] = outcome.as_json()
        else:
            entry |= describe(outcome)
        text = json.dumps(entry, ensure_ascii=False) + "\n"
        # Half a surrogate pair becomes the escape that JSON has for it.
        self._file.write(text.encode(errors="backslashreplace"))
        self._file.flush()


@contextmanager
def _stdout() -> Iterator[Writer]:
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # something that only looks like one
        yield sys.stdout.buffer
        return
    sys.stdout.flush()
    stdout = Stdout(number)
    yield stdout
    stdout.finish()


@contextmanager
def open_results(path: Path | None, calls: Sequence[Call]) -> Iterator[Results]:
    """The file to go on with, or stdout.

    Raises:
        ConfigError: the file holds something else than results of these calls, or another batch
            is writing to it.
    """
    if path is None:
        with _stdout() as stdout:
            yield Results(stdout)
        return
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: expected a file that can be read again later")
    try:
        opened = path.open("a+b")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
    with opened as file:
        _lock(file, path)
        succeeded = _read(file, path, calls)
        yield Results(file, _complete(succeeded, calls))


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{path}: another batch is writing to it; wait for its end, or name another file"
        ) from None


def _read(file: BinaryIO, path: Path, calls: Sequence[Call]) -> frozenset[int]:
    """The lines of the input whose last result is a success; what was cut off is taken away."""
    file.seek(0)
    *whole, rest = file.read().split(b"\n")
    known = {call.line: call for call in calls}
    last: dict[int, bool] = {}
    for number, line in enumerate(whole, 1):
        if not line.strip():
            continue
        entry = _entry(line)
        if entry is None:
            raise ConfigError(f"{path}:{number}: this is no result of a batch; name another file")
        _check_belongs(entry, known, f"{path}:{number}")
        last[entry["line"]] = "result" in entry and not entry["result"].get("is_error")
    if rest:
        _take_away(file, path, rest)
    return frozenset(line for line, is_success in last.items() if is_success)


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line of the file says; None if it is not one of ours."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = (
        isinstance(entry, dict)
        and type(entry.get("line")) is int
        and isinstance(entry.get("call"), str)
        and (isinstance(entry.get("result"), dict) or isinstance(entry.get("error"), dict))
    )
    return entry if is_ours else None


def _check_belongs(entry: Mapping[str, Any], known: Mapping[int, Call], where: str) -> None:
    call = known.get(entry["line"])
    if call is None or call.digest != entry["call"]:
        what = "is no call" if call is None else "is another call now"
        raise ConfigError(
            f"{where}: the result of line {entry['line']}, which {what}: the file belongs to "
            "another input; name another file, or add to the end of the input only"
        )


def _take_away(file: BinaryIO, path: Path, rest: bytes) -> None:
    """Cut the file where its last whole line ends."""
    if not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
        raise ConfigError(f"{path}: its last line is no result of a batch; name another file")
    os.ftruncate(file.fileno(), file.seek(0, os.SEEK_END) - len(rest))


def _complete(succeeded: frozenset[int], calls: Sequence[Call]) -> frozenset[int]:
    """Without those whose conversation has a line to be run: it needs what was said before."""
    broken = {call.conversation for call in calls if call.line not in succeeded}
    broken.discard(None)
    return frozenset(
        call.line for call in calls if call.line in succeeded and call.conversation not in broken
    )
