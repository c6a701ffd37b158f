"""What is said when a process does not start, or ends when it should not."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from agent_pool.errors import SpawnError, WorkerDied

ADVICE: Final = {
    "cannot be used with root": "run as another user, or set IS_SANDBOX=1 inside a sandbox",
    "requires --verbose": "this CLI is not supported; update Claude Code",
    "unknown option": "this CLI does not know an option that agent-pool uses; update Claude Code",
    "ENOSPC": "the disk is full; make room",
}
"""What to do, by what stderr says. The next start would end in the same way."""


@dataclass(frozen=True, slots=True)
class Who:
    """A worker, to be named in a message."""

    name: str
    agent: str
    pid: int | None

    def __str__(self) -> str:
        agent = f" of agent {self.agent!r}" if self.agent else ""
        return f"worker {self.name}{agent} (pid {self.pid})"


def before_ready(who: Who, code: int | None, stderr: str) -> SpawnError:
    """It ended while it was started."""
    advice = next((advice for said, advice in ADVICE.items() if said in stderr), None)
    return SpawnError(
        f"{who} ended with {_ending(code)} before it was ready: "
        + (advice or "see what it said, or run `agent-pool doctor`"),
        worker=who.name,
        pid=who.pid,
        stderr_tail=stderr,
        is_fatal=advice is not None,
    )


def not_ready(who: Who, timeout: float, stderr: str) -> SpawnError:
    """It did not get ready in time."""
    return SpawnError(
        f"{who} was not ready within {timeout:g} s (setting start_timeout)",
        worker=who.name,
        pid=who.pid,
        stderr_tail=stderr,
        is_fatal=False,
    )


def refused(who: Who, error: str) -> SpawnError:
    """It answered `initialize` with an error."""
    return SpawnError(f"{who} refused to initialise: {error}", worker=who.name, pid=who.pid)


def during_task(who: Who, code: int | None, stderr: str) -> WorkerDied:
    """It ended by itself while a task ran."""
    return WorkerDied(
        f"{who} ended with {_ending(code)} during the task; the pool replaces it, try again",
        worker=who.name,
        pid=who.pid,
        stderr_tail=stderr,
    )


def condemned(who: Who, why: str) -> WorkerDied:
    """The pool stopped it while a task ran."""
    return WorkerDied(f"{who} was stopped during the task: {why}", worker=who.name, pid=who.pid)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {-code} ({signal.strsignal(-code) or 'unknown'})"
