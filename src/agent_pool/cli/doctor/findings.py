"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ok", "note", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        about: what was looked at: ``Claude Code``.
        state: `ok`; `note`, neither good nor bad; `warning`, works but perhaps not as meant;
            `wrong`, does not work, and makes `doctor` fail.
        said: what was found.
        advice: what to do about it.
    """

    about: str
    state: State
    said: str
    advice: str = ""
