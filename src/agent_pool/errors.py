"""The errors that a caller may meet.

    AgentPoolError
    ├─ ConfigError (ValueError)        a setting or a definition is wrong
    │  └─ AgentNotFound                no such agent; names the closest ones
    ├─ PoolError
    │  ├─ PoolClosed                   not open yet, or already closed
    │  ├─ PoolTimeout (TimeoutError)   no worker within `acquire_timeout`
    │  └─ TooManyRequests              `max_waiting` reached
    ├─ WorkerError                     carries worker, pid and the tail of stderr
    │  ├─ SpawnError                   the CLI is missing, too old, refused to start, not signed in
    │  └─ WorkerDied                   the process ended, or broke a limit, during a task
    ├─ TaskError                       carries what the agent did report
    │  ├─ TaskFailed                   the task could not be carried out
    │  ├─ TaskTimeout (TimeoutError)   `task_timeout` or `stall_timeout` passed
    │  └─ ContextLost                  the task before it in its conversation did not end well
    └─ ProtocolError
       ├─ LocalProtocolError           this package asked for an impossible step: a bug of ours
       └─ RemoteProtocolError          the CLI broke the protocol; its worker is retired

Every class has a stable `code` for programs and a `retryable` flag: whether the same call may
succeed later without anything being changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from agent_pool.pool.result import TaskResult


class AgentPoolError(Exception):
    """The root of all errors raised on purpose by this package."""

    code: ClassVar[str] = "agent_pool_error"
    retryable: ClassVar[bool] = False


class ConfigError(AgentPoolError, ValueError):
    """A setting or a definition is wrong; the message says where and what was expected."""

    code = "config_error"


class AgentNotFound(ConfigError):  # noqa: N818 - named after what is missing, as LookupError is
    """No agent of that name; the message says where it was looked for and the closest names."""

    code = "agent_not_found"


class PoolError(AgentPoolError):
    """The pool could not give out a worker."""

    code = "pool_error"


class PoolClosed(PoolError):  # noqa: N818
    """The pool is not open yet, or already closed."""

    code = "pool_closed"


class PoolTimeout(PoolError, TimeoutError):  # noqa: N818
    """No worker became available within `acquire_timeout`."""

    code = "pool_timeout"
    retryable = True


class TooManyRequests(PoolError):  # noqa: N818
    """`max_waiting` callers are waiting already."""

    code = "too_many_requests"
    retryable = True


class WorkerError(AgentPoolError):
    """A Claude Code process misbehaved.

    Attributes:
        worker: the worker's id, e.g. ``worker-3``; empty before there was one.
        pid: its process id, None when it never started.
        stderr_tail: the last lines that it wrote to stderr.
    """

    code = "worker_error"

    def __init__(
        self, message: str, *, worker: str = "", pid: int | None = None, stderr_tail: str = ""
    ) -> None:
        super().__init__(message)
        self.worker = worker
        self.pid = pid
        self.stderr_tail = stderr_tail

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nstderr ends with:\n{self.stderr_tail}" if self.stderr_tail else message


class SpawnError(WorkerError):
    """A worker could not be started: CLI missing, too old, refusing, or not signed in.

    Attributes:
        is_fatal: the next try would fail in the same way, so none is made.
    """

    code = "spawn_error"

    def __init__(
        self,
        message: str,
        *,
        worker: str = "",
        pid: int | None = None,
        stderr_tail: str = "",
        is_fatal: bool = True,
    ) -> None:
        super().__init__(message, worker=worker, pid=pid, stderr_tail=stderr_tail)
        self.is_fatal = is_fatal


class WorkerDied(WorkerError):  # noqa: N818
    """A worker ended, or was ended for breaking a limit, while it ran a task."""

    code = "worker_died"
    retryable = True


class TaskError(AgentPoolError):
    """A task did not end well.

    Attributes:
        result: what the agent did report, None when it reported nothing.
    """

    code = "task_error"

    def __init__(self, message: str, *, result: TaskResult | None = None) -> None:
        super().__init__(message)
        self.result = result


class TaskFailed(TaskError):  # noqa: N818
    """The task could not be carried out; the message says why."""

    code = "task_failed"


class TaskTimeout(TaskError, TimeoutError):  # noqa: N818
    """The task was stopped because `task_timeout` or `stall_timeout` passed."""

    code = "task_timeout"
    retryable = True


class ContextLost(TaskError):  # noqa: N818 - named after what is lost
    """A task of a conversation was not begun, because the one before it did not end well."""

    code = "context_lost"


class ProtocolError(AgentPoolError):
    """The conversation with a Claude Code process went wrong."""

    code = "protocol_error"


class LocalProtocolError(ProtocolError):
    """This package asked for a step that the session's state does not allow: a bug of ours."""

    code = "local_protocol_error"


class RemoteProtocolError(ProtocolError):
    """The CLI sent what the protocol does not allow; its worker is retired."""

    code = "remote_protocol_error"
    retryable = True
