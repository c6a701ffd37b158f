import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.text import bytes_text, one_line, whole_characters

anything = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@given(anything)
def test_cleaned_text_can_always_be_encoded_as_utf8(text: str) -> None:
    whole = whole_characters(text)
    assert whole.encode().decode() == whole


@given(st.text())
def test_text_that_can_be_encoded_is_not_changed(text: str) -> None:
    assert whole_characters(text) == text


def test_lone_surrogate_is_replaced_by_a_question_mark() -> None:
    assert whole_characters("thumbs \ud83d up") == "thumbs ? up"


@given(anything, st.integers(1, 50))
def test_one_line_returns_one_line_within_the_given_width(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line.splitlines()) <= 1
    assert not any(unicodedata.category(character) == "Cc" for character in line)
    assert len(line) <= width
    assert line == one_line(text) or line.endswith("…")


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**60, "1,048,576.0 TiB"),
    ],
)
def test_byte_counts_are_shown_in_the_most_readable_unit(size: int, shown: str) -> None:
    assert bytes_text(size) == shown
