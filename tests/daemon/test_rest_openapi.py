"""The OpenAPI document, compared by schemathesis with what the running server does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from schemathesis import Case
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from starlette.applications import Starlette

from agent_pool import Settings
from agent_pool.daemon.openapi import OPERATIONS, openapi_document
from agent_pool.daemon.rest import rest_routes
from agent_pool.loopback.server import HttpServer
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.fake_pool import FakePool, make_worker
from support.rest_server import served, short_folder, task_body
from support.waiting import run

EXAMPLES = 12
"""How many requests are made up for each route."""
NOT_CHECKED = [
    # A request can fit the document and still be wrong, such as a blank task.
    positive_data_acceptance,
    # The guard of the daemon asks for the token; it is not a part of this server.
    ignored_auth,
]
SCHEMA = schemathesis.openapi.from_dict(openapi_document("0")).exclude(path="/v1/events")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve a pool with a store and a fake pool in a thread; return its URL."""
    ready, place = threading.Event(), list[Any]()

    async def serve() -> None:
        stop = asyncio.Event()
        pool = FakePool()
        pool.worker_infos = [make_worker()]
        async with (
            short_folder() as folder,
            DurablePool(pool, Store(folder / "tasks.db"), Settings(project_dir=folder)) as durable,
        ):
            server = HttpServer(Starlette(routes=rest_routes(durable, environ={})))
            await server.start()
            place.extend([server.port, asyncio.get_running_loop(), stop])
            ready.set()
            await stop.wait()
            await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(15)
    port, loop, stop = place
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(15)


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_fits_the_document(case: Case[Any], url: str) -> None:
    # A task whose time has not come would hold up the test.
    if isinstance(case.query, dict) and isinstance(case.query.get("wait"), int | float):
        case.query["wait"] = min(case.query["wait"], 0.01)
    load_all_checks()
    case.call_and_validate(base_url=url, excluded_checks=NOT_CHECKED, timeout=30)


def test_the_document_has_every_route_and_is_valid() -> None:
    async def main() -> dict[str, Any]:
        async with served(FakePool()) as (server, _):
            return dict((await server.ask("GET", "/v1/openapi.json")).body)

    document = run(main())
    operations = {
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    }
    assert operations == {one.name for one in OPERATIONS}
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def validator(name: str) -> Draft202012Validator:
    """Return a validator for a component of the document."""
    document = openapi_document("0")
    resource = DRAFT202012.create_resource(document)
    registry: Registry[Any] = Registry().with_resource("urn:rest", resource)
    return Draft202012Validator({"$ref": f"urn:rest#/components/schemas/{name}"}, registry=registry)


def test_every_event_and_record_fits_its_schema() -> None:
    async def main() -> tuple[dict[str, Any], list[Any], Any]:
        pool = FakePool()
        pool.asks = ("Bash",)
        async with served(pool) as (server, _):
            record = await server.ask("POST", "/v1/tasks?wait=20", task_body())
            async with server.events(f"/v1/tasks/{record.body['id']}/events") as stream:
                events = [event.json() async for event in stream]
            async with server.events("/v1/events") as stream:
                snapshot = (await anext(stream)).json()
        return record.body, events, snapshot

    record, events, snapshot = run(main())
    validator("TaskRecord").validate(record)
    for event in events:
        validator("TaskEvent").validate(event)
    validator("Event").validate(snapshot)
    assert not validator("TaskRecord").is_valid({**record, "state": "unknown"})
    assert not validator("TaskBody").is_valid({**task_body(), "x": 1})
