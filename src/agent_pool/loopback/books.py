"""What was billed, request by request and by model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from agent_pool.loopback.cache import Usage


@dataclass(frozen=True, slots=True)
class Line:
    """One billed request; `index` is its `Request.index`."""

    index: int
    model: str
    is_side: bool
    usage: Usage


@dataclass(frozen=True, slots=True)
class Account:
    """A sum of lines."""

    requests: int = 0
    usage: Usage = field(default_factory=Usage)

    def __add__(self, other: Account) -> Account:
        return Account(self.requests + other.requests, _add(self.usage, other.usage))


class Books:
    """The account of one server.

    A request is entered when its reply begins, with the output tokens of the whole reply; failures
    are not billed. The totals cover everything, `lines` the last `keep` requests.
    """

    def __init__(self, keep: int = 1000) -> None:
        self._lines: deque[Line] = deque(maxlen=keep)
        self._by_model: dict[str, Account] = {}

    def enter(self, line: Line) -> None:
        """Add a request to the books."""
        self._lines.append(line)
        self._by_model[line.model] = self._by_model.get(line.model, Account()) + _one(line)

    @property
    def lines(self) -> list[Line]:
        """The last requests, oldest first."""
        return list(self._lines)

    @property
    def by_model(self) -> dict[str, Account]:
        """Totals since the server started."""
        return dict(self._by_model)

    @property
    def total(self) -> Account:
        """Everything since the server started."""
        return _sum(self._by_model.values())

    def since(self, index: int) -> Account:
        """The sum of the kept lines from request `index` on: what a task cost."""
        return _sum(_one(line) for line in self._lines if line.index >= index)


def _one(line: Line) -> Account:
    return Account(1, line.usage)


def _sum(accounts: Iterable[Account]) -> Account:
    return sum(accounts, start=Account())


def _add(one: Usage, two: Usage) -> Usage:
    return Usage(*(getattr(one, of.name) + getattr(two, of.name) for of in fields(Usage)))
