"""A console of rich whose only escape sequences are its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from agent_pool.text import printable


class GuardedConsole(Console):
    """Shows characters that a terminal acts on as escapes, in whatever is printed on it."""

    def render_str(self, text: str, **options: Any) -> Text:
        # Here too, because rich leaves out some of the characters before it renders.
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None:
                yield Segment(printable(segment.text), segment.style)
            else:  # it moves the cursor, and has no text of others
                yield segment
