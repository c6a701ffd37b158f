"""The result of one check of `agent-pool doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FindingState: TypeAlias = Literal["ok", "note", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: the thing that was checked: ``Claude Code``.
        state: `ok`; `note`, neither good nor bad; `warning`, it works, but perhaps not as intended;
            `wrong`, it does not work, and makes `doctor` fail.
        message: the result of the check.
        advice: what to do about it; empty if there is nothing to do.
    """

    subject: str
    state: FindingState
    message: str
    advice: str = ""
