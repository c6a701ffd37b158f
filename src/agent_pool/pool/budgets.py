"""The budget of a task: how much it can use before it is interrupted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent_pool.agents import Agent
from agent_pool.errors import ConfigError
from agent_pool.models import TaskRequest, Usage
from agent_pool.settings import Settings


@dataclass(frozen=True, slots=True)
class BudgetLimit:
    """One limit.

    Attributes:
        most: US dollars or tokens.
        source: where the limit is set, for people.
    """

    most: float
    source: str


@dataclass(frozen=True, slots=True)
class TaskBudget:
    """The limits of a task; None for no limit.

    Attributes:
        usd: US dollars, by the list prices of the CLI.
        tokens: tokens, those read from the cache not counted.
    """

    usd: BudgetLimit | None = None
    tokens: BudgetLimit | None = None

    def problem(self, usage: Usage, cost_usd: float) -> str:
        """Return which limit is reached, with the numbers; empty if none is."""
        if (usd := self.usd) is not None and cost_usd >= usd.most:
            return (
                f"it has cost {cost_usd:.4f} US dollars by the list prices, and its budget is "
                f"{usd.most:g} ({usd.source})"
            )
        if (tokens := self.tokens) is not None and usage.budget_tokens >= tokens.most:
            return (
                f"it has used {usage.budget_tokens:,} tokens, those read from the cache not "
                f"counted, and its budget is {tokens.most:,} ({tokens.source})"
            )
        return ""

    def refuse_unwatched(self, version: str) -> None:
        """Refuse a limit for a CLI that does not report what a task has used while it runs.

        Raises:
            ConfigError: there is a limit.
        """
        sources = [limit.source for limit in (self.usd, self.tokens) if limit is not None]
        if sources:
            raise ConfigError(
                f"Claude Code {version} does not report what a task has used while it runs, so "
                f"its budget ({', '.join(sources)}) cannot be watched; update Claude Code, or "
                "leave the budget out"
            )


def budget_of(
    request: TaskRequest, agent: Agent | None, settings: Settings, *, has_subscription: bool
) -> TaskBudget:
    """Return the limits of a task.

    The smallest limit counts, so a call can lower what the definition or the user has set, and
    cannot raise it. Limits in US dollars do not count with a subscription, whose tokens cost no
    money, unless the setting `budget_with_subscription` is on.
    """
    own = agent.max_budget_usd if agent is not None else None
    place = f"maxBudgetUsd of the definition {agent.path}" if agent is not None else ""
    usd = _smallest(
        [
            (request.max_budget_usd, "max_budget_usd of the call"),
            (own, place),
            (settings.max_budget_usd, "setting max_budget_usd"),
        ]
    )
    tokens = _smallest(
        [
            (request.max_tokens, "max_tokens of the call"),
            (settings.max_tokens, "setting max_tokens"),
        ]
    )
    is_free = has_subscription and not settings.budget_with_subscription
    return TaskBudget(None if is_free else usd, tokens)


def _smallest(limits: Iterable[tuple[float | None, str]]) -> BudgetLimit | None:
    found = [BudgetLimit(most, source) for most, source in limits if most is not None]
    return min(found, key=lambda limit: limit.most, default=None)
