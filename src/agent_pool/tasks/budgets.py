"""The budgets of a day: what all tasks and those of each project may use, and have used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from agent_pool.settings import Settings
from agent_pool.text import seconds_text


@dataclass(slots=True)
class DaySum:
    """What was used on a day."""

    tokens: int = 0
    cost_usd: float = 0.0


class DayBudgets:
    """The sums of the current day, and the limits from the settings; it reads no clock.

    Attributes:
        day: the day of the sums, as ``2026-11-27`` in local time.
        has_subscription: the sign-in is a subscription, whose tasks cost no money by themselves.
    """

    def __init__(self, settings: Settings) -> None:
        self.day = ""
        self.has_subscription = False
        self._settings = settings
        self._total = DaySum()
        self._projects: dict[str, DaySum] = {}

    @property
    def is_limited(self) -> bool:
        """Return whether any budget of a day is set."""
        wanted = self._settings
        limits = (
            *(wanted.daily_budget_usd, wanted.daily_tokens),
            *(wanted.project_daily_budget_usd, wanted.project_daily_tokens),
        )
        return any(one is not None for one in limits)

    def begin_day(self, day: str, sums: Mapping[str, tuple[int, float]]) -> None:
        """Begin a day with what its tasks have used so far."""
        self.day = day
        self._total, self._projects = DaySum(), {}
        for project, (tokens, cost) in sums.items():
            self._add(project, tokens, cost)

    def add(self, day: str, project: str, tokens: int, cost_usd: float) -> None:
        """Add to the sums of a day; another day than the current one begins it."""
        if day != self.day:
            self.begin_day(day, {})
        self._add(project, tokens, cost_usd)

    def _add(self, project: str, tokens: int, cost_usd: float) -> None:
        for one in (self._total, self._projects.setdefault(project, DaySum())):
            one.tokens += tokens
            one.cost_usd += cost_usd

    def used(self, project: str) -> DaySum:
        """Return the sums of a project's day."""
        return self._projects.get(project, DaySum())

    def left(self, day: str, project: str) -> tuple[float | None, int | None]:
        """Return the US dollars and the tokens that a task of a project can use; None for any."""
        limits = self._limits(day, project)
        usd = [most - used for _, kind, used, most in limits if kind == "usd"]
        tokens = [int(most - used) for _, kind, used, most in limits if kind == "tokens"]
        return min(usd, default=None), min(tokens, default=None)

    def problem(self, now: datetime, project: str) -> str:
        """Return which budget of the day is used up, with the numbers; empty if none is."""
        for name, kind, used, most in self._limits(day_of(now), project):
            if used >= most:
                numbers = _numbers(kind, used, most)
                whose = f"of the project {project}" if name.startswith("project") else "of all"
                return (
                    f"the tasks {whose} have used {numbers} today (setting {name}); the day ends "
                    f"in {seconds_text(_seconds_left(now))}"
                )
        return ""

    def _limits(self, day: str, project: str) -> list[tuple[str, str, float, float]]:
        """Return name, kind, what was used and the limit for each budget that counts."""
        if day != self.day:
            self.begin_day(day, {})
        wanted, own = self._settings, self.used(project)
        found: list[tuple[str, str, float, float | None]] = [
            ("daily_tokens", "tokens", self._total.tokens, wanted.daily_tokens),
            ("project_daily_tokens", "tokens", own.tokens, wanted.project_daily_tokens),
        ]
        if not self.has_subscription or wanted.budget_with_subscription:
            total, limit = self._total.cost_usd, wanted.daily_budget_usd
            found.append(("daily_budget_usd", "usd", total, limit))
            limit = wanted.project_daily_budget_usd
            found.append(("project_daily_budget_usd", "usd", own.cost_usd, limit))
        return [(name, kind, used, most) for name, kind, used, most in found if most is not None]


def day_of(now: datetime) -> str:
    """Return the day of a local time, as ``2026-11-27``."""
    return now.date().isoformat()


def _seconds_left(now: datetime) -> float:
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time())
    return (midnight - now.replace(tzinfo=None)).total_seconds()


def _numbers(kind: str, used: float, most: float) -> str:
    if kind == "usd":
        return f"${used:.4f} of ${most:.2f}"
    return f"{used:,.0f} of {most:,.0f} tokens"
