"""The errors that a caller may meet.

    AgentPoolError
    ├─ ConfigError (ValueError)        a setting, an argument or a definition is wrong
    │  └─ AgentNotFound                no such agent; names the closest ones
    ├─ PoolError
    │  ├─ PoolClosed                   not open yet, or already closed
    │  ├─ PoolTimeout (TimeoutError)   no worker within `acquire_timeout`
    │  └─ TooManyRequests              `max_waiting` reached
    ├─ WorkerError                     carries worker, pid and the end of stderr
    │  ├─ SpawnError                   the CLI is missing, too old, refused to start, not signed in
    │  └─ WorkerDied                   the process ended, or broke a limit, during a task
    ├─ TaskError                       carries what the agent did report
    │  ├─ TaskFailed                   the task could not be carried out
    │  ├─ TaskTimeout (TimeoutError)   `task_timeout` or `stall_timeout` passed
    │  ├─ TaskCancelled                the task was cancelled by `PoolAPI.cancel`
    │  └─ ContextLost                  an earlier task of the same conversation did not succeed
    ├─ ProtocolError
    │  ├─ LocalProtocolError           this package asked for an impossible step: our bug
    │  └─ RemoteProtocolError          the CLI broke the protocol; its worker is retired
    └─ InternalError                   an unexpected exception, a bug of this package

Every class has a stable `code` for programs and a `retryable` flag: whether the same call can
succeed later without any change. `AgentPoolError.as_json` gives an error as JSON values, and
`models.error_from_json` makes the error again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from agent_pool.models import TaskResult


class AgentPoolError(Exception):
    """The root of all errors that this package raises on purpose."""

    code: ClassVar[str] = "agent_pool_error"
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """Return the message alone, without the end of stderr."""
        return str(self.args[0]) if self.args else ""

    def as_json(self) -> dict[str, Any]:
        """Return `code`, `message`, `retryable` and the attributes of the class as JSON values."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable}


class ConfigError(AgentPoolError, ValueError):
    """A setting, an argument or a definition is wrong; the message says where and what to write."""

    code = "config_error"


class AgentNotFound(ConfigError):  # noqa: N818 - named after what is missing, as LookupError is
    """No agent has that name; the message says where it was looked for and the closest names."""

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
    """As many callers as `max_waiting` allows are waiting already."""

    code = "too_many_requests"
    retryable = True


class WorkerError(AgentPoolError):
    """A Claude Code process misbehaved.

    Attributes:
        worker: the worker's id, e.g. ``worker-3``; empty if there was none yet.
        pid: its process id, None if it never started.
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
        tail = f"\nstderr ends with:\n{self.stderr_tail}" if self.stderr_tail else ""
        return f"{self.message}{tail}"

    def as_json(self) -> dict[str, Any]:
        own = {"worker": self.worker, "pid": self.pid, "stderr_tail": self.stderr_tail}
        return {**super().as_json(), **own}


class SpawnError(WorkerError):
    """A worker could not be started: CLI missing, too old, refusing, or not signed in.

    Attributes:
        is_fatal: the next start would fail in the same way, so the pool does not try again.
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

    def as_json(self) -> dict[str, Any]:
        return {**super().as_json(), "is_fatal": self.is_fatal}


class WorkerDied(WorkerError):  # noqa: N818
    """A worker ended, or the pool ended it for breaking a limit, while it ran a task."""

    code = "worker_died"
    retryable = True


class TaskError(AgentPoolError):
    """A task did not succeed.

    Attributes:
        result: what the agent did report, None if it reported no result.
    """

    code = "task_error"

    def __init__(self, message: str, *, result: TaskResult | None = None) -> None:
        super().__init__(message)
        self.result = result

    def as_json(self) -> dict[str, Any]:
        return {**super().as_json(), "result": self.result.as_json() if self.result else None}


class TaskFailed(TaskError):  # noqa: N818
    """The task could not be carried out; the message says why."""

    code = "task_failed"


class TaskTimeout(TaskError, TimeoutError):  # noqa: N818
    """The task was stopped because `task_timeout` or `stall_timeout` passed."""

    code = "task_timeout"
    retryable = True


class TaskCancelled(TaskError):  # noqa: N818
    """The task was cancelled by `PoolAPI.cancel` or by its handle."""

    code = "cancelled"


class ContextLost(TaskError):  # noqa: N818 - named after what is lost
    """A task was not started, because an earlier one of its conversation did not succeed."""

    code = "context_lost"


class ProtocolError(AgentPoolError):
    """The conversation with a Claude Code process went wrong."""

    code = "protocol_error"


class LocalProtocolError(ProtocolError):
    """This package asked for a step that the session's state does not allow: our bug."""

    code = "local_protocol_error"


class RemoteProtocolError(ProtocolError):
    """The CLI sent what the protocol does not allow; its worker is retired."""

    code = "remote_protocol_error"
    retryable = True


class InternalError(AgentPoolError):
    """An unexpected exception ended a task: a bug of this package; the log has its traceback."""

    code = "internal_error"
