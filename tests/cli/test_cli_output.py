"""Numbers and texts as they are printed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.cli.output import console
from agent_pool.text import (
    bytes_text,
    count,
    mebibytes,
    one_line,
    printable,
    printable_json,
    seconds_text,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 ms"),
        (0.0421, "42 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (99.94, "99.9 s"),
        (99.96, "1 min 40 s"),
        (119.6, "2 min 0 s"),
        (125, "2 min 5 s"),
        (7200, "120 min"),
    ],
)
def test_durations_are_shown_in_the_unit_that_fits(value: float, shown: str) -> None:
    assert seconds_text(value) == shown


def test_amounts_are_shown_with_their_unit() -> None:
    assert mebibytes(1_572_864_000) == "1,500 MiB"
    assert (bytes_text(512), bytes_text(190_000_000)) == ("512 B", "181.2 MiB")
    assert (count(1, "turn"), count(2000, "turn")) == ("1 turn", "2,000 turns")


@given(st.text(), st.integers(1, 90))
def test_one_line_gives_one_printable_line_of_bounded_length(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line) <= width
    assert len(line.splitlines()) <= 1
    assert line == printable(line)


def test_characters_that_a_terminal_acts_on_become_escapes() -> None:
    assert (
        printable("a\x1b[31mb\r\nc\x07\td\x9b\u202e") == r"a\x1b[31mb"
        "\n"
        r"c\x07"
        "\t"
        r"d\x9b\u202e"
    )


@given(st.text(st.characters(exclude_categories=())))
def test_printable_json_has_the_value_and_no_control(text: str) -> None:
    shown = printable_json({"text": [text]}, indent=2)
    assert json.loads(shown) == {"text": [text]}
    assert shown == printable(shown)
    shown.encode()


def test_the_console_prints_text_without_markup_or_wrapping(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "[bold]:smile: " + "long " * 100
    console().print(text.strip())
    assert capsys.readouterr().out == text.strip() + "\n"
