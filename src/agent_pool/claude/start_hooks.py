"""The SessionStart hooks of one process, which run at its start and at each `/clear`."""

from __future__ import annotations

import time
from typing import Final

from agent_pool.text import seconds_text

NOTICED_SECONDS: Final = 1.0
"""A shorter run of the hooks is not mentioned."""

FRESH_SECONDS: Final = 1.0
"""Seconds for which the words of hooks count as those of the present."""


class StartHooks:
    """Measures the hooks of one run: all that begin before the last one has ended."""

    def __init__(self) -> None:
        self._running: dict[str, str] = {}
        self._began = 0.0
        self._ended = float("-inf")
        self._seconds = 0.0
        self._have_words = False

    @property
    def are_running(self) -> bool:
        """Return whether a hook has begun and not ended."""
        return bool(self._running)

    def have_run_within(self, seconds: float) -> bool:
        """Check whether a hook runs now, or ended at most so many seconds ago."""
        return self.are_running or time.monotonic() - self._ended < seconds

    @property
    def seconds(self) -> float:
        """Return how long the last run took; the run under way counts until now."""
        return time.monotonic() - self._began if self._running else self._seconds

    @property
    def have_old_words(self) -> bool:
        """Return whether they said something that is worth saying again before a task.

        Slow hooks are not: their words are of the last reset, so that no task has to wait for them.
        """
        is_old = time.monotonic() - self._ended > FRESH_SECONDS
        return self._have_words and is_old and self.seconds < NOTICED_SECONDS

    @property
    def note(self) -> str:
        """Return what people must know about the hooks; empty if they are quick."""
        # A run that has just begun will take as long as the last one.
        if max(self.seconds, self._seconds) < NOTICED_SECONDS:
            return ""
        taken = f"SessionStart hooks take {seconds_text(self._seconds)} at each start and reset"
        if not self._running:
            return taken
        last = seconds_text(self._seconds)
        return self.running_text + (f"; the last run took {last}" if self._seconds else "")

    @property
    def running_text(self) -> str:
        """Return which hook runs and for how long; empty if none does."""
        if not self._running:
            return ""
        names = ", ".join(sorted(set(self._running.values())))
        return f"the hook {names} has run for {seconds_text(self.seconds)}"

    def begin(self, hook_id: str, name: str) -> None:
        """Note that a hook has begun, e.g. ``SessionStart:clear``."""
        if not self._running:
            self._began = time.monotonic()
            self._have_words = False
        self._running[hook_id] = name

    def end(self, hook_id: str, *, has_words: bool) -> None:
        """Note that a hook has ended; `has_words` if it said something to the agent."""
        self._have_words = self._have_words or has_words
        if self._running.pop(hook_id, None) is not None and not self._running:
            self._ended = time.monotonic()
            self._seconds = self._ended - self._began
