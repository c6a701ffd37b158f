"""JSON schemas of answers: checked before a task, and applied to its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent_pool.errors import ConfigError, SchemaMismatch, StructureMissing, TaskFailed
from agent_pool.models import TaskResult

# jsonschema and referencing are imported where they are used: they take 60 ms and 10 MB to load,
# and most tasks have no schema.


def schema_text(schema: Mapping[str, Any] | None) -> str:
    """Return a JSON schema as JSON, its keys in their own order; empty for `None`.

    The order of the keys is the order of the answer's fields.

    Raises:
        ConfigError: it is not a JSON schema of type object, or refers to something outside itself.
    """
    if schema is None:
        return ""
    if not (isinstance(schema, dict) and schema.get("type") == "object"):
        raise ConfigError(
            "the answer's schema must have `type: object` at its top, the only form in which the "
            "API answers; put any other type into a property"
        )
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        # The CLI gets the schema as JSON, which has no NaN. A value that contains itself raises.
        text = json.dumps(schema, allow_nan=False)
        _validator(schema).check_schema(schema)
        # `check_schema` does not follow references: a wrong one would fail only at the answer.
        _resolve_references(schema)
    except (SchemaError, TypeError, ValueError, RecursionError) as error:
        message = getattr(error, "message", error)
        raise ConfigError(f"the answer's schema is not a JSON schema: {message}") from None
    except Unresolvable as error:
        raise ConfigError(
            f"the answer's schema refers to {error.ref!r}, which is not in it; copy it into $defs"
        ) from None
    return text


def check_answer(schema: Mapping[str, Any], result: TaskResult) -> None:
    """Check that the structured answer of a result fits the schema.

    Raises:
        StructureMissing, SchemaMismatch: it is missing, or does not fit; the error has the result.
        TaskFailed: the schema cannot be applied.
    """
    from jsonschema.exceptions import ValidationError

    if result.structured is None:
        raise StructureMissing(
            f"agent {result.agent!r} on worker {result.worker} answered without the structure that "
            f"its schema asks for: {result.text[:200]!r}\n{StructureMissing.advice}",
            result=result,
        )
    try:
        _validator(schema).validate(result.structured)
    except ValidationError as error:
        raise SchemaMismatch(
            f"the answer of agent {result.agent!r} does not fit the schema at "
            f"{error.json_path}: {error.message}\n{SchemaMismatch.advice}",
            result=result,
        ) from None
    except Exception as error:  # e.g. a schema that refers to itself without end, a bad pattern
        raise TaskFailed(
            f"the answer of agent {result.agent!r} cannot be checked, because its schema cannot be "
            f"applied: {error!r:.200}",
            result=result,
        ) from None


def _validator(schema: Any) -> Any:
    """Return a validator that fetches nothing from the network."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    return validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())


def _resolve_references(schema: Any) -> None:
    """Look up every `$ref`, as an answer would; raise Unresolvable for a missing target."""
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    def look_up(resource: Any, resolver: Any) -> None:
        contents = resource.contents
        if isinstance(contents, dict) and isinstance(contents.get("$ref"), str):
            resolver.lookup(contents["$ref"])
        for inner in resource.subresources():
            look_up(inner, resolver.in_subresource(inner))

    root: Any = Resource.from_contents(schema, default_specification=DRAFT202012)
    look_up(root, Registry().resolver_with_root(root))
