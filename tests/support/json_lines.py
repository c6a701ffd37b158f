"""Messages as lines of JSON."""

from __future__ import annotations

import json


def as_lines(*messages: object) -> bytes:
    """Encode messages, a line each."""
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)
