"""What each tool takes: one model is both the schema for clients and the check of their calls."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent_pool import AgentPoolError


class BadArguments(AgentPoolError):  # noqa: N818
    """A call's arguments are not what the tool takes; the message names each of them."""

    code = "bad_arguments"


class Arguments(BaseModel):
    """The base of every tool's arguments."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def schema_for_clients(cls) -> dict[str, Any]:
        """The JSON schema, without the titles that pydantic makes up."""
        schema = cls.model_json_schema()
        fields = {
            name: {key: value for key, value in field.items() if key != "title"}
            for name, field in schema.get("properties", {}).items()
        }
        return {
            "type": "object",
            "properties": fields,
            "required": schema.get("required", []),
            "additionalProperties": False,
        }

    @classmethod
    def read(cls, tool: str, given: Mapping[str, Any] | None) -> Self:
        """The arguments of one call.

        Raises:
            BadArguments: something is missing, unknown or of the wrong type.
        """
        try:
            return cls.model_validate(dict(given or {}))
        except ValidationError as error:
            found = [cls._explain(str(e["loc"][0]), e["type"], e["input"]) for e in error.errors()]
            raise BadArguments(f"{tool}: {'; '.join(found)}. {cls._usage(tool)}") from None

    @classmethod
    def _explain(cls, name: str, kind: str, value: object) -> str:
        if kind == "missing":
            return f"the argument {name!r} is missing"
        if kind == "extra_forbidden":
            close = difflib.get_close_matches(name, cls.model_fields, n=1)
            return f"unknown argument {name!r}" + (
                f" (did you mean {close[0]!r}?)" if close else ""
            )
        if kind == "string_pattern_mismatch":
            return f"the argument {name!r} is empty"
        return f"the argument {name!r} must be a string, not {_json_type(value)}"

    @classmethod
    def _usage(cls, tool: str) -> str:
        names = ", ".join(cls.model_fields)
        return f"It is called as {tool}({names})" + ("." if names else ", without arguments.")


def _json_type(value: object) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "an object",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


NonBlank = Annotated[str, Field(pattern=r"\S")]


class Invoke(Arguments):
    agent: NonBlank = Field(description="The agent's name, as listed in this tool's description.")
    task: NonBlank = Field(
        description="The whole task. The agent sees nothing else of this conversation: name "
        "files, facts and the form of the answer."
    )


class OneAgent(Arguments):
    agent: NonBlank = Field(description="The agent's name.")


class Nothing(Arguments):
    pass
