"""The errors that a caller may meet.

    AgentPoolError
    ├─ ConfigError (ValueError)        a setting, an argument or a definition is wrong
    │  └─ AgentNotFound                no such agent; names the closest ones
    ├─ PoolError
    │  ├─ PoolClosed                   not open yet, or already closed
    │  ├─ PoolTimeout (TimeoutError)   no worker within `acquire_timeout`
    │  ├─ TaskNotFound                 no task has this id, or its record was removed
    │  ├─ TaskNotEnded                 the task must have ended for this, and has not
    │  ├─ StoreFailed                  the store of tasks cannot be read or written
    │  ├─ DaemonUnavailable            the daemon cannot be started or reached
    │  ├─ NestingRefused               the caller is a worker of the pool that it calls
    │  └─ TooManyRequests              `max_waiting` reached
    ├─ WorkerError                     carries worker, pid and the end of stderr
    │  ├─ SpawnError                   the CLI is missing, too old, refused to start, not signed in
    │  └─ WorkerDied                   the process ended, or broke a limit, during a task
    ├─ TaskError                       carries what the agent did report
    │  ├─ TaskFailed                   the task could not be carried out
    │  │  ├─ PromptTooLong             longer than the model's context window
    │  │  ├─ RequestTooLarge           more bytes than the API takes
    │  │  ├─ OutputLimitReached        the answer was longer than the model can write
    │  │  ├─ ContextLimitReached       the conversation filled the model's context window
    │  │  ├─ TurnLimitReached          `maxTurns` of the definition
    │  │  ├─ BudgetReached             the budget of the task, in US dollars or tokens
    │  │  ├─ ModelRefused              a safety check stopped the answer
    │  │  ├─ PromptBlocked             a hook stopped the task before the model saw it
    │  │  ├─ StoppedByHook             a hook ended the turn before the answer was complete
    │  │  ├─ AnswerUnfinished          the model stopped before its answer was complete
    │  │  ├─ StructureMissing          no answer in the form of the schema
    │  │  ├─ SchemaMismatch            the answer has this form, but does not fit the schema
    │  │  ├─ NoCredit                  the account has no credit
    │  │  ├─ SignInRefused             not signed in, or the API refused the sign-in
    │  │  ├─ ModelUnavailable          no such model for this account
    │  │  ├─ UsageLimitReached         the account's limit of five hours or seven days
    │  │  ├─ RateLimited               too many requests in a short time
    │  │  ├─ ApiOverloaded             the API has too much work
    │  │  └─ ApiFailed                 another error of the API's server, or no connection
    │  ├─ TaskTimeout (TimeoutError)   `task_timeout` or `stall_timeout` passed
    │  ├─ TaskCancelled                the task was cancelled by `PoolAPI.cancel`
    │  ├─ TaskInterrupted              the daemon ended while the task ran
    │  ├─ DeadlinePassed               the task had not begun at its deadline
    │  └─ ContextLost                  an earlier task of the same conversation did not succeed
    ├─ ProtocolError
    │  ├─ LocalProtocolError           this package asked for an impossible step: our bug
    │  └─ RemoteProtocolError          the CLI broke the protocol; its worker is retired
    └─ InternalError                   an unexpected exception, a bug of this package

Every class has a stable `code` for programs and a `retryable` flag: whether the same call can
succeed later without any change. `AgentPoolError.as_json` gives an error as JSON values, and
`models.error_from_json` makes the error again. `dataclasses.asdict` gives the same members, also
for an error that is a field of a value, such as `Ended.error`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from agent_pool.models import TaskResult


class _Members:
    """The members of an error, as `dataclasses.asdict` looks for them.

    It makes a dict of everything that has `__dataclass_fields__`, and copies everything else. The
    copy of an exception is no JSON. They are made when they are first asked for: a relay never
    asks, and the module `dataclasses` would make it a megabyte larger.

    Args:
        names: the names of the members.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self._fields: Any = None

    def __get__(self, instance: object, owner: type) -> Any:
        if self._fields is None:
            from dataclasses import fields, make_dataclass

            # With types: without them their annotation is text, which pydantic cannot resolve.
            made = make_dataclass("Members", [(name, Any) for name in self._names])
            self._fields = {field.name: field for field in fields(made)}
        return self._fields


_OF_ALL = ("code", "message", "retryable")
_OF_WORKERS = (*_OF_ALL, "worker", "pid", "stderr_tail")


class AgentPoolError(Exception):
    """The root of all errors that this package raises on purpose."""

    __dataclass_fields__: ClassVar[Any] = _Members(*_OF_ALL)

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


class TaskNotFound(PoolError):  # noqa: N818 - named after what is missing, as LookupError is
    """No task has this id, or its record was removed from the history."""

    code = "task_not_found"


class TaskNotEnded(PoolError):  # noqa: N818
    """The task must have ended for what was asked, and it has not."""

    code = "task_not_ended"


class StoreFailed(PoolError):  # noqa: N818
    """The store of tasks cannot be read or written, so no task is accepted."""

    code = "store_failed"
    retryable = True


class DaemonUnavailable(PoolError):  # noqa: N818
    """The daemon cannot be started or reached; the message says why."""

    code = "daemon_unavailable"
    retryable = True


class NestingRefused(PoolError):  # noqa: N818
    """The caller is a process of a worker, and the setting `allow_nested` is off."""

    code = "nesting_refused"


class WorkerError(AgentPoolError):
    """A Claude Code process misbehaved.

    Attributes:
        worker: the worker's id, e.g. ``worker-3``; empty if there was none yet.
        pid: its process id, None if it never started.
        stderr_tail: the last lines that it wrote to stderr.
    """

    __dataclass_fields__ = _Members(*_OF_WORKERS)

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

    __dataclass_fields__ = _Members(*_OF_WORKERS, "is_fatal")

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
        advice: the one next step that can help.
    """

    __dataclass_fields__ = _Members(*_OF_ALL, "result")

    code = "task_error"
    advice: ClassVar[str] = "Run `agent-pool doctor`, which checks the set-up."

    def __init__(self, message: str, *, result: TaskResult | None = None) -> None:
        super().__init__(message)
        self.result = result

    def as_json(self) -> dict[str, Any]:
        return {**super().as_json(), "result": self.result.as_json() if self.result else None}


class TaskFailed(TaskError):  # noqa: N818
    """The task could not be carried out; the message says why."""

    code = "task_failed"


class PromptTooLong(TaskFailed):
    """The prompt is longer than the model's context window."""

    code = "prompt_too_long"
    advice = (
        "The limit is the model's, not agent-pool's: give the path of a file instead of its "
        "content, or split the task."
    )


class RequestTooLarge(TaskFailed):
    """A request has more bytes than the API takes."""

    code = "request_too_large"
    advice = (
        "The limit is the API's, not agent-pool's: split the task, or let the agent read fewer "
        "images and documents in one task."
    )


class OutputLimitReached(TaskFailed):
    """The answer is longer than the model can write, although the CLI had it continued."""

    code = "output_limit"
    advice = "Split the task, or have the agent write its answer to a file in several steps."


class ContextLimitReached(TaskFailed):
    """The conversation filled the model's context window."""

    code = "context_limit"
    advice = "Split the task into smaller ones, or choose a model with a larger context window."


class TurnLimitReached(TaskFailed):
    """The agent used all the turns that its definition allows."""

    code = "turn_limit"
    advice = "Give it a smaller task, or raise `maxTurns` in its definition."


class BudgetReached(TaskFailed):
    """The task used its whole budget of US dollars or tokens."""

    code = "budget_limit"
    advice = "Give it a smaller task, or raise its budget."


class ModelRefused(TaskFailed):
    """The model refused, or a safety check of the API stopped its answer."""

    code = "refusal"
    advice = "Word the task differently, or choose another model (`model`)."


class PromptBlocked(TaskFailed):
    """A UserPromptSubmit hook stopped the task before the model received it."""

    code = "prompt_blocked"
    advice = "Change the task so that the hook permits it, or change the hook in the settings."


class StoppedByHook(TaskFailed):
    """A hook ended the turn before the agent's answer was complete."""

    code = "stopped_by_hook"
    advice = "Change the task or the hook: hooks are in the settings and in the agent's definition."


class AnswerUnfinished(TaskFailed):
    """The model stopped before its answer was complete, for a reason that can pass."""

    code = "unfinished"
    retryable = True
    advice = "Call again; what the agent said so far is in `partial`."


class StructureMissing(TaskFailed):
    """The agent did not give its answer in the form that the schema asks for."""

    code = "structure_missing"
    advice = "Make the schema simpler, or say in the task which fields are wanted."


class SchemaMismatch(TaskFailed):
    """The agent gave its answer as an object, but the object does not fit the schema."""

    code = "schema_mismatch"
    advice = (
        "Say in the task which values are wanted, or make the schema simpler; the answer is in "
        "`result.structured`."
    )


class NoCredit(TaskFailed):
    """The account that pays for the requests has no credit."""

    code = "no_credit"
    advice = "Buy credit for the account, or use a key of another one."


class SignInRefused(TaskFailed):
    """Claude Code is not signed in, or the API refused the sign-in."""

    code = "sign_in"
    advice = "Sign in again with `claude` and its command /login, or correct ANTHROPIC_API_KEY."


class ModelUnavailable(TaskFailed):
    """The model does not exist, or this account cannot use it."""

    code = "model_unavailable"
    advice = "Name another model in the definition or in the call (`model`)."


class UsageLimitReached(TaskFailed):
    """The account has used its limit of five hours or seven days."""

    code = "usage_limit"
    retryable = True
    advice = "Call again: the pool holds new tasks until the limit is reset."


class RateLimited(TaskFailed):
    """The API refused a request, because there were too many in a short time."""

    code = "rate_limit"
    retryable = True
    advice = "Call again: the pool gives the API a pause before the next task."


class ApiOverloaded(TaskFailed):
    """The API has too much work for all of its users."""

    code = "overloaded"
    retryable = True
    advice = "Call again: the pool gives the API a pause before the next task."


class ApiFailed(TaskFailed):
    """The API's server reported an error, or there was no connection to it."""

    code = "api_error"
    retryable = True
    advice = "Call again in a minute; if it fails again, see https://status.claude.com."


class TaskTimeout(TaskError, TimeoutError):  # noqa: N818
    """The task was stopped because `task_timeout` or `stall_timeout` passed."""

    code = "task_timeout"
    retryable = True
    advice = "Give it more time or a smaller task."


def task_failure(code: str) -> type[TaskError]:
    """Return the class of a failed task by its code; `TaskFailed` for any other code."""
    kinds: tuple[type[TaskError], ...] = (TaskTimeout, *TaskFailed.__subclasses__())
    return next((kind for kind in kinds if kind.code == code), TaskFailed)


class TaskCancelled(TaskError):  # noqa: N818
    """The task was cancelled by `PoolAPI.cancel` or by its handle."""

    code = "cancelled"


class TaskInterrupted(TaskError):  # noqa: N818
    """The daemon ended while the task ran, so its result is unknown."""

    code = "interrupted"
    advice = "Look at what it had done, then give it to the agent again with `agent-pool retry`."


class DeadlinePassed(TaskError):  # noqa: N818 - named after what has happened
    """The task had not begun when its deadline came, so it was not run."""

    code = "deadline"
    advice = "Give it a later deadline or a higher priority."


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
