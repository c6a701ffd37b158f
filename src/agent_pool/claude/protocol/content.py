"""The content blocks of a prompt: attachments first, then the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_pool.models import PLAIN_TEXT, Attachment


def prompt_content(text: str, attachments: Sequence[Attachment]) -> str | list[dict[str, Any]]:
    """Return the content of a prompt's message, in the form of the API.

    Args:
        text: the task.
        attachments: pictures and files, which come before the text, as the API recommends.
    """
    if not attachments:
        return text
    return [*map(_block, attachments), {"type": "text", "text": text}]


def _block(attachment: Attachment) -> dict[str, Any]:
    kind = "text" if attachment.media_type == PLAIN_TEXT else "base64"
    source = {"type": kind, "media_type": attachment.media_type, "data": attachment.data}
    if attachment.media_type.startswith("image/"):
        return {"type": "image", "source": source}
    title = {"title": attachment.name} if attachment.name else {}
    return {"type": "document", "source": source, **title}
