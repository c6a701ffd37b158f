"""Frames that Claude Code CLIs wrote in stream-json mode, trimmed to the fields that matter.

Recorded against the offline model from 2.1.330, or from the version in a recording's name. The
recordings are in `recorded_frames.jsonl`: a line that names and describes one, then its frames.
Identifiers are shortened, nothing else is changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.json_lines import as_lines


@dataclass(frozen=True)
class Recording:
    """The frames that answered one prompt or request.

    Attributes:
        stamp: the uuid of the prompt, or the id of the request; empty for an unasked turn.
        frames: the frames that the process wrote.
    """

    stamp: str
    frames: list[dict[str, Any]] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        """Return the bytes that the process wrote."""
        return as_lines(*self.frames)

    def without_last(self) -> bytes:
        """Return the bytes without the last frame."""
        return as_lines(*self.frames[:-1])

    @property
    def last(self) -> dict[str, Any]:
        """Return the last frame."""
        return self.frames[-1]


def _recordings() -> dict[str, Recording]:
    found: dict[str, Recording] = {}
    text = Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        frame = json.loads(line)
        if "recording" in frame:
            recording = found[frame["recording"]] = Recording(frame["stamp"])
        else:
            recording.frames.append(frame)
    return found


ALL = _recordings()

INITIALIZED = ALL["INITIALIZED"]
HELLO = ALL["HELLO"]
CLEAR = ALL["CLEAR"]
BASH = ALL["BASH"]
BACKGROUND = ALL["BACKGROUND"]
FOREIGN = ALL["FOREIGN"]
SUBAGENT = ALL["SUBAGENT"]
CRON = ALL["CRON"]
RUNNING = ALL["RUNNING"]
INTERRUPTED = ALL["INTERRUPTED"]
OTHER_MODEL = ALL["OTHER_MODEL"]
PLAN_MODE = ALL["PLAN_MODE"]
COST = ALL["COST"]
NO_CLEAR = ALL["NO_CLEAR"]
UNSUPPORTED = ALL["UNSUPPORTED"]
HELLO_2_1_119 = ALL["HELLO_2_1_119"]
CLEAR_2_1_119 = ALL["CLEAR_2_1_119"]
AGAIN_2_1_119 = ALL["AGAIN_2_1_119"]
HELLO_2_0_77 = ALL["HELLO_2_0_77"]
CLEAR_2_0_77 = ALL["CLEAR_2_0_77"]
