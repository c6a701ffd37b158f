"""The errors for a process that does not start, or that ends when it should not."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent_pool.errors import ConfigError, RemoteProtocolError, SpawnError, WorkerDied

_ADVICE: Final = {
    "cannot be used with root": "run as another user, or set IS_SANDBOX=1 inside a sandbox",
    "requires --verbose": "this CLI is not supported; update Claude Code",
    "unknown option": "this CLI does not know an option that agent-pool uses; update Claude Code",
    "ENOSPC": "the disk is full; free some space",
}
"""The next step, by a text in stderr. Without it the next start would fail in the same way."""


@dataclass(frozen=True, slots=True)
class WorkerLabel:
    """A worker's name, agent and process id, as messages show them."""

    name: str
    agent: str
    pid: int | None

    def __str__(self) -> str:
        agent = f" of agent {self.agent!r}" if self.agent else ""
        return f"worker {self.name}{agent} (pid {self.pid})"


def start_ended(label: WorkerLabel, code: int | None, stderr: str) -> SpawnError:
    """Build the error for a process that ended before it was ready."""
    advice = next((advice for text, advice in _ADVICE.items() if text in stderr), None)
    return SpawnError(
        f"{label} ended with {_exit_text(code)} before it was ready: "
        + (advice or "see its stderr, or run `agent-pool doctor`"),
        worker=label.name,
        pid=label.pid,
        stderr_tail=stderr,
        is_fatal=advice is not None,
    )


def start_timed_out(label: WorkerLabel, timeout: float, stderr: str, hooks: str = "") -> SpawnError:
    """Build the error for a process that was not ready within `timeout` seconds.

    Args:
        label: names the worker.
        timeout: seconds.
        stderr: the end of its stderr.
        hooks: the SessionStart hook that still runs, in words; empty if none does.
    """
    why = f": {hooks}; make the hook faster or raise the setting" if hooks else ""
    return SpawnError(
        f"{label} was not ready within {timeout:g} s (setting start_timeout){why}",
        worker=label.name,
        pid=label.pid,
        stderr_tail=stderr,
        # An overloaded machine can be the cause, so the next start can succeed. A hook that takes
        # this long takes as long the next time.
        is_fatal=bool(hooks),
    )


def start_refused(label: WorkerLabel, error: str) -> SpawnError:
    """Build the error for a process that answered `initialize` with an error."""
    return SpawnError(f"{label} refused to initialise: {error}", worker=label.name, pid=label.pid)


def version_changed(label: WorkerLabel, now: str, before: str) -> SpawnError:
    """Build the error for a process of another version than its command has reported."""
    return SpawnError(
        f"{label} is Claude Code {now}, although its command reported {before}, so it was "
        "started with the wrong options; the pool asks the command again, try again",
        worker=label.name,
        pid=label.pid,
    )


def role_refused(label: WorkerLabel, reasons: Sequence[str], stderr: str) -> SpawnError:
    """Build the error for a process that did not become another agent."""
    return SpawnError(
        f"{label} could not take over the agent: {'; '.join(reasons) or 'its process ended'}; the "
        "pool replaces it",
        worker=label.name,
        pid=label.pid,
        stderr_tail=stderr,
        # A new process has another chance.
        is_fatal=False,
    )


def role_missed(label: WorkerLabel, problem: str) -> RemoteProtocolError:
    """Build the error for a turn that the wrong agent began."""
    return RemoteProtocolError(
        f"{label} is not this agent: {problem}; its answer was discarded and the pool replaces it, "
        "try again"
    )


def tools_missing(label: WorkerLabel, tools: Sequence[str]) -> ConfigError:
    """Build the error for an agent of whose list no tool exists."""
    return ConfigError(
        f"agent {label.agent!r}: no tool of its list exists: {', '.join(tools)}. Correct the field "
        "tools of its definition; see that its MCP servers start and that no setting denies the "
        "tools. Claude Code refuses such a sub-agent too"
    )


def ended_in_task(label: WorkerLabel, code: int | None, stderr: str) -> WorkerDied:
    """Build the error for a process that ended by itself during a task."""
    return WorkerDied(
        f"{label} ended with {_exit_text(code)} during the task; the pool replaces it, try again",
        worker=label.name,
        pid=label.pid,
        stderr_tail=stderr,
    )


def stopped_in_task(label: WorkerLabel, reason: str) -> WorkerDied:
    """Build the error for a process that the pool stopped during a task."""
    return WorkerDied(
        f"{label} was stopped during the task: {reason}", worker=label.name, pid=label.pid
    )


def sign_in_text(detail: str) -> str:
    """Return the message for every form of a missing or refused sign-in."""
    return f"Claude Code is not signed in, or the API refused its sign-in ({detail})"


def _exit_text(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {-code} ({signal.strsignal(-code) or 'unknown'})"
