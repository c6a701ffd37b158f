"""The OpenAPI document, compared by schemathesis with what the running server does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from agent_pool.daemon.openapi import OPERATIONS, openapi_document
from support.fake_pool import FakePool
from support.rest_server import served, task_body
from support.waiting import run

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "support" / "programs" / "rest_cases.py"


@pytest.mark.long
def test_every_answer_fits_the_document() -> None:
    plugin = ("-p", "schemathesis.pytest.plugin")  # without it there are no cases
    outer = {name for name in os.environ if name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", *plugin, str(CASES)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in outer},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(OPERATIONS) - 1} passed" in done.stdout  # all but the events, which never end


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
