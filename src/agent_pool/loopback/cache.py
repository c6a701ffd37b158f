"""The prompt cache of the Messages API, and its token counts. No IO; time is an argument.

It follows Anthropic's public documentation of prompt caching:

- A prompt is a list of blocks: tools, then system, then messages. A prefix is identified by the
  model and by the exact bytes of its blocks: the JSON in the client's order of keys, without
  `cache_control`, because a breakpoint can move without changing the prefix. `tool_choice` and
  `thinking` belong to the messages.
- A request has at most four breakpoints. Each one writes one entry, if its prefix is long enough
  for the model. A read checks the breakpoint and the positions before it, twenty in all, for an
  entry that an earlier request wrote. A run of tool calls, or of tool results, is one position.
- An entry expires five minutes (or an hour, `"ttl": "1h"`) after the start of the last request
  that wrote or read it. It can be read once the response that wrote it has begun.

The tokenizer is not modelled: a token is four characters of JSON, rounded up. Each count is the
difference of two running totals, so read + written + other input is always the whole prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Any, Final, Literal, NamedTuple

from pydantic_core import to_json

from agent_pool.errors import AgentPoolError
from agent_pool.loopback.usage import ApiUsage

MAX_BREAKPOINTS: Final = 4
LOOKBACK_POSITIONS: Final = 20
TTL_SECONDS: Final[Mapping[str, float]] = {"5m": 300.0, "1h": 3600.0}
CHARACTERS_PER_TOKEN: Final = 4
EXPIRY_CHECK_SECONDS: Final = 60.0
"""Seconds between two searches for expired entries."""

DEFAULT_MINIMUM: Final = 1024
"""Tokens of the shortest prefix that a model caches, for models that are not listed below."""
# The first name that the model's name starts with decides.
MINIMUM_BY_MODEL: Final = (
    ("claude-opus-5", 512),
    ("claude-sonnet-5-5", 512),
    ("claude-haiku-5-5", 512),
    ("claude-fable-5", 512),
    ("claude-mythos-5", 512),
    ("claude-mythos-preview", 2048),
    ("claude-opus-4-7", 2048),
    ("claude-opus-4-6", 4096),
    ("claude-opus-4-5", 4096),
    ("claude-haiku-4-5", 4096),
    ("claude-3-5-haiku", 2048),
    ("claude-3-haiku", 2048),
)

Ttl = Literal["5m", "1h"]


class InvalidRequest(AgentPoolError):  # noqa: N818 - named as the errors in agent_pool.errors
    """A request that the API refuses with status 400; the text is the API's error message."""

    code = "invalid_request"


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """A block with `cache_control`.

    Attributes:
        block: the block's index in the prompt.
        ttl: how long the entry lives.
    """

    block: int
    ttl: Ttl


@dataclass(frozen=True, slots=True)
class PromptPrefixes:
    """The prefixes of one prompt, as the cache needs them.

    Attributes:
        model: the model's name.
        digests: for each block, the digest of the prefix that ends with it.
        tokens: for each block, the tokens of that prefix.
        positions: for each block, its position, counted as the look-back counts.
        breakpoints: the breakpoints, in the order of their blocks.
    """

    model: str
    digests: tuple[bytes, ...]
    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    breakpoints: tuple[Breakpoint, ...]

    @property
    def total_tokens(self) -> int:
        """Return the tokens of the whole prompt; 0 if it has no block."""
        return self.tokens[-1] if self.tokens else 0


def estimate_tokens(characters: int) -> int:
    """Return the tokens for this many characters of JSON: a quarter, rounded up."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def to_compact_json(value: Any) -> bytes:
    """Return UTF-8 JSON without spaces, keys in their given order; prefixes are made of it."""
    try:
        return to_json(value, inf_nan_mode="constants")
    except ValueError:
        # JSON can hold lone surrogates ("\ud800"), UTF-8 cannot, and to_json refuses them.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")


def count_characters(text: bytes) -> int:
    """Count the characters of UTF-8 text."""
    # Most prompts are ASCII, where a byte is a character and nothing has to be decoded.
    return len(text) if text.isascii() else len(text.decode("utf-8", "surrogatepass"))


def measure_prefixes(body: Mapping[str, Any]) -> PromptPrefixes:
    """Measure the prefixes of the prompt in a request's body; each block is serialised once.

    Args:
        body: a body that `check_body` has accepted.

    Raises:
        InvalidRequest: a `cache_control` is malformed, there are more than four of them, or one
            with ttl `1h` comes after one with ttl `5m`.
    """
    labelled = list(_iter_blocks(body))
    blocks = [block for _, block in labelled]
    breakpoints = _find_breakpoints(body, blocks)
    texts = [to_compact_json(_without_cache_control(block)) for block in blocks]
    labels = (label for label, _ in labelled)
    return PromptPrefixes(
        model=body["model"],
        digests=tuple(_iter_digests(body["model"], zip(labels, texts, strict=True))),
        tokens=tuple(map(estimate_tokens, accumulate(map(count_characters, texts)))),
        positions=_number_positions(blocks),
        breakpoints=tuple(breakpoints),
    )


def _iter_blocks(body: Mapping[str, Any]) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    """Yield each block with a label, so that equal blocks in different places differ."""
    # Labels begin with a NUL byte. JSON escapes it, so a block's text cannot imitate a label.
    for tool in body.get("tools") or ():
        yield b"\0tool", tool
    for block in _to_blocks(body.get("system") or ()):
        yield b"\0system", block
    # A change of these two invalidates the cached messages, but neither tools nor system.
    label = b"\0messages" + to_compact_json([body.get("tool_choice"), body.get("thinking")])
    for message in body["messages"]:
        label += b"\0" + str(message["role"]).encode("utf-8", "surrogatepass")
        for block in _to_blocks(message["content"]):
            yield label, block
            label = b"\0"


def _to_blocks(content: Any) -> Any:
    # The API takes a string as short for one text block; both give the same prefix.
    return ({"type": "text", "text": content},) if isinstance(content, str) else content


def _without_cache_control(block: Mapping[str, Any]) -> Mapping[str, Any]:
    if block.get("cache_control") is None:
        return block
    return {key: value for key, value in block.items() if key != "cache_control"}


def _iter_digests(model: str, labelled_texts: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield the digest of each prefix, shortest first."""
    # One model cannot read the entries of another one, so each digest covers the name too.
    state = blake2b(model.encode("utf-8", "surrogatepass"), digest_size=16)
    for label, text in labelled_texts:
        state.update(label)
        state.update(text)
        yield state.copy().digest()


def _number_positions(blocks: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Number the blocks from 0; tool calls in a row, or tool results in a row, share a number."""
    types = ["", *map(_run_type, blocks)]
    is_new = [not type_ or type_ != previous for previous, type_ in pairwise(types)]
    return tuple(count - 1 for count in accumulate(is_new))


def _run_type(block: Mapping[str, Any]) -> str:
    block_type = block.get("type")
    return block_type if block_type in ("tool_use", "tool_result") else ""


def _find_breakpoints(
    body: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]]
) -> list[Breakpoint]:
    """Find the breakpoints, in order, and check them. Raises InvalidRequest for a wrong one."""
    points = [
        Breakpoint(index, ttl)
        for index, block in enumerate(blocks)
        if (ttl := _parse_ttl(block.get("cache_control")))
    ]
    # A `cache_control` of the request itself stands for one on its last block.
    if ttl := _parse_ttl(body.get("cache_control")):
        last = len(blocks) - 1
        if not points or points[-1].block != last:
            points.append(Breakpoint(last, ttl))
    _check_breakpoints(points)
    return points


def _parse_ttl(control: Any) -> Ttl | None:
    if control is None:
        return None
    if not isinstance(control, Mapping) or control.get("type") != "ephemeral":
        raise InvalidRequest(f"cache_control.type: expected 'ephemeral', got {control!r:.80}")
    match control.get("ttl", "5m"):
        case "5m":
            return "5m"
        case "1h":
            return "1h"
        case other:
            raise InvalidRequest(f"cache_control.ttl: expected '5m' or '1h', got {other!r:.80}")


def _check_breakpoints(points: list[Breakpoint]) -> None:
    if len(points) > MAX_BREAKPOINTS:
        raise InvalidRequest(
            f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. "
            f"Found {len(points)}."
        )
    ttls = [point.ttl for point in points]
    # The API wants longer lifetimes first; as a string, "1h" sorts before "5m".
    if ttls != sorted(ttls):
        raise InvalidRequest("cache_control.ttl: a '1h' block must not come after a '5m' block")


def find_minimum(model: str) -> int:
    """Find the shortest prefix, in tokens, that `model` caches."""
    for name, minimum in MINIMUM_BY_MODEL:
        if model.startswith(name):
            return minimum
    return DEFAULT_MINIMUM


class CacheEntry(NamedTuple):
    """One cached prefix: when it expires, in seconds of the caller's clock, and its ttl."""

    expires_at: float
    ttl: Ttl


class PromptCache:
    """The cached prefixes, which requests read and write.

    Args:
        minimum: tokens of the shortest prefix that is cached; None takes `find_minimum(model)`.
        max_entries: how many entries are kept; above it the least recently used ones are dropped.

    `now` is in seconds, of any clock that does not run backwards.
    """

    def __init__(self, *, minimum: int | None = None, max_entries: int = 10_000) -> None:
        self._minimum = minimum
        self._max_entries = max_entries
        # In order of last use: each use removes an entry and adds it again at the end.
        self._entries: dict[bytes, CacheEntry] = {}
        self._next_expiry_check = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, prompt: PromptPrefixes, now: float) -> ApiUsage:
        """Count the prompt's tokens at the start of its request, and renew the entry it reads.

        It writes no entry, see `write`; `output_tokens` is 0.
        """
        block = self._find_cached_block(prompt, now)
        if block >= 0:
            self._renew(prompt.digests[block], now)
        return self._count(prompt, block)

    def write(self, prompt: PromptPrefixes, now: float) -> None:
        """Write, or renew, an entry for each breakpoint. Call it when the response begins.

        Args:
            prompt: the prompt of the request.
            now: when the request started, not its response; lifetimes count from there.
        """
        for point in self._cacheable_breakpoints(prompt):
            key = prompt.digests[point.block]
            entry = CacheEntry(now + TTL_SECONDS[point.ttl], point.ttl)
            # An hour's entry keeps its time when a later request marks it with only 5 minutes.
            self._entries[key] = max(entry, self._entries.pop(key, entry))
        self._drop_entries(now)

    def _count(self, prompt: PromptPrefixes, cached_block: int) -> ApiUsage:
        read = prompt.tokens[cached_block] if cached_block >= 0 else 0
        points = self._cacheable_breakpoints(prompt)
        # `read` is the lower bound: a breakpoint inside the part that was read writes no tokens.
        # 1h breakpoints come before those of 5 minutes, so the part up to the last is for an hour.
        end = max([read, *(prompt.tokens[point.block] for point in points)])
        hour = max([read, *(prompt.tokens[point.block] for point in points if point.ttl == "1h")])
        return ApiUsage(
            input_tokens=prompt.total_tokens - end,
            cache_creation_input_tokens=end - read,
            cache_read_input_tokens=read,
            ephemeral_1h_input_tokens=hour - read,
        )

    def _cacheable_breakpoints(self, prompt: PromptPrefixes) -> list[Breakpoint]:
        minimum = find_minimum(prompt.model) if self._minimum is None else self._minimum
        return [point for point in prompt.breakpoints if prompt.tokens[point.block] >= minimum]

    def _find_cached_block(self, prompt: PromptPrefixes, now: float) -> int:
        """Find the last block with a cached prefix, near enough to a breakpoint; -1 without one."""
        # The longest prefix is the cheapest one, so both loops begin at the end.
        for point in reversed(prompt.breakpoints):
            first = prompt.positions[point.block] - LOOKBACK_POSITIONS + 1
            for block in range(point.block, -1, -1):
                if prompt.positions[block] < first:
                    break
                if self._is_cached(prompt.digests[block], now):
                    return block
        return -1

    def _is_cached(self, key: bytes, now: float) -> bool:
        entry = self._entries.get(key)
        return entry is not None and now < entry.expires_at

    def _renew(self, key: bytes, now: float) -> None:
        ttl = self._entries.pop(key).ttl
        self._entries[key] = CacheEntry(now + TTL_SECONDS[ttl], ttl)

    def _drop_entries(self, now: float) -> None:
        if now >= self._next_expiry_check:
            self._next_expiry_check = now + EXPIRY_CHECK_SECONDS
            live = {key: entry for key, entry in self._entries.items() if now < entry.expires_at}
            self._entries = live
        while len(self._entries) > self._max_entries:
            del self._entries[next(iter(self._entries))]
