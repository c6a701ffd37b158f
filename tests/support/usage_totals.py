"""The tokens that the offline API has billed, by task, and their cost.

The prices are the CLI's, measured with tasks that use one kind of token each. So no number here
comes from the pool's own figures, and those can be checked against these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

import pytest

from agent_pool import AgentStats, TaskResult, Usage, WorkerInfo
from agent_pool.loopback import ModelReply
from support.pool_harness import PoolHarness

TOKEN_KINDS: Final = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
}
"""The pool's names of the kinds of tokens, and the API's."""


@dataclass(frozen=True)
class BilledRequest:
    """One billed request: its session, its model and its tokens."""

    session_id: str
    model: str
    usage: Usage
    is_side: bool


class UsageTotals:
    """The requests that a harness's API has billed."""

    def __init__(self, harness: PoolHarness) -> None:
        self._harness = harness
        self._prices: dict[str, dict[str, float]] = {}

    def mark(self) -> int:
        """Return the present position, for `since`."""
        return self._harness.api.requests[-1].index + 1 if self._harness.api.requests else 0

    def since(self, mark: int = 0) -> list[BilledRequest]:
        """Return the requests billed from this position on."""
        askers = {request.index: request for request in self._harness.api.requests}
        return [
            BilledRequest(
                askers[line.index].session_id,
                line.model,
                Usage(
                    **{ours: getattr(line.usage, theirs) for ours, theirs in TOKEN_KINDS.items()}
                ),
                line.is_side,
            )
            for line in self._harness.api.usage.entries
            if line.index >= mark
        ]

    def of(self, result: TaskResult, mark: int = 0) -> list[BilledRequest]:
        """Return the requests billed to the session of a result."""
        return [entry for entry in self.since(mark) if entry.session_id == result.session_id]

    async def learn_prices(self, *models: str) -> None:
        """Measure the CLI's price of a token of each kind, with agents of these models."""
        for model in models:
            name = self._harness.word("priced")
            self._harness.project.agent(name, description="Tests.", model=model)
            for kind, theirs in TOKEN_KINDS.items():
                counts = {**dict.fromkeys(TOKEN_KINDS.values(), 0), theirs: 1000}
                mark = self.mark()
                said = await self._harness.ask(
                    self._harness.plan(ModelReply("x", usage=counts)), name
                )
                (entry,) = self.since(mark)
                price = said.result.cost_usd / 1000
                self._prices.setdefault(entry.model, {})[kind] = price

    def cost(self, entries: Iterable[BilledRequest]) -> float:
        """Return the cost of these requests by the measured prices."""
        return sum(
            float(getattr(entry.usage, kind) * price)
            for entry in entries
            for kind, price in self._prices[entry.model].items()
        )


def total_usage(entries: Iterable[BilledRequest]) -> Usage:
    """Add up the tokens of these requests."""
    return sum((entry.usage for entry in entries), Usage())


def usage_and_cost(reports: Iterable[TaskResult | WorkerInfo]) -> tuple[Usage, float]:
    """Add up the tokens and the cost of these results or workers."""
    found = list(reports)
    return sum((one.usage for one in found), Usage()), sum(one.cost_usd for one in found)


async def agent_stats(harness: PoolHarness, agent: str) -> AgentStats:
    """Return the pool's figures for an agent."""
    stats = await harness.pool.stats()
    (found,) = [figures for figures in stats.agents if figures.agent == agent]
    return found


async def workers_of(harness: PoolHarness, agent: str) -> list[WorkerInfo]:
    """Return the living workers of an agent."""
    return [worker for worker in await harness.pool.workers() if worker.agent == agent]


def is_same(found: tuple[Usage, float], expected: tuple[Usage, float]) -> bool:
    """Check whether tokens and cost are the same; the cost can differ by rounding."""
    return found[0] == expected[0] and found[1] == pytest.approx(expected[1])


assert {field.name for field in fields(Usage)} == TOKEN_KINDS.keys(), (
    "every kind of token is checked"
)
