"""The rule for names of agents, skills and expertise."""

from __future__ import annotations

from typing import Final

MAX_NAME_CHARACTERS: Final = 200


def check_name(name: str) -> None:
    """Check that a file with this name stays in the folder in which it is searched.

    Raises:
        ValueError: the name is empty or blank, longer than `MAX_NAME_CHARACTERS`, ``.`` or ``..``,
            or contains a slash, a backslash or an unprintable character.
    """
    if not isinstance(name, str):
        raise ValueError(f"expected text, found {name!r}")
    if not name.strip():
        raise ValueError("the name is empty")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(
            f"the name has {len(name)} characters; at most {MAX_NAME_CHARACTERS} are allowed"
        )
    if name in {".", ".."} or "/" in name or "\\" in name or not name.isprintable():
        raise ValueError(
            f"expected a name without /, \\ and control characters, not . or .., found {name!r}"
        )
