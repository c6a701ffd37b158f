from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.claude.framing import LineBuffer, decode, encode
from agent_pool.errors import LocalProtocolError, RemoteProtocolError
from claude.frames import ALL

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


def test_bytes_one_at_a_time_give_the_lines_of_a_real_conversation() -> None:
    data = b"".join(recording.data for recording in ALL.values())
    assert feed_all([bytes([byte]) for byte in data], len(data)) == data.splitlines()


def test_a_line_is_held_until_its_line_feed_comes() -> None:
    buffer = LineBuffer(100)
    assert buffer.feed(b'{"a":') == []
    assert buffer.feed(b"1}") == []
    assert buffer.feed(b"\n") == [b'{"a":1}']


@pytest.mark.parametrize("end", [b"", b"\n", b"\nmore", b"\n\n"])
def test_a_line_may_be_as_long_as_max_line(end: bytes) -> None:
    assert feed_all([b"x" * 10 + end], max_line=10)[:1] == [b"x" * 10][: len(end)]


@given(
    before=st.lists(st.binary(max_size=10).map(lambda line: line.replace(b"\n", b"") + b"\n")),
    excess=st.integers(1, 20),
    end=st.sampled_from([b"", b"\n", b"\nmore"]),
    cuts=st.lists(st.integers(0, 100)),
)
def test_a_longer_line_is_an_error_however_it_comes(
    before: list[bytes], excess: int, end: bytes, cuts: list[int]
) -> None:
    data = b"".join(before) + b"x" * (10 + excess) + end
    with pytest.raises(RemoteProtocolError, match=r"over 10 bytes \(setting max_line\)"):
        feed_all(chunked(data, cuts), max_line=10)


def test_any_number_of_lines_may_come_in_pieces() -> None:
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
def test_a_line_that_does_not_begin_as_an_object_is_no_frame(line: bytes) -> None:
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
        b'{"number":' + b"1" * 5000 + b"}",
        b'{"deep":' * 100_000,
    ],
    ids=["cut", "two", "words", "no UTF-8", "control", "huge number", "deep"],
)
def test_a_broken_object_is_an_error_that_shows_how_it_begins(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="broken JSON") as caught:
        decode(line)
    assert line[:8].decode() in str(caught.value)
    assert len(str(caught.value)) < 300


@given(frame=st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
def test_what_is_sent_is_one_line_and_reads_as_the_same_frame(frame: dict[str, Any]) -> None:
    line = encode(frame)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert decode(line) == frame


def test_characters_that_some_readers_take_for_line_ends_are_sent_escaped() -> None:
    line = encode({"text": ODD_SPACES})
    assert line.decode().splitlines() == [line.decode().rstrip("\n")]
    assert decode(line) == {"text": ODD_SPACES}


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object()])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises(LocalProtocolError, match="not sendable as JSON"):
        encode({"value": value})
