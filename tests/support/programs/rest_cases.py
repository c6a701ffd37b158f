"""Tests of what the server of the REST interface does, made by schemathesis from its document.

It makes up requests while pytest collects, which takes longer than to send them. Each process of a
test run collects everything, so `test_rest_openapi.py` lets a process of its own run these.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from starlette.applications import Starlette

from agent_pool import Settings
from agent_pool.daemon.openapi import openapi_document
from agent_pool.daemon.rest import rest_routes
from agent_pool.loopback.server import HttpServer
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.fake_pool import FakePool, make_worker
from support.rest_server import short_folder

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
