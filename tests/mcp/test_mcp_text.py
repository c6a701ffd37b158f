import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from agent_pool.mcp.text import clean, one_line

anything = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@given(anything)
def test_clean_text_can_be_written(text: str) -> None:
    assert clean(text).encode().decode() == clean(text)


@given(st.text())
def test_text_that_can_be_written_is_left_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_half_a_character_becomes_a_question_mark() -> None:
    assert clean("thumbs \ud83d up") == "thumbs ? up"


@given(anything, st.integers(1, 50))
def test_one_line_is_one_line_of_the_width_at_most(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line.splitlines()) <= 1
    assert not any(unicodedata.category(character) == "Cc" for character in line)
    assert len(line) <= width
    assert line == one_line(text) or line.endswith("…")
