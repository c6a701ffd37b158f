"""What requests took from the prompt cache, from the offline model's books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from agent_pool.cli.bench.figures import Accounts, Tokens
from agent_pool.cli.bench.scene import is_agents
from agent_pool.loopback import PromptCache, Request, Usage, measure

_HEADER: Final = "x-anthropic-billing-header"


def accounts(requests: Iterable[Request]) -> Accounts:
    """The accounts of requests that came one after another to an empty cache."""
    billed = [(request, request.usage) for request in requests if request.usage is not None]
    return Accounts(
        sent=_sum(usage for _, usage in billed),
        headless=_sum(_without_header(request for request, _ in billed)),
        beside=_sum(usage for request, usage in billed if not is_agents(request)),
    )


def _without_header(requests: Iterable[Request]) -> Iterable[Usage]:
    """The same requests billed anew, as if the attribution header were no part of the prompt.

    Whether the service counts it is not documented; it differs from one conversation to the next.
    """
    cache = PromptCache()
    for request in requests:
        prompt = measure({**request.body, "system": _headless(request.body)})
        yield cache.charge(prompt, request.received_at)
        cache.commit(prompt, request.received_at)


def _headless(body: Mapping[str, Any]) -> list[Any]:
    system = body.get("system") or []
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    return [block for block in blocks if not str(block.get("text")).startswith(_HEADER)]


def _sum(usages: Iterable[Usage]) -> Tokens:
    total = Tokens()
    for usage in usages:
        total = Tokens(
            total.written + usage.cache_creation_input_tokens,
            total.read + usage.cache_read_input_tokens,
            total.plain + usage.input_tokens,
        )
    return total
