"""The rules for names of agents, skills and expertise."""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_NAME_CHARACTERS: Final = 200
MAX_AGENT_NAME_CHARACTERS: Final = 256
"""Claude Code 2.1.332 loads no agent with a longer name."""


def check_name(name: str) -> None:
    """Check that a file with this name stays in the folder in which it is searched.

    Raises:
        ValueError: the name is empty or blank, longer than `MAX_NAME_CHARACTERS`, ``.`` or ``..``,
            or contains a slash, a backslash or an unprintable character.
    """
    _check_text(name, MAX_NAME_CHARACTERS)
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise ValueError(
            f"expected a name without /, \\ and control characters, not . or .., found {name!r}"
        )


def check_agent_name(name: str) -> None:
    """Check the name of an agent, which never becomes a part of a path.

    Raises:
        ValueError: the name is empty or blank, longer than `MAX_AGENT_NAME_CHARACTERS`, begins
            with a dash, or contains a colon or an unprintable character.
    """
    _check_text(name, MAX_AGENT_NAME_CHARACTERS)
    # Claude Code 2.1.332 does not load an agent with such a name.
    if name.startswith("-") or ":" in name:
        raise ValueError(
            f"expected a name without a colon that does not begin with a dash, found {name!r}"
        )


def _check_text(name: str, most: int) -> None:
    """Check that a name is text with 1 to `most` printable characters; raise ValueError."""
    if not isinstance(name, str):
        raise ValueError(f"expected text, found {name!r}")
    if not name.strip():
        raise ValueError("the name is empty")
    if len(name) > most:
        raise ValueError(f"the name has {len(name)} characters; at most {most} are allowed")
    # Claude Code loads such agents, but a name goes into logs and to terminals, which act on
    # control characters.
    if not name.isprintable():
        raise ValueError(f"expected a name without control characters, found {name!r}")


def normalize_name(name: str) -> str:
    """Return a name without case, white space, dashes and underscores.

    Claude Code 2.1.332 compares names in this way if no agent has exactly the requested name.
    """
    plain = unicodedata.normalize("NFKC", name).lower()
    return "".join(
        character
        for character in plain
        if not (character.isspace() or character == "_" or unicodedata.category(character) == "Pd")
    )
