"""The API's own books beside the pool's: what was billed, by task, and what that costs.

The prices are the CLI's, found out by asking it for single kinds of tokens; so nothing here is
taken from the accounts that are checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

import pytest

from agent_pool import AgentStats, TaskResult, Usage, WorkerInfo
from agent_pool.loopback import Reply
from isolation.lab import Lab

KINDS: Final = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
}
"""The pool's names of the kinds of tokens, and the API's."""


@dataclass(frozen=True)
class Entry:
    """One billed request: who asked, and for how much."""

    session_id: str
    model: str
    usage: Usage
    is_side: bool


class Ledger:
    """What a lab's API has billed."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._prices: dict[str, dict[str, float]] = {}

    def mark(self) -> int:
        """Where the books stand, for `since`."""
        return self._lab.api.requests[-1].index + 1 if self._lab.api.requests else 0

    def since(self, mark: int = 0) -> list[Entry]:
        """What was billed from there on."""
        askers = {request.index: request for request in self._lab.api.requests}
        return [
            Entry(
                askers[line.index].session_id,
                line.model,
                Usage(**{ours: getattr(line.usage, theirs) for ours, theirs in KINDS.items()}),
                line.is_side,
            )
            for line in self._lab.api.books.lines
            if line.index >= mark
        ]

    def of(self, result: TaskResult, mark: int = 0) -> list[Entry]:
        """What was billed to the session of a result."""
        return [entry for entry in self.since(mark) if entry.session_id == result.session_id]

    async def learn_prices(self, *models: str) -> None:
        """Find out what the CLI takes a token of each kind to cost, with agents of these models."""
        for model in models:
            name = self._lab.word("priced")
            self._lab.world.agent(name, description="Tests.", model=model)
            for kind, theirs in KINDS.items():
                counts = {**dict.fromkeys(KINDS.values(), 0), theirs: 1000}
                mark = self.mark()
                said = await self._lab.ask(self._lab.plan(Reply("x", usage=counts)), name)
                (entry,) = self.since(mark)
                price = said.result.cost_usd / 1000
                self._prices.setdefault(entry.model, {})[kind] = price

    def cost(self, entries: Iterable[Entry]) -> float:
        """What these cost by the prices that were found out."""
        return sum(
            getattr(entry.usage, kind) * price
            for entry in entries
            for kind, price in self._prices[entry.model].items()
        )


def usage_of(entries: Iterable[Entry]) -> Usage:
    """All tokens of these."""
    return sum((entry.usage for entry in entries), Usage())


def all_of(accounts: Iterable[TaskResult | WorkerInfo]) -> tuple[Usage, float]:
    """Tokens and cost of these together."""
    found = list(accounts)
    return sum((one.usage for one in found), Usage()), sum(one.cost_usd for one in found)


def account_of(lab: Lab, agent: str) -> AgentStats:
    """What the pool says of an agent."""
    (found,) = [account for account in lab.pool.stats().agents if account.agent == agent]
    return found


async def workers_of(lab: Lab, agent: str) -> list[WorkerInfo]:
    """The living workers of an agent."""
    return [worker for worker in await lab.pool.list() if worker.agent == agent]


def same(found: tuple[Usage, float], expected: tuple[Usage, float]) -> bool:
    """Whether the tokens are the same and the cost is, but for rounding."""
    return found[0] == expected[0] and found[1] == pytest.approx(expected[1])


assert {field.name for field in fields(Usage)} == KINDS.keys(), "every kind of token is checked"
