"""The lines of a batch: read from JSON Lines, and all checked before any task is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from agent_pool import AgentPoolError, Attachment, ConfigError, PoolAPI, TaskRequest
from agent_pool.cli import call_options
from agent_pool.cli.command import parse_duration
from agent_pool.text import count, did_you_mean

KNOWN_FIELDS: Final = (
    *("agent", "task", "id", "timeout", "schema", "conversation"),
    *call_options.FIELDS,
)
NO_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType({})
_MAX_PROBLEMS: Final = 20
"""Wrong lines that an error shows; the others are counted."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One line of the input.

    Attributes:
        number: 1 for the first line.
        id: the user's id of the task; None if the line has none.
        request: the task.
        options: the options of the task that the line itself has, without values of variables.
    """

    number: int
    id: str | int | None
    request: TaskRequest
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def agent(self) -> str:
        """Return the agent's name."""
        return self.request.agent

    @property
    def conversation(self) -> tuple[str, str, str] | None:
        """Return a key that only lines of the same conversation have; None if it has none."""
        name = self.request.conversation
        return None if name is None else (self.request.project or "", self.agent, name)

    @property
    def digest(self) -> str:
        """Return a text that is equal for lines with the same task, apart from the timeout."""
        # Without the timeout, because a user gives a task that failed more time and runs the batch
        # again: its other results must stay valid.
        request = self.request
        task = [self.id, request.agent, request.task, request.schema, request.conversation]
        # Only those of the line: with other options of the command, such as a better model, a user
        # can run the tasks that failed again. A list without options is as it always was.
        if self.options:
            task.append(self.options)
        return hashlib.sha256(json.dumps(task).encode()).hexdigest()[:16]


async def read_lines(
    data: bytes, pool: PoolAPI, defaults: Mapping[str, Any] = NO_DEFAULTS
) -> list[BatchLine]:
    """Return the lines of a file as tasks; skip blank lines.

    `defaults` are fields of the request for each line that has no such field of its own.

    The last task of each conversation ends it, so that a batch needs no more conversations than
    tasks that run at once.

    Raises:
        ConfigError: lines are wrong, or the pool would refuse them; the message names each.
    """
    lines: list[BatchLine] = []
    problems: list[str] = []
    schemas: set[str] = set()
    # Some editors put a byte order mark before the first line.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            read = _parse_line(number, line, defaults)
            await _check(read, pool, schemas)
        except (AgentPoolError, ValueError) as error:
            problems.append(f"line {number}: {error}")
        else:
            lines.append(read)
    _refuse(problems + _find_repeated_ids(lines))
    return _with_conversation_ends(lines)


async def _check(line: BatchLine, pool: PoolAPI, schemas: set[str]) -> None:
    """Let the pool check a line; leave out a schema that was checked for an earlier line."""
    # The check of a schema takes milliseconds, and thousands of lines can have the same one.
    schema = json.dumps(line.request.schema)
    request = replace(line.request, schema=None) if schema in schemas else line.request
    await pool.check(request)
    schemas.add(schema)


def _with_conversation_ends(lines: Sequence[BatchLine]) -> list[BatchLine]:
    last = {line.conversation: line.number for line in lines}
    return [
        replace(line, request=replace(line.request, ends_conversation=True))
        if line.conversation is not None and last[line.conversation] == line.number
        else line
        for line in lines
    ]


def _refuse(problems: Sequence[str]) -> None:
    if not problems:
        return
    shown = list(problems[:_MAX_PROBLEMS])
    if len(problems) > _MAX_PROBLEMS:
        shown.append(f"and {len(problems) - _MAX_PROBLEMS} more")
    raise ConfigError(
        f"{count(len(problems), 'line')} of the batch cannot be run, so no task was started:\n  "
        + "\n  ".join(shown)
    )


def _parse_line(number: int, line: bytes, defaults: Mapping[str, Any]) -> BatchLine:
    try:
        found = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:  # from about a thousand nested arrays
        raise ValueError("not JSON that can be read: nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError('expected an object such as {"agent": "reviewer", "task": "Review."}')
    _check_field_names(found)
    fields = {name: value for name, value in found.items() if value is not None}
    task_id = _checked_id(fields.pop("id", None))
    if isinstance(fields.get("timeout"), str):
        fields["timeout"] = parse_duration(fields["timeout"])
    options = _shown_options(fields)
    if "cwd" in fields:
        fields["project"] = fields.pop("cwd")
    if "attach" in fields:
        fields["attachments"] = _read_files(fields.pop("attach"))
    return BatchLine(number, task_id, TaskRequest(**{**defaults, **fields}), options)


def _read_files(paths: object) -> tuple[Attachment, ...]:
    # All lines are checked before the first task, so their files are in memory together: a batch
    # of many large files is better split.
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"'attach': expected a list of paths, found {paths!r:.80}")
    return call_options.read_attachments(paths)


def _shown_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a line, of its variables only the names."""
    options = {name: fields[name] for name in call_options.FIELDS if name in fields}
    # A digest of a short secret could be reversed by trying.
    if isinstance(options.get("env"), dict):
        options["env"] = sorted(options["env"])
    return options


def _check_field_names(found: Mapping[str, Any]) -> None:
    for name in found:
        if name not in KNOWN_FIELDS:
            hint = did_you_mean(name, KNOWN_FIELDS, most=1)
            names = ", ".join(KNOWN_FIELDS)
            raise ValueError(f"{name!r} is unknown{hint or f'; the known names are {names}'}")
    for name in ("agent", "task"):
        if found.get(name) is None:
            raise ValueError(f"{name!r} is missing")


def _checked_id(found: object) -> str | int | None:
    if found is None or (isinstance(found, str | int) and not isinstance(found, bool)):
        return found
    raise ValueError(f"'id': expected text or a whole number, found {found!r}")


def _find_repeated_ids(lines: Sequence[BatchLine]) -> list[str]:
    first: dict[str | int, int] = {}
    return [
        f"line {line.number}: the id {line.id!r} is that of line {first[line.id]}"
        for line in lines
        if line.id is not None and first.setdefault(line.id, line.number) != line.number
    ]
