from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.claude.protocol.framing import LineBuffer, decode, encode
from agent_pool.errors import LocalProtocolError, RemoteProtocolError
from support.recorded_frames import ALL

HALVES = st.characters(categories=["Cs"])
TEXTS_WITH_HALVES = st.text(st.characters() | HALVES, max_size=20)
ODD_SPACES = "a\u2028b\u2029c\u0085d\x0be\x0cf\rg"
VALUES = st.text(max_size=20) | st.lists(st.text(max_size=5) | st.integers(), max_size=3)


def feed_all(chunks: list[bytes], max_line: int = 1000) -> list[bytes]:
    buffer = LineBuffer(max_line)
    return [line for chunk in chunks for line in buffer.feed(chunk)]


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


@given(lines=st.lists(st.binary(max_size=30)), cuts=st.lists(st.integers(0, 500)))
def test_any_chunking_of_the_bytes_gives_the_same_lines(
    lines: list[bytes], cuts: list[int]
) -> None:
    data = b"\n".join(lines)
    assert feed_all(chunked(data, cuts)) == data.split(b"\n")[:-1]


def test_single_bytes_give_the_lines_of_a_recorded_conversation() -> None:
    data = b"".join(recording.data for recording in ALL.values())
    assert feed_all([bytes([byte]) for byte in data], len(data)) == data.splitlines()


def test_a_line_is_held_until_its_line_feed_comes() -> None:
    buffer = LineBuffer(100)
    assert buffer.feed(b'{"a":') == []
    assert buffer.feed(b"1}") == []
    assert buffer.feed(b"\n") == [b'{"a":1}']


@pytest.mark.parametrize("end", [b"", b"\n", b"\nmore", b"\n\n"])
def test_a_line_can_be_as_long_as_max_line(end: bytes) -> None:
    assert feed_all([b"x" * 10 + end], max_line=10)[:1] == [b"x" * 10][: len(end)]


@given(
    before=st.lists(st.binary(max_size=10).map(lambda line: line.replace(b"\n", b"") + b"\n")),
    excess=st.integers(1, 20),
    end=st.sampled_from([b"", b"\n", b"\nmore"]),
    cuts=st.lists(st.integers(0, 100)),
)
def test_a_line_over_max_line_is_refused_in_any_chunking(
    before: list[bytes], excess: int, end: bytes, cuts: list[int]
) -> None:
    data = b"".join(before) + b"x" * (10 + excess) + end
    with pytest.raises(RemoteProtocolError, match=r"more than 10 bytes \(setting max_line\)"):
        feed_all(chunked(data, cuts), max_line=10)


def test_any_number_of_lines_can_arrive_in_pieces() -> None:
    assert feed_all([b"12345", b"678\n"] * 5, max_line=10) == [b"12345678"] * 5


def test_an_endless_line_is_an_error_before_it_ends() -> None:
    buffer = LineBuffer(1 << 20)
    for _ in range(16):
        assert buffer.feed(b"x" * (1 << 16)) == []
    with pytest.raises(RemoteProtocolError, match="1,048,576 bytes"):
        buffer.feed(b"x")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"   ",
        b"(node:12) ExperimentalWarning: something",
        b"[1, 2]",
        b'"a text"',
        b"null",
        b"\xff\xfe\x00",
    ],
)
def test_a_line_without_an_opening_brace_is_no_frame(line: bytes) -> None:
    assert decode(line) is None


@pytest.mark.parametrize("space", [b" ", b"\t", b"\r"])
def test_white_space_around_a_frame_is_allowed(space: bytes) -> None:
    assert decode(space + b'{"type":"result"}' + space) == {"type": "result"}


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"result"',
        b'{"type":"result"}{"type":"result"}',
        b"{not json}",
        b'{"text":"\xff"}',
        b'{"text":"\x00"}',
        '{"text":"\ud83d"}'.encode("utf-16-le", "surrogatepass"),
        b'{"number":' + b"1" * 5000 + b"}",
        b'{"deep":' * 100_000,
    ],
    ids=["cut", "two", "words", "no UTF-8", "control", "UTF-16", "huge number", "deep"],
)
def test_error_for_broken_json_shows_the_start_of_the_line(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="broken JSON") as caught:
        decode(line)
    assert line[:8].decode() in str(caught.value)
    assert len(str(caught.value)) < 300


@given(frame=st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
def test_an_encoded_frame_is_one_line_and_decodes_unchanged(frame: dict[str, Any]) -> None:
    line = encode(frame)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert decode(line) == frame


def test_unusual_line_end_characters_are_escaped_when_sent() -> None:
    line = encode({"text": ODD_SPACES})
    assert line.decode().splitlines() == [line.decode().rstrip("\n")]
    assert decode(line) == {"text": ODD_SPACES}


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object()])
def test_a_value_that_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(LocalProtocolError, match="not sendable as JSON"):
        encode({"value": value})


# Half surrogate pairs


def texts_in(value: object) -> list[str]:
    """Return all texts of a JSON value, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in texts_in(item)]
    return [text for item in value for text in texts_in(item)] if isinstance(value, list) else []


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (rb"cut \ud83d", "cut ?"),
        (rb"\uDE00 cut", "? cut"),
        (rb"\udbff\udbff\ud800x\udfff", "???x?"),
        (rb"\ud83d\ude00", "\U0001f600"),
        (rb"\ud83d\ude00\ud83d", "\U0001f600?"),
        (rb"\ude00\ud83d", "??"),
        ("\U0001f600 \ud7ff \ue000".encode(), "\U0001f600 \ud7ff \ue000"),
        (rb"\ud7ff\ue000", "\ud7ff\ue000"),
        (rb"\\ud83d", r"\ud83d"),
        (b"\xed\xa0\xbd", "?"),
        (b"\xed\xbf\xbf \xed\x9f\xbf", "? \ud7ff"),
    ],
    ids=[
        *("first half", "second half", "only halves", "pair", "pair and half", "wrong order"),
        *("whole", "neighbours", "escaped backslash", "bytes", "bytes beside a neighbour"),
    ],
)
def test_half_a_surrogate_pair_becomes_a_question_mark(sent: bytes, read: str) -> None:
    assert decode(b'{"text":"' + sent + b'"}') == {"text": read}


def test_half_pairs_are_replaced_in_keys_and_at_any_depth() -> None:
    line = rb'{"\ud83d":[{"\ude00":["a\ud83d",1,null,true]}],"n":0.5}'
    assert decode(line) == {"?": [{"?": ["a?", 1, None, True]}], "n": 0.5}


@given(
    frame=st.dictionaries(
        TEXTS_WITH_HALVES,
        st.recursive(
            TEXTS_WITH_HALVES | st.integers() | st.none(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(TEXTS_WITH_HALVES, inner, max_size=3)
            ),
            max_leaves=5,
        ),
        max_size=3,
    ),
    is_escaped=st.booleans(),
)
def test_every_decoded_text_can_be_written_as_utf_8(
    frame: dict[str, Any], is_escaped: bool
) -> None:
    line = json.dumps(frame, ensure_ascii=is_escaped).encode("utf-8", "surrogatepass")
    decoded = decode(line)
    assert decoded is not None
    "".join(texts_in(decoded)).encode()


@given(text=TEXTS_WITH_HALVES)
def test_only_the_half_pairs_of_a_text_are_replaced(text: str) -> None:
    # JSON joins two halves that stand side by side in the right order.
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    expected = re.sub("[\ud800-\udfff]", "?", joined)
    assert decode(encode({"text": text})) == {"text": expected}
