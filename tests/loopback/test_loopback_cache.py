"""The prompt cache: the tokens that are read and written, and the lifetime of an entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.loopback.cache import (
    InvalidRequest,
    PromptCache,
    estimate_tokens,
    find_minimum,
    measure_prefixes,
)
from agent_pool.loopback.usage import ApiUsage

Body = dict[str, Any]
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
FIVE_MINUTES = 300.0


def text(value: str, mark: Mapping[str, str] | None = None) -> Body:
    return {"type": "text", "text": value, **({"cache_control": mark} if mark else {})}


def body(
    *blocks: Body, tools: tuple[Body, ...] = (), system: tuple[Body, ...] = (), **fields: Any
) -> Body:
    return {
        "model": "claude-test",
        "tools": list(tools),
        "system": list(system),
        "messages": [{"role": "user", "content": list(blocks)}],
        **fields,
    }


def ask(cache: PromptCache, request: Body, now: float = 0.0) -> ApiUsage:
    """Send one request to the cache: read its prefixes, then write them as a reply does."""
    prompt = measure_prefixes(request)
    usage = cache.read(prompt, now)
    cache.write(prompt, now)
    return usage


def counts(usage: ApiUsage) -> tuple[int, int, int]:
    """Return the tokens that were read, written, and neither."""
    return (
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        usage.input_tokens,
    )


def size(*blocks: Body) -> int:
    """Count the tokens of blocks without the code under test."""
    texts = (json.dumps(b, ensure_ascii=False, separators=(",", ":")) for b in blocks)
    return -(-sum(map(len, texts)) // 4)


# Any prompt: up to six blocks, marks anywhere; few different texts, so that prefixes repeat.
marks = st.sampled_from([None, None, MARK])
blocks = st.builds(text, st.sampled_from(["a", "bb", "c" * 50, "ü" * 7, "\ud800"]), marks)
prompts = st.builds(
    lambda tools, system, messages: body(*messages, tools=tools, system=system),
    st.lists(blocks, max_size=1).map(tuple),
    st.lists(blocks, max_size=1).map(tuple),
    st.lists(blocks, min_size=1, max_size=2),
)


@given(st.lists(st.tuples(prompts, st.floats(0, 400)), min_size=1, max_size=8), st.integers(0, 30))
def test_read_written_and_plain_tokens_add_up_to_the_prompt(
    requests: list[tuple[Body, float]], minimum: int
) -> None:
    cache, now = PromptCache(minimum=minimum), 0.0
    for request, wait in requests:
        now += wait
        usage = ask(cache, request, now)
        assert usage.prompt_tokens == measure_prefixes(request).total_tokens
        assert min(counts(usage)) >= 0
        assert usage.ephemeral_5m_input_tokens == usage.cache_creation_input_tokens


@given(prompts, st.floats(0, FIVE_MINUTES, exclude_max=True))
def test_the_same_request_within_five_minutes_reads_the_written_prefix(
    request: Body, wait: float
) -> None:
    cache = PromptCache(minimum=0)
    first = ask(cache, request)
    again = ask(cache, request, wait)
    assert counts(again) == (first.cache_creation_input_tokens, 0, first.input_tokens)


@given(prompts, st.floats(FIVE_MINUTES, 1e6))
def test_the_same_request_after_five_minutes_finds_no_cache_entry(
    request: Body, wait: float
) -> None:
    cache = PromptCache(minimum=0)
    first = ask(cache, request)
    assert ask(cache, request, wait) == first


@given(prompts)
def test_a_request_without_a_mark_writes_no_cache_entry(request: Body) -> None:
    plain = json.loads(json.dumps(request))
    for part in (plain["tools"], plain["system"], plain["messages"][0]["content"]):
        for block in part:
            block.pop("cache_control", None)
    cache = PromptCache(minimum=0)
    assert counts(ask(cache, plain)) == (0, 0, measure_prefixes(request).total_tokens)
    assert len(cache) == 0


@given(prompts, st.data())
def test_a_changed_block_invalidates_every_prefix_that_holds_it(request: Body, data: Any) -> None:
    cache = PromptCache(minimum=0)
    ask(cache, request)
    changed = json.loads(json.dumps(request))
    parts = [*changed["tools"], *changed["system"], *changed["messages"][0]["content"]]
    position = data.draw(st.integers(0, len(parts) - 1))
    parts[position]["text"] += "!"
    before = [index for index, b in enumerate(parts[:position]) if "cache_control" in b]
    expected = measure_prefixes(request).tokens[before[-1]] if before else 0
    assert ask(cache, changed).cache_read_input_tokens == expected


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=50))
def test_the_number_of_cache_entries_is_bounded(seeds: list[int]) -> None:
    cache = PromptCache(minimum=0, max_entries=5)
    for seed in seeds:
        ask(cache, body(text(str(seed), MARK)))
        assert len(cache) <= 5
    again = ask(cache, body(text(str(seeds[-1]), MARK)))
    assert again.cache_creation_input_tokens == 0


def test_tokens_are_json_characters_divided_by_four_rounded_up() -> None:
    assert [estimate_tokens(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    blocks = [text("ü" * 9), text("\ud800"), {"type": "image", "source": {"n": [1, 2.5, None]}}]
    assert measure_prefixes(body(*blocks)).total_tokens == size(*blocks)


def test_a_string_is_one_block_of_text() -> None:
    spelled = body(text("hello"), system=(text("be kind"),))
    short = {**spelled, "system": "be kind", "messages": [{"role": "user", "content": "hello"}]}
    assert measure_prefixes(short) == measure_prefixes(spelled)


def test_a_mark_can_move_without_changing_the_prefix() -> None:
    cache = PromptCache(minimum=0)
    first, second = text("first"), text("second")
    ask(cache, body(text("first", MARK)))
    assert counts(ask(cache, body(first, text("second", MARK)))) == (
        size(first),
        size(first, second) - size(first),
        0,
    )


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ({"model": "claude-other"}, ()),
        ({"tools": [text("tool!", MARK)]}, ()),
        ({"system": [text("system!", MARK)]}, ("tool",)),
        ({"tool_choice": {"type": "any"}}, ("tool", "system")),
        ({"thinking": {"type": "disabled"}}, ("tool", "system")),
        (
            {"messages": [{"role": "assistant", "content": [text("hi", MARK)]}]},
            ("tool", "system"),
        ),
        ({"temperature": 0.5, "max_tokens": 5}, ("tool", "system", "hi")),
    ],
    ids=lambda value: "-".join(value),
)
def test_each_change_leaves_the_prefixes_it_cannot_affect_readable(
    change: Body, read: tuple[str, ...]
) -> None:
    request = body(text("hi", MARK), tools=(text("tool", MARK),), system=(text("system", MARK),))
    cache = PromptCache(minimum=0)
    ask(cache, request)
    usage = ask(cache, {**request, **change})
    assert usage.cache_read_input_tokens == size(*(text(value) for value in read))


def test_blocks_with_another_key_order_are_different_prefixes() -> None:
    cache = PromptCache(minimum=0)
    ask(cache, body({"type": "x", "a": 1, "b": 2, "cache_control": MARK}))
    usage = ask(cache, body({"type": "x", "b": 2, "a": 1, "cache_control": MARK}))
    assert usage.cache_read_input_tokens == 0


def test_the_same_bytes_in_another_place_are_another_prefix() -> None:
    cache = PromptCache(minimum=0)
    ask(cache, body(text("x"), tools=(text("same", MARK),)))
    usage = ask(cache, body(text("x"), system=(text("same", MARK),)))
    assert usage.cache_read_input_tokens == 0


def test_an_entry_cannot_be_read_before_the_response_has_begun() -> None:
    cache, prompt = PromptCache(minimum=0), measure_prefixes(body(text("x", MARK)))
    first = cache.read(prompt, 0)
    assert cache.read(prompt, 1) == first
    cache.write(prompt, 0)
    assert cache.read(prompt, 2).cache_read_input_tokens == prompt.total_tokens


def test_every_use_renews_the_lifetime_of_a_cache_entry() -> None:
    cache, request = PromptCache(minimum=0), body(text("x", MARK))
    ask(cache, request, 0)
    for now in (299, 598, 897):
        assert ask(cache, request, now).cache_creation_input_tokens == 0
    assert ask(cache, request, 897 + 300).cache_read_input_tokens == 0


def test_reading_renews_an_entry_that_is_no_longer_marked() -> None:
    cache = PromptCache(minimum=0)
    ask(cache, body(text("x", MARK)), 0)
    ask(cache, body(text("x"), text("y", MARK)), 299)
    assert ask(cache, body(text("x", MARK)), 598).cache_creation_input_tokens == 0


def test_a_use_renews_the_shorter_prefixes_as_well() -> None:
    cache = PromptCache(minimum=0)
    long = body(text("task", MARK), system=(text("system", MARK),))
    ask(cache, long, 0)
    ask(cache, long, 299)
    other = body(text("another", MARK), system=(text("system", MARK),))
    assert ask(cache, other, 598).cache_read_input_tokens == size(text("system"))


def test_the_lifetime_of_an_entry_starts_with_its_request() -> None:
    cache, prompt = PromptCache(minimum=0), measure_prefixes(body(text("x", MARK)))
    cache.read(prompt, 0)
    cache.write(prompt, 0)  # the response began later than that; the request counts
    assert cache.read(prompt, 300).cache_read_input_tokens == 0


def test_a_one_hour_entry_outlives_a_five_minute_entry() -> None:
    cache = PromptCache(minimum=0)
    request = body(text("task", MARK), system=(text("system", HOUR),))
    first = ask(cache, request)
    assert first.ephemeral_1h_input_tokens == size(text("system"))
    assert first.ephemeral_5m_input_tokens == first.prompt_tokens - size(text("system"))
    later = ask(cache, request, 3599)
    assert counts(later) == (
        first.ephemeral_1h_input_tokens,
        first.ephemeral_5m_input_tokens,
        0,
    )
    assert later.ephemeral_1h_input_tokens == 0
    assert ask(cache, request, 3599 + 3600) == first


def test_a_shorter_mark_does_not_shorten_a_one_hour_entry() -> None:
    cache = PromptCache(minimum=0)
    ask(cache, body(text("x", HOUR)))
    ask(cache, body(text("x", MARK)), 10)
    assert ask(cache, body(text("x", MARK)), 3000).cache_creation_input_tokens == 0


def conversation(length: int) -> Body:
    return body(*(text(str(n)) for n in range(length - 1)), text(str(length - 1), MARK))


@pytest.mark.parametrize(("new_blocks", "is_read"), [(1, True), (19, True), (20, False)])
def test_the_look_back_covers_twenty_positions(new_blocks: int, is_read: bool) -> None:
    cache = PromptCache(minimum=0)
    ask(cache, conversation(10))
    usage = ask(cache, conversation(10 + new_blocks))
    assert (usage.cache_read_input_tokens > 0) == is_read


def test_a_second_mark_looks_back_from_its_own_place() -> None:
    cache = PromptCache(minimum=0)
    ask(cache, conversation(10))
    long = conversation(40)
    long["messages"][0]["content"][20]["cache_control"] = MARK
    assert (
        ask(cache, long).cache_read_input_tokens == measure_prefixes(conversation(10)).total_tokens
    )


def test_many_tool_calls_in_a_row_are_one_position() -> None:
    cache = PromptCache(minimum=0)
    ask(cache, body(text("start", MARK)))
    calls = [{"type": "tool_use", "id": str(n), "name": "x", "input": {}} for n in range(30)]
    results = [{"type": "tool_result", "tool_use_id": str(n), "content": "y"} for n in range(30)]
    results[-1]["cache_control"] = MARK  # type: ignore[assignment]
    usage = ask(cache, body(text("start"), *calls, *results))
    assert usage.cache_read_input_tokens == size(text("start"))


def test_a_prefix_below_the_minimum_is_not_cached() -> None:
    cache = PromptCache(minimum=size(text("x")) + 1)
    assert counts(ask(cache, body(text("x", MARK)))) == (0, 0, size(text("x")))
    both = body(text("x", MARK), text("y", MARK))
    assert counts(ask(cache, both)) == (0, size(text("x"), text("y")), 0)
    assert len(cache) == 1


@pytest.mark.parametrize(
    ("model", "minimum"),
    [
        ("claude-opus-5-5", 512),
        ("claude-sonnet-5-5", 512),
        ("claude-sonnet-5", 1024),
        ("claude-haiku-5-5", 512),
        ("claude-opus-4-7", 2048),
        ("claude-opus-4-6[1m]", 4096),
        ("claude-opus-4-1-20250805", 1024),
        ("claude-sonnet-4-5-20250929", 1024),
        ("claude-haiku-4-5-20251001", 4096),
        ("claude-3-5-haiku-latest", 2048),
        ("someone-elses", 1024),
    ],
)
def test_the_minimum_prefix_length_depends_on_the_model(model: str, minimum: int) -> None:
    assert find_minimum(model) == minimum


def test_a_cache_without_a_minimum_uses_that_of_the_model() -> None:
    cache, request = PromptCache(), body(text("x" * 4 * 1000, MARK))
    assert ask(cache, request).cache_creation_input_tokens == 0
    assert ask(cache, {**request, "model": "claude-opus-5"}).cache_creation_input_tokens > 1000


def test_expired_entries_are_removed_at_the_next_request() -> None:
    cache = PromptCache(minimum=0)
    for n in range(100):
        ask(cache, body(text(str(n), MARK)))
    assert len(cache) == 100
    ask(cache, body(text("later", MARK)), 300)
    assert len(cache) == 1


def test_a_mark_on_the_request_marks_its_last_block() -> None:
    automatic, explicit = PromptCache(minimum=0), PromptCache(minimum=0)
    assert ask(automatic, body(text("x"), cache_control=MARK)) == ask(
        explicit, body(text("x", MARK))
    )
    both = body(text("x", MARK), cache_control=MARK)
    assert len(measure_prefixes(both).breakpoints) == 1


@pytest.mark.parametrize(
    ("request_body", "complaint"),
    [
        (body(*(text("x", MARK) for _ in range(5))), "A maximum of 4 blocks.* Found 5"),
        (body(text("x", {"type": "forever"})), "cache_control.type"),
        (body(text("x", {"type": "ephemeral", "ttl": "2h"})), "cache_control.ttl.*'2h'"),
        (body(text("x", MARK), text("y", HOUR)), "'1h' block must not come after"),
    ],
)
def test_invalid_marks_are_refused_as_the_api_does(request_body: Body, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        measure_prefixes(request_body)


def test_usage_has_the_json_form_of_an_api_reply() -> None:
    usage = ApiUsage(1, 20, 300, 4000, ephemeral_1h_input_tokens=5)
    assert usage.as_json() == {
        "input_tokens": 1,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 15, "ephemeral_1h_input_tokens": 5},
        "output_tokens": 4000,
        "service_tier": "standard",
    }
