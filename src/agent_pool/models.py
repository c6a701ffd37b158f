"""The values that all parts of the package share: a task, its result, a worker, the figures.

All of them are frozen, and all of them become JSON values and come back: `as_json`, `from_json`.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, cast

from pydantic import PlainSerializer, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from agent_pool.errors import (
    AgentPoolError,
    ConfigError,
    SpawnError,
    TaskError,
    WorkerError,
    task_failure,
)

if TYPE_CHECKING:
    from os import PathLike


class JsonValue:
    """A frozen dataclass that becomes JSON values and comes back."""

    __slots__ = ()

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        try:
            made: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json")
        except PydanticSerializationError:
            raise
        except ValueError:  # pydantic stops at 255 levels of nesting; an answer can have more
            made = {one.name: _as_plain(getattr(self, one.name)) for one in fields(cast(Any, self))}
        return made

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Make a value from what `as_json` returned; unknown fields are ignored.

        Raises:
            ConfigError: a field is missing or has the wrong type.
        """
        try:
            made: Self = _adapter(cls).validate_python(data)
        except ValidationError as error:
            problems = explain_problems(error)
            raise ConfigError(f"this is not the JSON of {cls.__name__}: {problems}") from None
        return made


def explain_problems(error: ValidationError) -> str:
    """Return what is wrong, and where; no value is shown, because it can be a secret."""
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'the value'}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _as_plain(value: Any) -> Any:
    """Return the JSON value of a field; free-form JSON is returned as it is, however deep."""
    if isinstance(value, JsonValue | AgentPoolError):
        return value.as_json()
    return list(map(_as_plain, value)) if isinstance(value, tuple) else value


_ADAPTERS: Final[dict[type, TypeAdapter[Any]]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    """Return the converter of a class, built once: that takes about a millisecond."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


# Tasks

MASKED: Final = "…"
"""Stands for a value that must not be shown."""


@dataclass(frozen=True, slots=True)
class Usage(JsonValue):
    """Tokens of all models together; the four kinds do not overlap."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(self._counts(), other._counts(), strict=True)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(a - b for a, b in zip(self._counts(), other._counts(), strict=True)))

    def _counts(self) -> tuple[int, int, int, int]:
        return (
            self.input_tokens,
            self.output_tokens,
            self.cache_write_tokens,
            self.cache_read_tokens,
        )

    @property
    def prompt_tokens(self) -> int:
        """Return all tokens of the prompts: those written to and read from the cache too."""
        return self.input_tokens + self.cache_write_tokens + self.cache_read_tokens

    @property
    def budget_tokens(self) -> int:
        """Return the tokens that a budget counts: all but those read from the cache."""
        return self.input_tokens + self.output_tokens + self.cache_write_tokens

    @property
    def cache_hit_rate(self) -> float:
        """Return the share of the prompts' tokens that was read from the cache, 0 to 1."""
        return self.cache_read_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


NO_USAGE: Final = Usage()


PLAIN_TEXT: Final = "text/plain"
MEDIA_TYPES: Final = (
    *("image/png", "image/jpeg", "image/gif", "image/webp"),
    *("application/pdf", PLAIN_TEXT),
)
"""The types of attachments: those that the API takes."""
MAX_ATTACHMENTS: Final = 20
"""Attachments of one task."""
MAX_ATTACHED_BYTES: Final = 20 << 20
"""Bytes of all attachments of a task: the API takes requests of 32 MB, and base64 makes four
characters of three bytes."""


def media_type_of(content: bytes) -> str:
    """Return the type of a picture or a PDF by its first 12 bytes; empty for all others."""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    beginnings = {
        b"\x89PNG\r\n\x1a\n": "image/png",
        b"\xff\xd8\xff": "image/jpeg",
        b"GIF87a": "image/gif",
        b"GIF89a": "image/gif",
        b"%PDF-": "application/pdf",
    }
    return next((kind for head, kind in beginnings.items() if content.startswith(head)), "")


@dataclass(frozen=True, slots=True)
class Attachment(JsonValue):
    """A picture, a PDF or a text that belongs to a task.

    Attributes:
        media_type: ``image/png``, ``image/jpeg``, ``image/gif``, ``image/webp``,
            ``application/pdf`` or ``text/plain``.
        data: the content in base64; for ``text/plain`` the text itself.
        name: the file's name, for people and for the agent; can be empty.
    """

    media_type: str
    data: str = field(repr=False)
    name: str = ""

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Attachment:
        """Read a file; its content decides the type, and not its name.

        Raises:
            ConfigError: it cannot be read, is larger than `MAX_ATTACHED_BYTES`, is empty, or is
                neither a picture of a known type, nor a PDF, nor text in UTF-8.
        """
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - modules of values import no pathlib
                # One byte more tells a file that is too large from one that fits exactly.
                content = file.read(MAX_ATTACHED_BYTES + 1)
        except (OSError, ValueError) as error:
            raise ConfigError(f"attachment {path}: cannot be read: {error}") from None
        name = re.split(r"[/\\]", str(path))[-1]
        return cls.from_bytes(content, name)

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "") -> Attachment:
        """Make an attachment of a file's content.

        Raises:
            ConfigError: as `from_file`.
        """
        if len(content) > MAX_ATTACHED_BYTES:
            raise ConfigError(
                f"attachment {name!r}: it has more than {MAX_ATTACHED_BYTES:,} bytes, which is the "
                "most for one task; attach a part of it, or name its path in the task"
            )
        if not content:
            raise ConfigError(f"attachment {name!r}: it is empty")
        if kind := media_type_of(content):
            return cls(kind, base64.b64encode(content).decode(), name)
        try:
            if b"\0" not in content:
                return cls(PLAIN_TEXT, content.decode("utf-8-sig"), name)
        except UnicodeDecodeError:
            pass  # reported below
        raise ConfigError(
            f"attachment {name!r}: expected a picture (PNG, JPEG, GIF, WebP), a PDF or text in "
            f"UTF-8, found other content that begins with {content[:8]!r}"
        )

    @property
    def size(self) -> int:
        """Return the bytes of its content."""
        if self.media_type == PLAIN_TEXT:
            return len(self.data.encode("utf-8", "replace"))
        return len(self.data) * 3 // 4 - self.data[-2:].count("=")

    def without_data(self) -> Attachment:
        """Return it for events and lists: name and type alone."""
        return replace(self, data="")


@dataclass(frozen=True, slots=True)
class TaskRequest(JsonValue):
    """One task for an agent, in the one form that every interface uses.

    Attributes:
        agent: the name of a definition.
        task: the task as text; it is data and never a command of the CLI.
        project: the folder of the project whose agents, settings and environment apply; None for
            the pool's own.
        timeout: seconds that the task can run; None for the setting `task_timeout`. Time in the
            queue does not count, nor time in which `on_permission` decides.
        conversation: a name that keeps the context for the next task with the same agent and
            name; None for a task without a context.
        ends_conversation: end the conversation with this task.
        schema: a JSON schema of type object; the answer is then also a Python object.
        model: a model's alias or id, instead of the definition's; ``inherit`` for the session's.
        effort: low, medium, high, xhigh or max, instead of the definition's.
        permission_mode: a mode that is at most as permissive as the definition's own.
        env: further environment variables of the agent's process; one with an empty value is not
            set. Their values are secrets: no text form, event, log or list shows them; `as_json`
            does.
        isolation: ``worktree``: the task runs in a git worktree of its own, as with the field
            `isolation` of a definition; None for what the definition says.
        attachments: pictures and files that the agent gets with the task.
        max_budget_usd: the task is interrupted when it has cost this many US dollars, by the list
            prices; the definition's `maxBudgetUsd` and the setting `max_budget_usd` apply too, and
            the smallest counts. None for these two alone.
        max_tokens: the task is interrupted when it has used this many tokens, those read from the
            cache not counted; the setting `max_tokens` applies too, and the smaller one counts.
        priority: of the tasks that a store holds, the one with the highest number begins first.
        not_before: seconds since 1970 before which it does not begin; None for at once. Only a
            pool with a store can wait for it.
        deadline: seconds since 1970 at which it fails if it has not begun; None for never.
        idempotency_key: a second request with the same key is the same task; None for no key.
        idempotent: it can be run again from its beginning if the daemon ended while it ran.
        parent: the id of the task that this one belongs to: if that one is cancelled, so is this.
        asks: a request for permission waits for anyone who answers it with `TaskAPI.answer`;
            without it such a request is denied if the caller gave no `on_permission`.
    """

    agent: str
    task: str
    project: str | None = None
    timeout: float | None = None
    conversation: str | None = None
    ends_conversation: bool = False
    schema: Mapping[str, Any] | None = None
    model: str | None = None
    effort: str | None = None
    permission_mode: str | None = None
    env: Mapping[str, str] | None = field(default=None, repr=False)
    isolation: str | None = None
    attachments: tuple[Attachment, ...] = ()
    max_budget_usd: float | None = None
    max_tokens: int | None = None
    priority: int = 0
    not_before: float | None = None
    deadline: float | None = None
    idempotency_key: str | None = None
    idempotent: bool = False
    parent: str | None = None
    asks: bool = False

    def without_secrets(self) -> TaskRequest:
        """Return the request for events and lists: values of `env` masked, attachments empty."""
        # Wrong ones are left out, which the check refuses later.
        given = self.attachments if isinstance(self.attachments, list | tuple) else ()
        kept = [one.without_data() for one in given if isinstance(one, Attachment)]
        bare = replace(self, attachments=tuple(kept))
        if not isinstance(self.env, Mapping):
            return replace(bare, env=None)
        # A wrong name can hold a value: {"TOKEN=abc": ""}.
        names = (str(name).partition("=")[0] for name in self.env)
        return replace(bare, env=dict.fromkeys(names, MASKED))


@dataclass(frozen=True, slots=True)
class ModelFallback(JsonValue):
    """A model that answered instead of another one.

    Attributes:
        original: the model that was asked.
        model: the model that answered.
        reason: why, in the CLI's words: ``refusal``, ``overloaded``, ``model_not_found``, ….
    """

    original: str
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeniedTool(JsonValue):
    """One call of a tool that was refused: by a rule, a hook, a person, or without anybody to ask.

    Attributes:
        tool: the tool's name.
        input: its input.
        reason: what the agent read instead of the tool's output; can be empty.
    """

    tool: str
    input: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TaskResult(JsonValue):
    """The answer to one task, with its time, tokens and cost.

    Attributes:
        text: everything that the agent said since its last tool call; the error's text if
            `is_error`.
        is_error: there is no complete answer: an error of the API or the CLI, a limit of turns or
            money, a hook that blocked the task, a model that stopped early.
        subtype: how the turn ended in the CLI's words: ``success``, ``error_max_turns``, ….
        agent: the agent's name.
        duration: seconds from the prompt to the result.
        waited: seconds in the queue until a worker was free.
        turns: steps of the main agent, as the CLI counts them.
        usage: tokens, all models together.
        cost_usd: the cost that the CLI computes from its list prices.
        session_id: the CLI's id of this conversation.
        worker: the worker's id.
        pid: its process id.
        structured: the answer as a Python object if a schema was given; else None.
        conversation: the name of its conversation, None if it has none.
        place: its place in the conversation: 1 for the first task, which starts without context.
        task_id: the pool's id of the task.
        worktree: the folder of its git worktree, if the task changed it; otherwise None, and the
            worktree is removed.
        branch: the branch of that worktree; None without one.
        code: the code of the failure, as `raise_for_error` would raise it; empty without one.
        partial: what the agent had said when the task failed; empty for a complete answer.
        stop_reason: why the model stopped, in the API's words: ``end_turn``, ``max_tokens``, …;
            empty if the CLI does not report it.
        terminal_reason: why the turn ended, in the CLI's words: ``completed``, ``max_turns``, …;
            empty if the CLI does not report it.
        models: the models that answered, those of sub-agents too.
        requests: how many requests the API answered with a message.
        fallback: the model that answered instead of one that refused or could not; None without.
        denied: the calls of tools that were refused.
        node: the machine of the worker; empty for this one.
    """

    text: str
    is_error: bool
    subtype: str
    agent: str
    duration: float
    waited: float
    turns: int
    usage: Usage
    cost_usd: float
    session_id: str
    worker: str
    pid: int
    structured: Any = None
    conversation: str | None = None
    place: int = 1
    task_id: str = ""
    worktree: str | None = None
    branch: str | None = None
    code: str = ""
    partial: str = ""
    stop_reason: str = ""
    terminal_reason: str = ""
    models: tuple[str, ...] = ()
    requests: int = 0
    fallback: ModelFallback | None = None
    denied: tuple[DeniedTool, ...] = ()
    node: str = ""

    @property
    def retryable(self) -> bool:
        """Return whether the same call can succeed later without any change."""
        return self.is_error and task_failure(self.code).retryable

    @property
    def advice(self) -> str:
        """Return the one next step that can help; empty for a complete answer."""
        return task_failure(self.code).advice if self.is_error else ""

    def as_json(self) -> dict[str, Any]:
        derived = {"retryable": self.retryable, "advice": self.advice}
        return {**JsonValue.as_json(self), **derived}

    def raise_for_error(self) -> None:
        """Do nothing if there is a complete answer.

        Raises:
            TaskFailed: there is none; its class says why, see `code`.
        """
        if self.is_error:
            how = "" if self.subtype == "success" else f" ({self.subtype})"
            raise task_failure(self.code)(
                f"agent {self.agent!r} on worker {self.worker} failed{how}: {self.text}\n"
                f"{self.advice}",
                result=self,
            )


Outcome = TaskResult | AgentPoolError
"""How one task of a batch ended: its result, or the error that `invoke` would raise."""


@dataclass(frozen=True, slots=True)
class PermissionRequest(JsonValue):
    """An agent's request for permission to use a tool.

    It is answered by True, False, or `Denied` with a reason.

    Attributes:
        agent: the agent's name.
        tool: the tool that it wants to use.
        input: the tool's input.
        description: the CLI's description of the call; can be empty.
    """

    agent: str
    tool: str
    input: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Denied(JsonValue):
    """A refusal of a permission request; false as a condition.

    Attributes:
        reason: the text that the agent reads; empty for the usual words.
    """

    reason: str = ""

    def __bool__(self) -> Literal[False]:
        return False


# Agents


@dataclass(frozen=True, slots=True)
class AgentKey(JsonValue):
    """What tells one agent from all others of a pool.

    Two projects that both define ``reviewer`` have two agents: no worker and no queue is shared.

    Attributes:
        project: the project's folder.
        name: the agent's name there.
        variant: tells workers of the same agent apart that were started with different JSON
            schemas or options of a call; empty for those of the definition alone.
    """

    project: str
    name: str
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.variant})" if self.variant else self.name


@dataclass(frozen=True, slots=True)
class AgentInfo(JsonValue):
    """One agent that is defined, or one definition that cannot be used.

    Attributes:
        name: the agent's name; the file's name where the file has no other.
        path: the file that defines it.
        description: when to use it; can be empty.
        skills, expertise: the names of the texts that are put into its prompt.
        model: the model that the definition names; None for the session's.
        tools: the tools that it can use; None for all of them.
        warnings: for each key of the definition that has no effect in the pool, the reason.
        error: why the definition cannot be used; None if it can.
        max_budget_usd: the most US dollars that one task can cost, by its `maxBudgetUsd`; None for
            no such limit.
    """

    name: str
    path: str
    description: str = ""
    skills: tuple[str, ...] = ()
    expertise: tuple[str, ...] = ()
    model: str | None = None
    tools: tuple[str, ...] | None = None
    warnings: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    max_budget_usd: float | None = None


@dataclass(frozen=True, slots=True)
class AgentList(JsonValue):
    """The agents of one project, by name.

    Attributes:
        project: the project's folder.
        agent_folders, skill_folders, expertise_folders: the folders that are searched, in this
            order; they need not exist.
        agents: the agents, and the definitions that cannot be used.
    """

    project: str
    agent_folders: tuple[str, ...]
    skill_folders: tuple[str, ...]
    expertise_folders: tuple[str, ...]
    agents: tuple[AgentInfo, ...]

    @property
    def usable(self) -> tuple[AgentInfo, ...]:
        """Return the agents that can be given tasks."""
        return tuple(agent for agent in self.agents if agent.error is None)

    @property
    def broken(self) -> tuple[AgentInfo, ...]:
        """Return the definitions that cannot be used."""
        return tuple(agent for agent in self.agents if agent.error is not None)


@dataclass(frozen=True, slots=True)
class LaunchSpec(JsonValue):
    """How the workers of an agent are started, for people to read.

    Attributes:
        argv: the command, without the options that name a single worker.
        env: the whole environment, its secrets masked.
        cwd: the folder that the agent works in.
        prompt: the agent's system prompt.
        version: of the CLI.
        path: the file of the agent's definition.
        memory: ``lean`` or ``fast``, see the setting `worker_memory`.
        role: the head of the definition by which a process becomes the agent; empty if the command
            has the agent's options.
        effort: the reasoning effort that a process takes with the role; empty for the default, and
            without a role.
        profile: equal for agents that can share a process, one after the other.
        left_out: the options that this version of the CLI does not know, and what it costs to
            leave them out.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    prompt: str
    version: str
    path: str = ""
    memory: str = ""
    role: str = ""
    effort: str = ""
    profile: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptSize(JsonValue):
    """The part of the prompt that every task of an agent sends, in characters of JSON.

    Attributes:
        tools: each tool's description, the largest first.
        system: the system prompt, with the lines that Claude Code puts before it.
        messages: Claude Code's own messages beside the task: environment, CLAUDE.md, lists.
    """

    tools: Mapping[str, int]
    system: int
    messages: int

    @property
    def total(self) -> int:
        """Return the sum, in characters."""
        return sum(self.tools.values()) + self.system + self.messages

    @property
    def tokens(self) -> int:
        """Return a rough number of tokens: four characters each."""
        return self.total // 4


@dataclass(frozen=True, slots=True)
class ResetVerdict(JsonValue):
    """Whether a CLI, started with an agent's options, forgets between two tasks.

    Attributes:
        forgets: `/clear` really forgets, so a worker can serve one task after another.
        announces: the CLI announces a reset by a `conversation_reset` frame.
        reason: what the probe saw, in words.
        rewinds: taking the prompt back forgets as well, and leaves nothing in the next request.
        verbatim: the CLI takes a prompt as text that is marked as composed by its client.
        stamps_results: the CLI names in each result the prompt that it answers.
        stamps_turns: the CLI names the prompt at the beginning of its turn, too.
        switches: a process that takes another role sends nothing of the earlier one.
        claims: a process that was claimed for a folder sends what one sends that started there.
    """

    forgets: bool
    announces: bool
    reason: str
    rewinds: bool = False
    verbatim: bool = False
    stamps_results: bool = False
    stamps_turns: bool = False
    switches: bool = False
    claims: bool = False


# Errors as fields


def _read_error(value: object) -> AgentPoolError:
    return value if isinstance(value, AgentPoolError) else error_from_json(value)


ErrorValue = Annotated[
    AgentPoolError,
    PlainValidator(_read_error),
    PlainSerializer(lambda error: error.as_json(), return_type=dict[str, Any]),
]
"""An error as a field of a value."""


# Tasks in a store

TaskState = Literal[
    "queued", "running", "input_required", "succeeded", "failed", "cancelled", "interrupted"
]
"""The states of a task: `input_required` is running and waiting for an answer to a permission
request; `interrupted` ended with the daemon, its result is unknown."""

OPEN_STATES: Final[tuple[TaskState, ...]] = ("queued", "running", "input_required")
ENDED_STATES: Final[tuple[TaskState, ...]] = ("succeeded", "failed", "cancelled", "interrupted")


@dataclass(frozen=True, slots=True)
class TaskQuestion(JsonValue):
    """A request for permission that waits for an answer.

    Attributes:
        key: names the request within its task.
        request: what the agent asks for.
        asked: when, in seconds since 1970.
    """

    key: str
    request: PermissionRequest
    asked: float


@dataclass(frozen=True, slots=True)
class TaskRecord(JsonValue):
    """One task of a store, as it is now.

    Attributes:
        id: its id, which begins with the agent's name.
        number: grows by one with each task of the store.
        state: see `TaskState`.
        request: what was submitted, secrets masked.
        agent: the agent's name.
        project: the folder of the agent's project.
        created: when it was submitted, in seconds since 1970.
        started: when a worker last got it; None before.
        ended: when it ended; None before.
        attempts: how often it was given to a worker.
        worker: the worker that has or had it; empty before.
        pid: its process id; 0 before.
        node: the machine that runs it; empty for this one.
        line: the current step, or the last one, for people; empty before it runs.
        usage: tokens so far.
        cost_usd: cost so far, by the list prices.
        context_tokens, context_window: while it runs, as in the event `Spent`; otherwise 0.
        result: the answer; None unless the agent gave one, also an unsuccessful one.
        error: the error that the caller gets instead of a result; None without one.
        questions: the requests for permission that wait for an answer.
    """

    id: str
    number: int
    state: TaskState
    request: TaskRequest
    agent: str
    project: str
    created: float
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    worker: str = ""
    pid: int = 0
    node: str = ""
    line: str = ""
    usage: Usage = NO_USAGE
    cost_usd: float = 0.0
    result: TaskResult | None = None
    error: ErrorValue | None = None
    questions: tuple[TaskQuestion, ...] = ()
    context_tokens: int = 0
    context_window: int = 0

    @property
    def has_ended(self) -> bool:
        """Return whether its state will not change any more, except by a retry."""
        return self.state in ENDED_STATES

    @property
    def failure(self) -> str:
        """Return the code of its failure; empty without one."""
        if self.error is not None:
            return self.error.code
        return self.result.code or "task_error" if self.result and self.result.is_error else ""

    def as_json(self) -> dict[str, Any]:
        made = {**JsonValue.as_json(self), "failure": self.failure}
        return made if self.result is None else {**made, "result": self.result.as_json()}


@dataclass(frozen=True, slots=True)
class TaskFilter(JsonValue):
    """Which tasks of a store are meant; a field that is empty or None excludes none.

    Attributes:
        states: tasks in one of these states.
        agent: tasks of this agent.
        project: tasks of the project in this folder.
        since, until: submitted at or after, and before; seconds since 1970.
        text: tasks whose request or answer has this text.
        parent: children of this task.
        before: tasks with a smaller `TaskRecord.number`: the next page.
        limit: the most tasks, 1 to 1,000.
    """

    states: tuple[TaskState, ...] = ()
    agent: str = ""
    project: str = ""
    since: float | None = None
    until: float | None = None
    text: str = ""
    parent: str = ""
    before: int | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class DayTotal(JsonValue):
    """The sums of one agent's ended tasks on one day.

    Attributes:
        day: the day on which they ended, local time: ``2026-11-27``.
        project: the folder of the agent's project.
        agent: the agent's name.
        tasks: how many ended.
        failed: how many of them did not succeed, by the code of the failure.
        usage: tokens.
        cost_usd: cost by the list prices.
    """

    day: str
    project: str
    agent: str
    tasks: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    usage: Usage = NO_USAGE
    cost_usd: float = 0.0


# The pool


@dataclass(frozen=True, slots=True)
class RateWindow(JsonValue):
    """One limit of the account.

    Attributes:
        utilization: the share that is used, 0 to 1; it can be above 1.
        resets_at: when it is reset, seconds since 1970; None if unknown.
        status: ``allowed``, ``allowed_warning``, ``rejected``; empty if unknown.
    """

    utilization: float
    resets_at: float | None = None
    status: str = ""


@dataclass(frozen=True, slots=True)
class RateLimits(JsonValue):
    """The limits of the account, as the API last reported them.

    Only accounts with a subscription have them, not those with an API key.

    Attributes:
        status: ``allowed``, ``allowed_warning`` or ``rejected``.
        kind: the limit that comes first: ``five_hour``, ``seven_day``, …; empty if unknown.
        utilization: the share of it that is used.
        resets_at: when it is reset, seconds since 1970; None if unknown.
        five_hour, seven_day: the two limits; None if they were not reported.
        is_using_overage: requests above the limit are paid for.
    """

    status: str
    kind: str = ""
    utilization: float = 0.0
    resets_at: float | None = None
    five_hour: RateWindow | None = None
    seven_day: RateWindow | None = None
    is_using_overage: bool = False

    @property
    def is_rejected(self) -> bool:
        """Return whether the API accepts no requests until the reset."""
        return self.status == "rejected" and not self.is_using_overage


@dataclass(frozen=True, slots=True)
class WorkerInfo(JsonValue):
    """One worker as it is now.

    Attributes:
        worker: its id, e.g. ``worker-1``.
        agent: the agent's name; empty for a spare that is no agent yet.
        description: the agent's description.
        state: ``starting``, ``idle``, ``leased``, ``resetting`` or ``stopping``.
        pid: process id, None before it was started.
        tasks: tasks that it has done.
        rss: resident bytes of its whole process tree.
        uptime: seconds since it was started.
        usage: tokens of all its tasks.
        cost_usd: cost of all its tasks.
        note: an unusual condition, e.g. that the API refuses requests; usually empty.
        project: the folder of the agent's project; empty for a spare.
        memory: ``lean`` or ``fast``, see the setting `worker_memory`.
        profile: equal for workers that can serve the same agents.
        hook_seconds: how long its SessionStart hooks took at its last start or reset, or have
            taken so far.
        node: the machine that it runs on; empty for this one.
    """

    worker: str
    agent: str
    description: str
    state: str
    pid: int | None
    tasks: int
    rss: int
    uptime: float
    usage: Usage
    cost_usd: float
    note: str = ""
    project: str = ""
    memory: str = ""
    profile: str = ""
    hook_seconds: float = 0.0
    node: str = ""


@dataclass(frozen=True, slots=True)
class AgentStats(JsonValue):
    """The figures of one agent's tasks since the pool was opened.

    Attributes:
        agent: its name.
        tasks: tasks that ended.
        failed: how many of them did not succeed, by the error's code; ``task_error`` if the CLI
            reported an error instead of an answer, ``cancelled`` if the caller left.
        running: seconds that its tasks ran.
        waited: seconds that its tasks waited for a worker.
        usage: tokens.
        cost_usd: cost by the CLI's list prices.
        project: the folder of its project.
    """

    agent: str
    tasks: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    running: float = 0.0
    waited: float = 0.0
    usage: Usage = NO_USAGE
    cost_usd: float = 0.0
    project: str = ""

    def __add__(self, other: AgentStats) -> AgentStats:
        """Add the figures of both, under the first one's name."""
        return AgentStats(
            agent=self.agent,
            tasks=self.tasks + other.tasks,
            failed=dict(Counter(self.failed) + Counter(other.failed)),
            running=self.running + other.running,
            waited=self.waited + other.waited,
            usage=self.usage + other.usage,
            cost_usd=self.cost_usd + other.cost_usd,
            project=self.project,
        )

    @property
    def cache_hit_rate(self) -> float:
        """Return the share of the prompts' tokens that was read from the cache, 0 to 1."""
        return self.usage.cache_hit_rate

    def as_json(self) -> dict[str, Any]:
        return {**JsonValue.as_json(self), "cache_hit_rate": self.cache_hit_rate}


@dataclass(frozen=True, slots=True)
class ReuseStats(JsonValue):
    """The starts that using processes again saved, against a new process for each task.

    Attributes:
        tasks: tasks on a process that had been given a task before.
        starts: processes whose start was measured. A spare's start is not: it is started before
            anybody needs it, and waits.
        starting: seconds of these starts together, from spawn to ready.
    """

    tasks: int = 0
    starts: int = 0
    starting: float = 0.0

    def __add__(self, other: ReuseStats) -> ReuseStats:
        return ReuseStats(
            self.tasks + other.tasks,
            self.starts + other.starts,
            self.starting + other.starting,
        )

    @property
    def mean_start(self) -> float | None:
        """Return the average seconds of a start; None if none was measured."""
        return self.starting / self.starts if self.starts else None

    @property
    def seconds_saved(self) -> float | None:
        """Return `tasks` times `mean_start`: starts that were not needed; None if unknown."""
        mean = self.mean_start
        return None if mean is None else self.tasks * mean

    def as_json(self) -> dict[str, Any]:
        derived = {"mean_start": self.mean_start, "seconds_saved": self.seconds_saved}
        return {**JsonValue.as_json(self), **derived}


NO_REUSE: Final = ReuseStats()


NodeState = Literal["starting", "ready", "left_out", "draining", "lost"]
"""The states of a machine: only one that is `ready` gets tasks. `left_out`: a check of it failed;
`draining`: it finishes what it has, then it leaves; `lost`: it is not heard of any more."""


@dataclass(frozen=True, slots=True)
class NodeInfo(JsonValue):
    """One machine of a pool that has several.

    Attributes:
        node: its name, which is also in its workers and tasks.
        state: see `NodeState`.
        reason: why it gets no tasks, in words; empty if it does.
        size: how many workers fit.
        running: tasks that it runs now.
        version: of its Claude Code CLI; empty if it is not known.
    """

    node: str
    state: NodeState
    reason: str = ""
    size: int = 0
    running: int = 0
    version: str = ""


@dataclass(frozen=True, slots=True)
class PoolStats(JsonValue):
    """The figures of a pool since it was opened.

    Attributes:
        uptime: seconds.
        waiting: callers that wait now.
        paused: seconds for which no work is given out, because the API refused some.
        workers: how many workers there are, by state.
        spawned: processes started.
        resets: how often a worker forgot its task and served on.
        rewinds: how many of these took the prompt back; the others sent `/clear`.
        pause_reason: why no work is given out, in words; empty without a pause.
        rate_limits: the limits of the account as last reported; None if they never were.
        strays: results that no task had asked for.
        retired: workers that were retired, by reason.
        agents: the figures by agent.
        reuse: what using processes again saved, as measured by this pool.
        nodes: the machines of a pool that has several, also those that get no tasks; otherwise
            empty.
        cluster_problem: why the cluster of these machines cannot be reached, in words; empty if it
            can, or if there is none.
    """

    uptime: float
    waiting: int
    paused: float
    workers: Mapping[str, int]
    spawned: int
    resets: int
    strays: int
    retired: Mapping[str, int]
    agents: tuple[AgentStats, ...]
    reuse: ReuseStats = NO_REUSE
    rewinds: int = 0
    pause_reason: str = ""
    rate_limits: RateLimits | None = None
    nodes: tuple[NodeInfo, ...] = ()
    cluster_problem: str = ""

    @property
    def total(self) -> AgentStats:
        """Return the sum of all agents."""
        return sum(self.agents, AgentStats(agent=""))

    def as_json(self) -> dict[str, Any]:
        return {
            **JsonValue.as_json(self),
            "agents": [agent.as_json() for agent in self.agents],
            "total": self.total.as_json(),
            "reuse": self.reuse.as_json(),
        }


@dataclass(frozen=True, slots=True)
class PoolStatus(JsonValue):
    """A pool as it is now, as other programs of its user see it.

    Attributes:
        pid: the process that it belongs to.
        program: the file or the module that this process runs, without its arguments.
        project: the pool's project folder.
        version: of agent-pool.
        workers: as `PoolAPI.workers` returns them.
        stats: as `PoolAPI.stats` returns them.
    """

    pid: int
    program: str
    project: str
    version: str
    workers: tuple[WorkerInfo, ...]
    stats: PoolStats

    def as_json(self) -> dict[str, Any]:
        return {**JsonValue.as_json(self), "stats": self.stats.as_json()}


# Errors


def error_from_json(data: object) -> AgentPoolError:
    """Make the error again whose `as_json` returned `data`.

    The class is found by `code`; an unknown code gives a plain `AgentPoolError` that has this code.

    Raises:
        ConfigError: `data` is not the JSON of an error.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("code"), str):
        raise ConfigError(f"this is not the JSON of an error: {data!r:.200}")
    message, pid = data.get("message"), data.get("pid")
    if not isinstance(message, str) or not (pid is None or type(pid) is int):
        raise ConfigError(f"this is not the JSON of an error: {data!r:.200}")
    kind = _error_classes(AgentPoolError).get(data["code"])
    if kind is None:
        unknown = AgentPoolError(message)
        vars(unknown).update(code=data["code"], retryable=data.get("retryable") is True)
        return unknown
    return kind(message, **_error_attributes(kind, data))


def _error_classes(base: type[AgentPoolError]) -> dict[str, type[AgentPoolError]]:
    """Return all error classes that are loaded, by code; the MCP server adds some of its own."""
    # A subclass of a user inherits its code and must not replace the class that has it.
    found = {base.code: base} if "code" in vars(base) else {}
    for kind in base.__subclasses__():
        # The first one counts: those of `errors` are defined before all others.
        found = _error_classes(kind) | found
    return found


def _error_attributes(kind: type[AgentPoolError], data: Mapping[str, Any]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if issubclass(kind, WorkerError):
        attributes |= {
            "worker": str(data.get("worker", "")),
            "pid": data.get("pid"),
            "stderr_tail": str(data.get("stderr_tail", "")),
        }
    if issubclass(kind, SpawnError):
        attributes["is_fatal"] = data.get("is_fatal") is True
    if issubclass(kind, TaskError) and data.get("result") is not None:
        attributes["result"] = TaskResult.from_json(data["result"])
    return attributes
