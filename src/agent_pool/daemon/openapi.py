"""The REST interface as a table, and the OpenAPI document that is made from it.

The routes are made from the same table, so the document has all of them. Schemas come from the
classes that the routes return.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, TypeAlias

from pydantic import TypeAdapter

from agent_pool.daemon.http_json import (
    MAX_INTEGER,
    MAX_WAIT,
    AnswerBody,
    ConversationBody,
    RetryBody,
    TaskBody,
)
from agent_pool.events import Event, TaskEvent
from agent_pool.models import (
    AgentList,
    AgentStats,
    LaunchSpec,
    PoolStats,
    PromptSize,
    ResetVerdict,
    ReuseStats,
    TaskRecord,
    TaskResult,
    TaskState,
    WorkerInfo,
)

VERSION: Final = "3.1.0"
_REF: Final = "#/components/schemas/{model}"
_BODIES: Final = (TaskBody, AnswerBody, ConversationBody, RetryBody)
_ANSWERS: Final = (
    *(TaskRecord, TaskResult, AgentList, LaunchSpec, PromptSize, ResetVerdict, WorkerInfo),
    *(AgentStats, ReuseStats, PoolStats),
)
_UNIONS: Final[tuple[tuple[str, Any], ...]] = (("TaskEvent", TaskEvent), ("Event", Event))

Schema: TypeAlias = dict[str, Any]

_DERIVED: Final[dict[str, Schema]] = {
    "TaskResult": {"retryable": {"type": "boolean"}, "advice": {"type": "string"}},
    "TaskRecord": {"failure": {"type": "string"}},
    "AgentStats": {"cache_hit_rate": {"type": "number"}},
    "ReuseStats": {
        "mean_start": {"type": ["number", "null"]},
        "seconds_saved": {"type": ["number", "null"]},
    },
    "PoolStats": {"total": {"$ref": "#/components/schemas/AgentStats"}},
}
"""The fields that `as_json` adds to those of the class."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a route.

    Attributes:
        name: its name.
        schema: its JSON schema.
        text: what it is for.
        place: ``query``, ``path`` or ``header``.
    """

    name: str
    schema: Schema
    text: str
    place: Literal["query", "path", "header"] = "query"

    def as_json(self) -> Schema:
        """Return the parameter as OpenAPI has it."""
        return {
            "name": self.name,
            "in": self.place,
            "required": self.place == "path",
            "description": self.text,
            "schema": self.schema,
        }


@dataclass(frozen=True)
class Operation:
    """One route with one method.

    Attributes:
        method: the HTTP method.
        path: below ``/v1``, with its parameters in braces; one with ``:path`` can have slashes.
        name: names the operation and the function that answers.
        text: what it does, in one sentence.
        answer: the schema of the answer, or the name of a component.
        parameters: those of the query and the header.
        body: the class of the body; None without one.
        status: of success.
        also: another status of success with the same answer.
        errors: statuses of errors besides those that every route has.
        media_type: of the answer.
    """

    method: str
    path: str
    name: str
    text: str
    answer: str | Schema
    parameters: tuple[Parameter, ...] = ()
    body: type | None = None
    status: int = 200
    also: int | None = None
    errors: tuple[int, ...] = ()
    media_type: str = "application/json"

    @property
    def query(self) -> tuple[str, ...]:
        """Return the names of the query parameters that can be given once."""
        return tuple(one.name for one in self._in_query() if one.schema.get("type") != "array")

    @property
    def lists(self) -> tuple[str, ...]:
        """Return the names of the query parameters that can be repeated."""
        return tuple(one.name for one in self._in_query() if one.schema.get("type") == "array")

    def _in_query(self) -> Iterable[Parameter]:
        return (one for one in self.parameters if one.place == "query")


def _object(**properties: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _ref(name: str) -> Schema:
    return {"$ref": _REF.format(model=name)}


_TEXT: Final[Schema] = {"type": "string"}
_FLAG: Final[Schema] = {"type": "string", "enum": ["0", "1", "false", "true"]}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER}
_TIME: Final[Schema] = {"type": "number", "minimum": 0, "maximum": MAX_INTEGER}
_WAIT: Final = Parameter(
    "wait",
    {"type": "number", "minimum": 0, "maximum": MAX_WAIT},
    "Answer when the task has ended, or after this many seconds.",
)
_PROJECT: Final = Parameter(
    "project", _TEXT, "The folder of the project; without it the daemon's own."
)
_FILTER: Final = (
    Parameter(
        "states",
        {"type": "array", "items": {"enum": list(TaskState.__args__)}},  # type: ignore[attr-defined]
        "Tasks in one of these states; can be repeated.",
    ),
    Parameter("agent", _TEXT, "Tasks of this agent."),
    Parameter("project", _TEXT, "Tasks of the project in this folder."),
    Parameter("since", _TIME, "Submitted at or after; seconds since 1970."),
    Parameter("until", _TIME, "Submitted before; seconds since 1970."),
    Parameter("text", _TEXT, "Tasks whose request or answer has this text."),
    Parameter("parent", _TEXT, "Children of this task."),
    Parameter("before", _COUNT, "Tasks with a smaller number: the next page."),
    Parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "The most tasks; 50."),
)
_AFTER: Final = (
    Parameter("after", _COUNT, "The number of the last event that the client has."),
    Parameter("Last-Event-ID", _COUNT, "The same, as browsers send it; it wins.", "header"),
)
_EVENT_STREAM: Final = "text/event-stream"
_TASK_PAGE: Final = _object(
    tasks={"type": "array", "items": _ref("TaskRecord")},
    before={
        "type": ["integer", "null"],
        "description": "`before` of the next page; null at its end.",
    },
)
_HEALTH: Final = _object(
    status={"enum": ["ok", "draining"]}, version=_TEXT, uptime={"type": "number"}, open_tasks=_COUNT
)

OPERATIONS: Final = (
    Operation(
        "POST",
        "/tasks",
        "submit",
        "Submit a task. It is stored when the answer comes. A repeated `idempotency_key` is "
        "answered with 200 and the first task.",
        "TaskRecord",
        (_WAIT,),
        TaskBody,
        status=201,
        also=200,
        errors=(404, 429),
    ),
    Operation("GET", "/tasks", "tasks", "List tasks, the newest first.", _TASK_PAGE, _FILTER),
    Operation(
        "GET", "/tasks/{id}", "task", "Return a task.", "TaskRecord", (_WAIT,), errors=(404,)
    ),
    Operation(
        "DELETE",
        "/tasks/{id}",
        "cancel",
        "Cancel a task; 409 if it has ended.",
        "TaskRecord",
        errors=(404, 409),
    ),
    Operation(
        "GET",
        "/tasks/{id}/events",
        "task_events",
        "Stream the events of a task until `task.ended`. The id of each is its number within the "
        "task, its data a `TaskEvent`.",
        _TEXT,
        _AFTER,
        errors=(404,),
        media_type=_EVENT_STREAM,
    ),
    Operation(
        "POST",
        "/tasks/{id}/retry",
        "retry",
        "Queue a task again that failed, was cancelled or was interrupted; a body is needed only "
        "if its request had variables of its own.",
        "TaskRecord",
        body=RetryBody,
        errors=(404, 409),
    ),
    Operation(
        "POST",
        "/tasks/{id}/answer",
        "answer",
        "Answer a request for permission; `accepted` is false if it does not wait any more.",
        _object(accepted={"type": "boolean"}),
        body=AnswerBody,
        errors=(404,),
    ),
    Operation(
        "POST",
        "/check",
        "check",
        "Check a request without running it.",
        _object(ok={"const": True}),
        body=TaskBody,
        errors=(404,),
    ),
    Operation(
        "POST",
        "/conversations/end",
        "end_conversation",
        "Forget a conversation; `ended` is false if there was none.",
        _object(ended={"type": "boolean"}),
        body=ConversationBody,
        errors=(404,),
    ),
    Operation(
        "GET", "/agents", "agents", "List the agents of a project.", "AgentList", (_PROJECT,)
    ),
    Operation(
        "GET",
        "/agents/version",
        "agents_version",
        "Return a text that changes when the agents change.",
        _object(version=_TEXT),
        (_PROJECT,),
    ),
    Operation(
        "GET",
        "/agents/{name:path}/launch",
        "launch",
        "Return how the workers of an agent are started, secrets masked.",
        "LaunchSpec",
        (_PROJECT,),
        errors=(404,),
    ),
    Operation(
        "GET",
        "/agents/{name:path}/prompt-size",
        "prompt_size",
        "Measure the prompt that every task of an agent sends, offline.",
        "PromptSize",
        (_PROJECT,),
        errors=(404,),
    ),
    Operation(
        "GET",
        "/agents/{name:path}/reset-verdict",
        "reset_verdict",
        "Return whether the CLI is known to forget between tasks; null if it is unknown.",
        _object(verdict={"anyOf": [_ref("ResetVerdict"), {"type": "null"}]}),
        (_PROJECT, Parameter("refresh", _FLAG, "Find it out anew.")),
        errors=(404,),
    ),
    Operation(
        "POST",
        "/agents/{name:path}/warmup",
        "warmup",
        "Start a worker of an agent, and wait until it is ready.",
        "WorkerInfo",
        (_PROJECT,),
        errors=(404, 429),
    ),
    Operation(
        "POST",
        "/agents/{name:path}/reset",
        "reset",
        "Stop an agent's workers; a task that runs on one of them fails.",
        _object(stopped=_COUNT),
        (_PROJECT,),
        errors=(404,),
    ),
    Operation(
        "GET",
        "/workers",
        "workers",
        "List the workers.",
        _object(workers={"type": "array", "items": _ref("WorkerInfo")}),
    ),
    Operation("GET", "/stats", "stats", "Return the figures since the start.", "PoolStats"),
    Operation(
        "GET",
        "/events",
        "events",
        "Stream the events of the whole pool, without end. The first one is a `pool.snapshot`, "
        "unless `Last-Event-ID` names an event that is kept. The data of each is an `Event`.",
        _TEXT,
        (Parameter("Last-Event-ID", _TEXT, "The id of the last event.", "header"),),
        media_type=_EVENT_STREAM,
    ),
    Operation("GET", "/health", "health", "Return whether the daemon serves.", _HEALTH),
    Operation(
        "GET",
        "/metrics",
        "metrics",
        "Return the figures for Prometheus.",
        _TEXT,
        media_type="text/plain",
    ),
    Operation("GET", "/openapi.json", "openapi", "Return this document.", {"type": "object"}),
)
"""All routes. The order counts: `/agents/version` comes before the routes with a name."""

_ALWAYS: Final = (400, 401, 403, 500, 502, 503)
_STATUS_TEXTS: Final = {
    200: "Success.",
    201: "Created.",
    400: "The request is wrong.",
    401: "There is no token, or a wrong one.",
    403: "The caller is refused.",
    404: "There is no such task or agent.",
    409: "The state of the task does not allow it.",
    413: "The body is too large.",
    429: "Too many tasks wait.",
    500: "A bug of agent-pool.",
    502: "A task of the daemon itself failed.",
    503: "No worker, or the store of tasks fails; or the daemon ends.",
}


@cache
def openapi_document(version: str) -> Schema:
    """Return the document of this interface.

    Args:
        version: of agent-pool.
    """
    paths: dict[str, Schema] = {}
    for one in OPERATIONS:
        path = "/v1" + one.path.replace(":path", "")
        paths.setdefault(path, {})[one.method.lower()] = _operation(one, path)
    return {
        "openapi": VERSION,
        "info": {
            "title": "agent-pool",
            "version": version,
            "description": "Warm Claude Code agents of one user, as a service on this machine.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(one: Operation, path: str) -> Schema:
    names = re.findall(r"\{(\w+)\}", path)
    in_path = [Parameter(name, _TEXT, f"The {name}.", "path") for name in names]
    made: Schema = {
        "operationId": one.name,
        "summary": one.text,
        "parameters": [parameter.as_json() for parameter in (*in_path, *one.parameters)],
        "responses": _responses(one),
    }
    if one.body is not None:
        schema = _ref(one.body.__name__)
        content = {"application/json": {"schema": schema}}
        made["requestBody"] = {"required": one.body is not RetryBody, "content": content}
    return made


def _responses(one: Operation) -> Schema:
    answer = _ref(one.answer) if isinstance(one.answer, str) else one.answer
    good = {status: {one.media_type: {"schema": answer}} for status in (one.status, one.also)}
    with_body = (413,) if one.body is not None else ()
    bad = {
        status: {"application/json": {"schema": _ref("Failure")}}
        for status in sorted({*_ALWAYS, *with_body, *one.errors})
    }
    return {
        str(status): {"description": _STATUS_TEXTS[status], "content": content}
        for status, content in {**good, **bad}.items()
        if status is not None
    }


def _schemas() -> Schema:
    adapters: list[tuple[Any, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        *((kind, "validation", TypeAdapter(kind)) for kind in _BODIES),
        *((kind, "serialization", TypeAdapter(kind)) for kind in _ANSWERS),
        *((name, "serialization", TypeAdapter(kind)) for name, kind in _UNIONS),
    ]
    places, made = TypeAdapter.json_schemas(adapters, ref_template=_REF)
    schemas: Schema = made["$defs"]
    for name, fields in _DERIVED.items():
        schemas[name]["properties"] |= fields
    for name in _input_names(schemas):
        # Unknown fields are refused.
        schemas[name]["additionalProperties"] = False
    for name, _ in _UNIONS:
        schemas[name] = places[name, "serialization"]
    return {**schemas, **_failure_schemas()}


def _input_names(schemas: Mapping[str, Schema]) -> set[str]:
    """Return the names of the schemas of bodies, and of everything inside them."""
    found: set[str] = set()
    waiting = [kind.__name__ for kind in _BODIES]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += re.findall(r"#/components/schemas/([\w.-]+)", repr(schemas[name]))
    return found


def _failure_schemas() -> Schema:
    error = {
        "type": "object",
        "description": "An error; further fields belong to its class.",
        "properties": {"code": _TEXT, "message": _TEXT, "retryable": {"type": "boolean"}},
        "required": ["code", "message", "retryable"],
    }
    return {"Error": error, "Failure": _object(error=_ref("Error"))}
