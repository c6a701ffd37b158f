"""Adds up the tokens of requests, from the records of the offline model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from agent_pool.loopback import ApiUsage, ModelRequest, PromptCache, measure_prefixes
from benchmarks.results import TokenCounts, TokenUse
from benchmarks.workload import is_from_agent

_HEADER: Final = "x-anthropic-billing-header"


def token_use(requests: Iterable[ModelRequest]) -> TokenUse:
    """Add up the tokens of requests that were sent one after another to an empty prompt cache."""
    billed = [(request, request.usage) for request in requests if request.usage is not None]
    return TokenUse(
        sent=_sum(usage for _, usage in billed),
        without_header=_sum(_bill_without_header(request for request, _ in billed)),
        session=_sum(usage for request, usage in billed if not is_from_agent(request)),
    )


def _bill_without_header(requests: Iterable[ModelRequest]) -> Iterable[ApiUsage]:
    """Bill the same requests again with a new cache and without the attribution header.

    The header differs from one conversation to the next. Whether the real service counts it as
    part of the prompt is not documented.
    """
    cache = PromptCache()
    for request in requests:
        prompt = measure_prefixes({**request.body, "system": _system_without_header(request.body)})
        yield cache.read(prompt, request.received_at)
        cache.write(prompt, request.received_at)


def _system_without_header(body: Mapping[str, Any]) -> list[Any]:
    system = body.get("system") or []
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    return [block for block in blocks if not str(block.get("text")).startswith(_HEADER)]


def _sum(usages: Iterable[ApiUsage]) -> TokenCounts:
    total = TokenCounts()
    for usage in usages:
        total = TokenCounts(
            total.written + usage.cache_creation_input_tokens,
            total.read + usage.cache_read_input_tokens,
            total.uncached + usage.input_tokens,
        )
    return total
