"""The prompt cache's accounts, as the Messages API keeps them. No IO; time is an argument.

What is modelled, after the public documentation of prompt caching:

- A prompt is tools, then system, then messages, block by block. A prefix is known by the model
  and by its exact bytes: the JSON of every block as the client ordered it, `cache_control` left
  out, because a breakpoint may move without changing what it marks. `tool_choice` and `thinking`
  belong to the messages' part.
- A request may mark at most four breakpoints. Each one that is long enough for the model writes
  one entry. Reading looks at the breakpoint and at the positions before it, twenty in all, for an
  entry that an earlier request wrote; a run of tool calls, or of tool results, is one position.
- An entry lives for five minutes (or an hour, `"ttl": "1h"`) from the start of the last request
  that wrote or read it, and can be read only once the response that wrote it has begun.

What is not modelled is the tokenizer: tokens are characters of JSON divided by four, rounded up.
Counts are differences of running totals, so read + written + plain input is always the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal

from pydantic_core import to_json

from agent_pool.errors import AgentPoolError

MAX_BREAKPOINTS: Final = 4
LOOKBACK: Final = 20
LIFETIME: Final[Mapping[str, float]] = {"5m": 300.0, "1h": 3600.0}
CHARACTERS_PER_TOKEN: Final = 4
SWEEP_EVERY: Final = 60.0  # seconds between searches for expired entries

DEFAULT_MINIMUM: Final = 1024
# The first prefix that fits a model's name decides; names that are not listed use the default.
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
    """A request that the API would refuse with status 400; the message is what it would say."""

    code = "invalid_request"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, named as in the API's replies.

    The prompt's tokens are `input_tokens` + `cache_creation_input_tokens` +
    `cache_read_input_tokens`; `ephemeral_1h_input_tokens` is the part of the creation that was
    written for an hour.
    """

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0

    @property
    def ephemeral_5m_input_tokens(self) -> int:
        return self.cache_creation_input_tokens - self.ephemeral_1h_input_tokens

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt, however it was paid for."""
        return self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens

    def as_json(self) -> dict[str, Any]:
        """The `usage` object of a reply."""
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
class Breakpoint:
    block: int
    ttl: Ttl


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt reduced to what caching needs.

    Attributes:
        model: the model's name.
        digests: for each block, the digest of the prefix that ends with it.
        tokens: for each block, the tokens of that prefix.
        positions: for each block, its number among the look-back's positions.
        breakpoints: the marked blocks, first to last.
    """

    model: str
    digests: tuple[bytes, ...]
    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    breakpoints: tuple[Breakpoint, ...]

    @property
    def total(self) -> int:
        """Tokens of the whole prompt."""
        return self.tokens[-1] if self.tokens else 0


def tokens_of(characters: int) -> int:
    """Tokens for so many characters of JSON: a quarter, rounded up."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def canonical(value: Any) -> bytes:
    """The JSON that tokens are counted on and prefixes known by: no spaces, keys as they came."""
    try:
        return to_json(value, inf_nan_mode="constants")
    except ValueError:  # lone surrogates, which JSON can hold and UTF-8 cannot
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")


def count_characters(text: bytes) -> int:
    """The characters of UTF-8 text."""
    return len(text) if text.isascii() else len(text.decode("utf-8", "surrogatepass"))


def measure(body: Mapping[str, Any]) -> Prompt:
    """The prompt of a request's body, every block serialised once.

    Raises InvalidRequest when `cache_control` is malformed, too frequent or out of order.
    """
    digests: list[bytes] = []
    tokens: list[int] = []
    positions: list[int] = []
    marks: list[Breakpoint] = []
    state = blake2b(body["model"].encode("utf-8", "surrogatepass"), digest_size=16)
    characters, position, last_run = 0, -1, ""
    for index, (label, block) in enumerate(_blocks(body)):
        ttl, run = _ttl(block.get("cache_control")), _run(block)
        text = canonical(_unmarked(block) if ttl else block)
        state.update(label)
        state.update(text)
        characters += count_characters(text)
        if not run or run != last_run:
            position += 1
        last_run = run
        digests.append(state.copy().digest())
        tokens.append(tokens_of(characters))
        positions.append(position)
        if ttl:
            marks.append(Breakpoint(index, ttl))
    if ttl := _ttl(body.get("cache_control")):
        marks = _with_automatic(marks, len(digests) - 1, ttl)
    _check(marks)
    return Prompt(body["model"], tuple(digests), tuple(tokens), tuple(positions), tuple(marks))


def _blocks(body: Mapping[str, Any]) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    """Every block with a label that keeps equal bytes in different places apart."""
    for tool in body.get("tools") or ():
        yield b"\0tool", tool
    for block in _as_blocks(body.get("system") or ()):
        yield b"\0system", block
    opening = b"\0messages" + canonical([body.get("tool_choice"), body.get("thinking")])
    for message in body["messages"]:
        opening += b"\0" + str(message["role"]).encode("utf-8", "surrogatepass")
        for block in _as_blocks(message["content"]):
            yield opening, block
            opening = b"\0"


def _as_blocks(content: Any) -> Any:
    return ({"type": "text", "text": content},) if isinstance(content, str) else content


def _run(block: Mapping[str, Any]) -> str:
    kind = block.get("type")
    return kind if kind in ("tool_use", "tool_result") else ""


def _unmarked(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != "cache_control"}


def _ttl(control: Any) -> Ttl | None:
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


def _with_automatic(marks: list[Breakpoint], last: int, ttl: Ttl) -> list[Breakpoint]:
    """A mark on the request itself stands for one on its last block."""
    if marks and marks[-1].block == last:
        return marks
    return [*marks, Breakpoint(last, ttl)]


def _check(marks: list[Breakpoint]) -> None:
    if len(marks) > MAX_BREAKPOINTS:
        raise InvalidRequest(
            f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. "
            f"Found {len(marks)}."
        )
    ttls = [mark.ttl for mark in marks]
    if ttls != sorted(ttls):  # "1h" sorts before "5m", as it must stand
        raise InvalidRequest("cache_control.ttl: a '1h' block must not come after a '5m' block")


def minimum_for(model: str) -> int:
    """The shortest prefix, in tokens, that `model` caches."""
    for prefix, minimum in MINIMUM_BY_MODEL:
        if model.startswith(prefix):
            return minimum
    return DEFAULT_MINIMUM


class PromptCache:
    """The entries, and what a request reads from and writes to them.

    Args:
        minimum: tokens that a prefix needs to be cached; None asks `minimum_for(model)`.
        max_entries: how many are kept; beyond it the least recently used are dropped.

    `now` is any clock in seconds that does not run backwards.
    """

    def __init__(self, *, minimum: int | None = None, max_entries: int = 10_000) -> None:
        self._minimum = minimum
        self._max_entries = max_entries
        # Kept in order of last use, so that the front is what to drop.
        self._entries: dict[bytes, tuple[float, Ttl]] = {}
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def charge(self, prompt: Prompt, now: float) -> Usage:
        """The prompt's tokens as they would be billed now; refreshes the entry it reads.

        Nothing is written before `commit`. `output_tokens` is left 0.
        """
        hit = self._longest_hit(prompt, now)
        if hit >= 0:
            self._refresh(prompt.digests[hit], now)
        return self._bill(prompt, hit)

    def commit(self, prompt: Prompt, now: float) -> None:
        """Write the prompt's breakpoints, or renew them; `now` is when its request started.

        To be called when the response begins.
        """
        for mark in self._writable(prompt):
            key = prompt.digests[mark.block]
            entry = (now + LIFETIME[mark.ttl], mark.ttl)
            self._entries[key] = max(entry, self._entries.pop(key, entry))
        self._prune(now)

    def _bill(self, prompt: Prompt, hit: int) -> Usage:
        read = prompt.tokens[hit] if hit >= 0 else 0
        writable = self._writable(prompt)
        end = max([read, *(prompt.tokens[mark.block] for mark in writable)])
        hour = max([read, *(prompt.tokens[mark.block] for mark in writable if mark.ttl == "1h")])
        return Usage(
            input_tokens=prompt.total - end,
            cache_creation_input_tokens=end - read,
            cache_read_input_tokens=read,
            ephemeral_1h_input_tokens=hour - read,
        )

    def _writable(self, prompt: Prompt) -> list[Breakpoint]:
        minimum = minimum_for(prompt.model) if self._minimum is None else self._minimum
        return [mark for mark in prompt.breakpoints if prompt.tokens[mark.block] >= minimum]

    def _longest_hit(self, prompt: Prompt, now: float) -> int:
        """The last block whose prefix is cached and within reach of a breakpoint, else -1."""
        for mark in reversed(prompt.breakpoints):
            first = prompt.positions[mark.block] - LOOKBACK + 1
            for block in range(mark.block, -1, -1):
                if prompt.positions[block] < first:
                    break
                if self._is_live(prompt.digests[block], now):
                    return block
        return -1

    def _is_live(self, key: bytes, now: float) -> bool:
        entry = self._entries.get(key)
        return entry is not None and now < entry[0]

    def _refresh(self, key: bytes, now: float) -> None:
        _, ttl = self._entries.pop(key)
        self._entries[key] = (now + LIFETIME[ttl], ttl)

    def _prune(self, now: float) -> None:
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_EVERY
            self._entries = {key: entry for key, entry in self._entries.items() if now < entry[0]}
        while len(self._entries) > self._max_entries:
            del self._entries[next(iter(self._entries))]
