"""The code blocks of the pages in `docs/`, so that tests can run them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: the word after the fence.
        code: the lines within.
        mark: the comment on the line before the fence; empty without one.
    """

    language: str
    code: str
    mark: str


def read_blocks(page: str, *languages: str) -> list[Block]:
    """Return the blocks in these languages of a page of `docs/`, in their order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = [Block(m["language"], m["code"], m["mark"] or "") for m in _BLOCK.finditer(text)]
    return [block for block in found if block.language in languages]
