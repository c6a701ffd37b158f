"""Token usage: of one request, request by request, and in total."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class ApiUsage:
    """Tokens of one request, or of several; the fields have the API's names.

    The prompt's tokens are `input_tokens` + `cache_creation_input_tokens` +
    `cache_read_input_tokens`.

    Attributes:
        input_tokens: the part of the prompt that was neither read from the cache nor written to it.
        cache_creation_input_tokens: the part that was written to the cache.
        cache_read_input_tokens: the part that was read from the cache.
        output_tokens: the reply.
        ephemeral_1h_input_tokens: the part of `cache_creation_input_tokens` that was written for
            an hour.
    """

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0

    def __add__(self, other: ApiUsage) -> ApiUsage:
        names = [each.name for each in fields(ApiUsage)]
        return ApiUsage(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def ephemeral_5m_input_tokens(self) -> int:
        """Return the tokens that were written to the cache for five minutes."""
        return self.cache_creation_input_tokens - self.ephemeral_1h_input_tokens

    @property
    def prompt_tokens(self) -> int:
        """Return the tokens of the whole prompt, cached or not."""
        return self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens

    def as_json(self) -> dict[str, Any]:
        """Return the `usage` object of a reply."""
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.cache_creation_input_tokens,
            "cache_read_input_tokens": self.cache_read_input_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.ephemeral_5m_input_tokens,
                "ephemeral_1h_input_tokens": self.ephemeral_1h_input_tokens,
            },
            "output_tokens": self.output_tokens,
            "service_tier": "standard",
        }


@dataclass(frozen=True, slots=True)
class UsageEntry:
    """The usage of one request.

    Attributes:
        index: the request's `ModelRequest.index`.
        model: the name of the model.
        is_side: the request's `ModelRequest.is_side`.
        usage: its tokens.
    """

    index: int
    model: str
    is_side: bool
    usage: ApiUsage


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """The sum of several entries: how many requests, and their tokens."""

    requests: int = 0
    usage: ApiUsage = field(default_factory=ApiUsage)

    def __add__(self, other: UsageTotal) -> UsageTotal:
        return UsageTotal(self.requests + other.requests, self.usage + other.usage)


class UsageLog:
    """The usage of one server: the last requests one by one, and the totals of all requests.

    A request is added when its reply begins, with the output tokens of the whole reply. An error
    response adds no entry, because the API bills no tokens for it.

    Args:
        keep: how many entries `entries` and `since` have at most; the totals have no such limit.
    """

    def __init__(self, keep: int = 1000) -> None:
        self._entries: deque[UsageEntry] = deque(maxlen=keep)
        self._by_model: dict[str, UsageTotal] = {}

    def add(self, entry: UsageEntry) -> None:
        """Add the usage of one request."""
        self._entries.append(entry)
        total = self._by_model.get(entry.model, UsageTotal())
        self._by_model[entry.model] = total + UsageTotal(1, entry.usage)

    @property
    def entries(self) -> list[UsageEntry]:
        """Return the last `keep` entries, oldest first."""
        return list(self._entries)

    @property
    def by_model(self) -> dict[str, UsageTotal]:
        """Return the totals of all requests since the server started, by model name."""
        return dict(self._by_model)

    @property
    def total(self) -> UsageTotal:
        """Return the total of all requests since the server started."""
        return _sum(self._by_model.values())

    def since(self, index: int) -> UsageTotal:
        """Return the total of the kept entries from request `index` on, e.g. of one task."""
        return _sum(UsageTotal(1, each.usage) for each in self._entries if each.index >= index)


def _sum(totals: Iterable[UsageTotal]) -> UsageTotal:
    return sum(totals, start=UsageTotal())
