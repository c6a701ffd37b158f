"""What a turn took, read from the CLI's `result` frame."""

from __future__ import annotations

from dataclasses import dataclass

from agent_pool.claude.frames import Frame, number_of

_NAMES = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cache_write_tokens": "cacheCreationInputTokens",
    "cache_read_tokens": "cacheReadInputTokens",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, all models together."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(a - b for a, b in zip(_values(self), _values(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Account:
    """What was used, and what it costs by the CLI's list prices."""

    usage: Usage = Usage()
    cost_usd: float = 0.0

    def __add__(self, other: Account) -> Account:
        return Account(self.usage + other.usage, self.cost_usd + other.cost_usd)

    def __sub__(self, other: Account) -> Account:
        return Account(self.usage - other.usage, self.cost_usd - other.cost_usd)

    def since(self, earlier: Account) -> Account:
        """What these running totals gained; all of them if they have restarted since."""
        gained = self - earlier
        has_restarted = min(*_values(gained.usage), gained.cost_usd) < 0
        return self if has_restarted else gained


def running_account(frame: Frame) -> Account:
    """The totals of a `result` frame: all turns since the process started or was cleared."""
    models = frame.get("modelUsage")
    entries = models.values() if isinstance(models, dict) else ()
    usage = sum((_usage(entry) for entry in entries if isinstance(entry, dict)), Usage())
    return Account(usage, number_of(frame, "total_cost_usd"))


def _usage(entry: Frame) -> Usage:
    return Usage(**{ours: int(number_of(entry, theirs)) for ours, theirs in _NAMES.items()})


def _values(usage: Usage) -> tuple[int, ...]:
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_write_tokens,
        usage.cache_read_tokens,
    )
