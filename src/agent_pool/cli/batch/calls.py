"""The calls of a batch: read from JSON Lines, and checked before any of them is run."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent_pool import AgentPool, AgentPoolError, ConfigError
from agent_pool.cli.command import duration
from agent_pool.cli.output import count

KNOWN: Final = ("agent", "task", "id", "timeout", "schema", "conversation")
_ASKED: Final = ("agent", "task", "schema", "conversation")
_TOLD: Final = 20
"""Wrong lines that an error tells of; the others are counted."""


@dataclass(frozen=True, slots=True)
class Call:
    """One line of the input.

    Attributes:
        line: its number, 1 for the first.
        id: what the user calls it, None for nothing.
        arguments: what `AgentPool.map` takes.
    """

    line: int
    id: str | int | None
    arguments: Mapping[str, Any]

    @property
    def agent(self) -> str:
        """The agent's name."""
        return str(self.arguments["agent"])

    @property
    def conversation(self) -> tuple[str, str] | None:
        """What tells its conversation from all others; None if it belongs to none."""
        name = self.arguments.get("conversation")
        return None if name is None else (self.agent, name)

    @property
    def digest(self) -> str:
        """Tells calls that ask for something else apart; more time asks for nothing else."""
        asked = [self.id, *(self.arguments.get(name) for name in _ASKED)]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def read_calls(data: bytes, pool: AgentPool) -> list[Call]:
    """The calls that a file holds; blank lines are skipped.

    Raises:
        ConfigError: a line is no call, or the pool would refuse it; tells of every such line.
    """
    calls: list[Call] = []
    problems: list[str] = []
    schemas: set[str] = set()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            call = _read(number, line)
            _check(call, pool, schemas)
        except (AgentPoolError, ValueError) as error:
            problems.append(f"line {number}: {error}")
        else:
            calls.append(call)
    _refuse(problems + _repeated_ids(calls))
    return calls


def _check(call: Call, pool: AgentPool, schemas: set[str]) -> None:
    """Have the pool check a call, each schema once: that takes milliseconds."""
    schema = json.dumps(call.arguments.get("schema"))
    known = ("schema",) if schema in schemas else ()
    pool.check(**{name: value for name, value in call.arguments.items() if name not in known})
    schemas.add(schema)


def _refuse(problems: Sequence[str]) -> None:
    if not problems:
        return
    told = list(problems[:_TOLD])
    if len(problems) > _TOLD:
        told.append(f"and {len(problems) - _TOLD} more")
    raise ConfigError(
        f"{count(len(problems), 'line')} of the batch cannot be run, so nothing was:\n  "
        + "\n  ".join(told)
    )


def _read(number: int, line: bytes) -> Call:
    try:
        found = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError('expected an object such as {"agent": "reviewer", "task": "Review."}')
    _check_names(found)
    call = {name: value for name, value in found.items() if value is not None}
    if isinstance(call.get("timeout"), str):
        call["timeout"] = duration(call["timeout"])
    return Call(number, _checked_id(call.pop("id", None)), call)


def _check_names(found: Mapping[str, Any]) -> None:
    for name in found:
        if name not in KNOWN:
            close = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(KNOWN)}"
            raise ValueError(f"{name!r} is not known{hint}")
    for name in ("agent", "task"):
        if found.get(name) is None:
            raise ValueError(f"{name!r} is missing")


def _checked_id(found: object) -> str | int | None:
    if found is None or (isinstance(found, str | int) and not isinstance(found, bool)):
        return found
    raise ValueError(f"'id': expected text or a whole number, found {found!r}")


def _repeated_ids(calls: Sequence[Call]) -> list[str]:
    first: dict[str | int, int] = {}
    return [
        f"line {call.line}: the id {call.id!r} is that of line {first[call.id]}"
        for call in calls
        if call.id is not None and first.setdefault(call.id, call.line) != call.line
    ]
