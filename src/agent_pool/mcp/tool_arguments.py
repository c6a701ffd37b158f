"""The arguments of each tool: one model is the schema for clients and the check of their calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent_pool import AgentPoolError, TaskRequest
from agent_pool.text import did_you_mean

MAX_TASKS: Final = 32
"""Tasks of one `invoke_many`."""
MAX_WAIT: Final = 600
"""Seconds of one `result`."""
MAX_NAME: Final = 100
"""Characters of a conversation's name."""


class BadArguments(AgentPoolError):  # noqa: N818
    """The arguments of a call do not fit the tool; the message names each wrong one."""

    code = "bad_arguments"


class ToolArguments(BaseModel):
    """The base of every tool's arguments."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def schema_for_clients(cls) -> dict[str, Any]:
        """Return the JSON schema in its plain form: without titles, references and null.

        Models read it, and every word of it costs tokens.
        """
        schema = cls.model_json_schema()
        plain: dict[str, Any] = _plain(schema, schema.get("$defs", {}))
        return {"type": "object", "properties": {}, "required": []} | plain

    @classmethod
    def read(cls, tool: str, given: Mapping[str, Any] | None) -> Self:
        """Read the arguments of one call.

        Raises:
            BadArguments: an argument is missing, unknown or of the wrong type.
        """
        try:
            return cls.model_validate(dict(given or {}))
        except ValidationError as error:
            found = "; ".join(cls._explain(detail) for detail in error.errors())
            raise BadArguments(f"{tool}: {found}. {cls._usage(tool)}") from None

    @classmethod
    def _explain(cls, error: Mapping[str, Any]) -> str:
        place, value = error["loc"], error["input"]
        name = _path(place)
        match error["type"]:
            case "missing":
                return f"the argument {name!r} is missing"
            case "extra_forbidden":
                known = cls.model_fields if len(place) == 1 else InvokeArguments.model_fields
                return f"unknown argument {name!r}{did_you_mean(str(place[-1]), known, most=1)}"
            case "string_pattern_mismatch":
                return f"the argument {name!r} is empty"
            case "string_too_long":
                return f"the argument {name!r} is longer than {MAX_NAME} characters"
            case "too_short" | "too_long":
                return f"the argument {name!r} holds {len(value)} tasks, not 1 to {MAX_TASKS}"
            case "greater_than_equal":
                bound = error["ctx"]["ge"]
                return f"the argument {name!r} must be {bound} or more, not {_json_type(value)}"
        return f"the argument {name!r} must be {_expected(error['type'])}, not {_json_type(value)}"

    @classmethod
    def _usage(cls, tool: str) -> str:
        names = ", ".join(
            name if field.is_required() else f"{name}?" for name, field in cls.model_fields.items()
        )
        return f"Call it as {tool}({names})" + ("." if names else ", without arguments.")


def _path(place: Sequence[int | str]) -> str:
    """Return the place of an argument: ``tasks[2].agent``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).removeprefix(".")


def _plain(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_plain(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _plain(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:  # a value or null; null means that it is absent
        (value,) = (one for one in schema["anyOf"] if one != {"type": "null"})
        schema = {key: schema[key] for key in schema if key not in ("anyOf", "default")} | value
    return {
        key: _plain(value, definitions)
        for key, value in schema.items()
        if key not in ("title", "$defs")
    }


def _expected(kind: str) -> str:
    kinds = {
        "list_type": "an array",
        "model_type": "an object",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "greater_than": "above 0",
        "greater_than_equal": "0 or more",
        "less_than_equal": f"at most {MAX_WAIT}",
        "bool_type": "true or false",
    }
    return kinds.get(kind, "a string")


def _json_type(value: object) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


NonBlank = Annotated[str, Field(pattern=r"\S")]
Name = Annotated[str, Field(pattern=r"\S", max_length=MAX_NAME)]


class InvokeArguments(ToolArguments):
    agent: NonBlank = Field(description="The agent's name, as the description of invoke lists it.")
    task: NonBlank = Field(
        description="The whole task. The agent does not see this conversation: name the "
        "files, the facts and the form of the answer."
    )
    conversation: Name | None = Field(
        None,
        description="Only for follow-ups: a name of your choice. The next task with the same agent "
        "and name still knows this one; without a name every task starts without context.",
    )
    cwd: NonBlank | None = Field(
        None, description="The absolute path of another folder to work in; its agents apply."
    )
    model: NonBlank | None = Field(None, description="Another model.")
    effort: NonBlank | None = Field(None, description="low, medium, high, xhigh or max.")
    permission_mode: NonBlank | None = Field(
        None, description="A stricter permission mode than the agent's own."
    )
    isolation: NonBlank | None = Field(
        None, description="worktree: work in a git worktree, which is kept if anything changes."
    )
    max_budget_usd: float | None = Field(
        None, gt=0, description="Stop the task when it has cost this many US dollars."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Stop the task when it has used this many tokens."
    )

    @property
    def request(self) -> TaskRequest:
        """Return the task that is asked for."""
        # No `env`: by a variable such as ANTHROPIC_BASE_URL, words that a model has read somewhere
        # could send the user's credentials to another server. No attachments: the pool would read
        # files for a client that may itself be forbidden to read them, and send them to a model.
        return TaskRequest(
            self.agent,
            self.task,
            self.cwd,
            conversation=self.conversation,
            model=self.model,
            effort=self.effort,
            permission_mode=self.permission_mode,
            isolation=self.isolation,
            max_budget_usd=self.max_budget_usd,
            max_tokens=self.max_tokens,
        )


class BackgroundArguments(InvokeArguments):
    background: bool = Field(
        False,
        description="true: return an id at once instead of the answer; read the answer later with "
        "the tool result.",
    )


class InvokeManyArguments(ToolArguments):
    tasks: list[InvokeArguments] = Field(
        min_length=1,
        max_length=MAX_TASKS,
        description="The tasks. Tasks of one conversation run in their order, all others at the "
        "same time.",
    )


class AgentsArguments(ToolArguments):
    query: NonBlank | None = Field(None, description="Words to search for; all agents without it.")
    cwd: NonBlank | None = Field(
        None, description="The absolute path of another folder, whose agents are meant."
    )


class ReadAnswerArguments(ToolArguments):
    answer: NonBlank = Field(description="The name in the first line of the answer.")
    start: int = Field(0, ge=0, description="The character at which the part begins.")


class ResultArguments(ToolArguments):
    id: NonBlank = Field(description="The id of the task.")
    wait_seconds: int = Field(
        20, ge=0, le=MAX_WAIT, description="How long to wait for the end of the task, 0 to 600."
    )


class AgentArguments(ToolArguments):
    agent: NonBlank = Field(description="The agent's name.")


class ResetArguments(AgentArguments):
    conversation: Name | None = Field(
        None, description="End just this conversation, after the task that it runs, if any."
    )


class NoArguments(ToolArguments):
    pass
