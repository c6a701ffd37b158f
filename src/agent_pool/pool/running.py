"""One task on one worker, within its bounds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent_pool.claude.events import Retrying
from agent_pool.claude.worker import Worker
from agent_pool.errors import AgentPoolError, ConfigError, TaskFailed, TaskTimeout
from agent_pool.pool.asking import Clock, Permit, asker
from agent_pool.pool.health import OVERLOADED
from agent_pool.pool.result import TaskEvent, TaskResult
from agent_pool.pool.supervisor import Supervisor
from agent_pool.pool.tasks import TurnEvent, make_result, to_public

PAUSE: Final = 5.0
"""Seconds without new work after the API refused a task for load without saying for how long."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a caller wants: see `AgentPool.invoke`; `patience` is the setting permission_timeout."""

    agent: str
    task: str
    timeout: float
    tell: Callable[[TaskEvent], None]
    permit: Permit | None = None
    patience: float = 180.0
    schema: Mapping[str, Any] | None = None


async def run(call: Call, worker: Worker, supervisor: Supervisor, waited: float) -> TaskResult:
    """Give the task to the worker and wait for its answer.

    Raises:
        TaskTimeout, TaskFailed, WorkerDied: see `AgentPool.invoke`.
    """
    began = time.monotonic()

    def listen(event: TurnEvent) -> None:
        if isinstance(event, Retrying):
            supervisor.refused(worker, event)
        call.tell(to_public(event))

    try:
        async with asyncio.timeout(call.timeout) as bound:
            clock = Clock(bound)
            ask = asker(call.agent, call.permit, call.patience, clock)
            try:
                frame = await worker.turn(call.task, listen, ask)
            finally:
                clock.end()
    except TimeoutError as error:
        if isinstance(error, AgentPoolError):
            raise
        what = worker.note or "; ".join(worker.taints) or "give it more time or a smaller task"
        raise TaskTimeout(
            f"the task of agent {call.agent!r} on worker {worker.name} was stopped after "
            f"{call.timeout:g} s (its timeout, by default the setting task_timeout); {what}"
        ) from None
    if frame.get("api_error_status") in OVERLOADED:
        supervisor.pause(PAUSE)
    duration = time.monotonic() - began
    result = make_result(frame, worker, call.agent, duration=duration, waited=waited)
    if call.schema is not None and not result.is_error:
        check_answer(call.schema, result)
    return result


def schema_text(schema: Mapping[str, Any] | None) -> str:
    """A JSON schema as text, in its own order, which is the order of the answer; empty for none.

    Raises:
        ConfigError: it is no JSON schema, not one of an object, or refers to what is not in it.
    """
    if schema is None:
        return ""
    if not (isinstance(schema, dict) and schema.get("type") == "object"):
        raise ConfigError(
            "the answer's schema must say `type: object` at its top, the only form in which the "
            "API answers; put anything else into a property"
        )
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        text = json.dumps(schema, allow_nan=False)
        _validator(schema).check_schema(schema)
        _refuse_dangling(schema)
    except (SchemaError, TypeError, ValueError, RecursionError) as error:
        message = getattr(error, "message", error)
        raise ConfigError(f"the answer's schema is no JSON schema: {message}") from None
    except Unresolvable as error:
        raise ConfigError(
            f"the answer's schema refers to {error.ref!r}, which is not in it; copy it into $defs"
        ) from None
    return text


def _validator(schema: Any) -> Any:
    """What checks answers; it fetches nothing from the network."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    return validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())


def _refuse_dangling(schema: Any) -> None:
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


def check_answer(schema: Mapping[str, Any], result: TaskResult) -> None:
    """Refuse a result whose structure is missing or does not fit.

    Raises:
        TaskFailed: with the result.
    """
    from jsonschema.exceptions import ValidationError

    if result.structured is None:
        raise TaskFailed(
            f"agent {result.agent!r} on worker {result.worker} answered without the structure that "
            f"was asked for: {result.text[:200]!r}",
            result=result,
        )
    try:
        _validator(schema).validate(result.structured)
    except ValidationError as error:
        raise TaskFailed(
            f"the answer of agent {result.agent!r} does not fit the schema at "
            f"{error.json_path}: {error.message}",
            result=result,
        ) from None
    except Exception as error:  # a schema that refers to itself, a pattern that is none, …
        raise TaskFailed(
            f"the answer of agent {result.agent!r} cannot be checked, because its schema cannot be "
            f"applied: {error!r:.200}",
            result=result,
        ) from None
