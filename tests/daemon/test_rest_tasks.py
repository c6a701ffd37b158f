from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent_pool import Settings, TaskResult
from agent_pool.api import OnEvent
from support.fake_pool import FakePool, make_result
from support.rest_server import RestServer, served, task_body
from support.waiting import run, wait_until


class Gate:
    """Holds tasks until it is opened."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()

    async def run_task(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        await self.is_open.wait()
        return make_result(f"{agent} did {task}", agent=agent)


async def submit(server: RestServer, *, wait: float = 20, **fields: Any) -> dict[str, Any]:
    """Submit a task, and return its record when it has ended."""
    answer = await server.ask("POST", f"/v1/tasks?wait={wait}", task_body(**fields))
    assert answer.status == 201, answer
    return dict(answer.body)


def test_a_submitted_task_is_answered_with_its_record() -> None:
    async def main() -> None:
        async with served(FakePool()) as (server, _):
            record = await submit(server)
            found = await server.ask("GET", f"/v1/tasks/{record['id']}")

        assert record["state"] == "succeeded"
        assert record["result"]["text"] == "reviewer did look"
        assert found.status == 200
        assert found.body == record

    run(main())


def test_a_request_waits_no_longer_than_it_says() -> None:
    async def main() -> None:
        gate = Gate()
        async with served(FakePool(gate.run_task)) as (server, _):
            record = await submit(server, wait=0.05)
            assert record["state"] in ("queued", "running")
            gate.is_open.set()
            ended = await server.ask("GET", f"/v1/tasks/{record['id']}?wait=20")

        assert ended.body["state"] == "succeeded"

    run(main())


def test_a_repeated_key_is_answered_with_the_first_task() -> None:
    async def main() -> None:
        pool = FakePool()
        async with served(pool) as (server, _):
            body = task_body(idempotency_key="k-1")
            first = await server.ask("POST", "/v1/tasks?wait=20", body)
            second = await server.ask("POST", "/v1/tasks?wait=20", body)

        assert (first.status, second.status) == (201, 200)
        assert first.body["id"] == second.body["id"]
        assert len(pool.requests) == 1

    run(main())


def test_a_request_with_another_task_for_a_key_is_refused() -> None:
    async def main() -> None:
        async with served(FakePool()) as (server, _):
            await server.ask("POST", "/v1/tasks", task_body(idempotency_key="k"))
            answer = await server.ask("POST", "/v1/tasks", task_body(task="x", idempotency_key="k"))

        assert answer.status == 400
        assert answer.body["error"]["code"] == "config_error"

    run(main())


def test_the_list_of_tasks_has_filters_and_pages() -> None:
    async def main() -> None:
        async with served(FakePool()) as (server, _):
            ids = [(await submit(server, task=f"task {number}"))["id"] for number in range(5)]
            first = (await server.ask("GET", "/v1/tasks?limit=2")).body
            second = (await server.ask("GET", f"/v1/tasks?limit=2&before={first['before']}")).body
            third = (await server.ask("GET", f"/v1/tasks?limit=2&before={second['before']}")).body
            found = (await server.ask("GET", "/v1/tasks?text=task+3&states=succeeded")).body
            none = (await server.ask("GET", "/v1/tasks?states=failed&states=queued")).body

        pages = [[one["id"] for one in page["tasks"]] for page in (first, second, third)]
        assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
        assert third["before"] is None
        assert [one["id"] for one in found["tasks"]] == [ids[3]]
        assert none == {"tasks": [], "before": None}

    run(main())


def test_a_running_task_is_cancelled_and_an_ended_one_is_not() -> None:
    async def main() -> None:
        gate = Gate()
        async with served(FakePool(gate.run_task)) as (server, _):
            record = await submit(server, wait=0)
            cancelled = await server.ask("DELETE", f"/v1/tasks/{record['id']}")
            ended = await server.ask("GET", f"/v1/tasks/{record['id']}?wait=20")
            again = await server.ask("DELETE", f"/v1/tasks/{record['id']}")

        assert cancelled.status == 200
        assert ended.body["state"] == "cancelled"
        assert (again.status, again.body["error"]["code"]) == (409, "task_ended")

    run(main())


def test_a_task_is_retried_with_the_variables_of_who_asks() -> None:
    async def main() -> None:
        gate = Gate()
        inner = FakePool(gate.run_task)
        async with served(inner) as (server, _):
            body = {**task_body(env={"OWN": "2"}), "environment": {"KEY": "first"}}
            record = (await server.ask("POST", "/v1/tasks", body)).body
            path = f"/v1/tasks/{record['id']}"
            await server.ask("DELETE", path)
            await server.ask("GET", f"{path}?wait=20")
            without = await server.ask("POST", f"{path}/retry")
            lacking = {"environment": {"KEY": "second"}}
            refused = await server.ask("POST", f"{path}/retry", lacking)
            given = {"environment": {"KEY": "second", "OWN": "3"}}
            retried = await server.ask("POST", f"{path}/retry", given)
            gate.is_open.set()
            ended = await server.ask("GET", f"{path}?wait=20")

        assert (without.status, refused.status) == (400, 400)
        assert "OWN" in refused.body["error"]["message"]
        assert retried.status == 200
        assert ended.body["state"] == "succeeded"
        assert inner.requests[-1].env == {"KEY": "second", "OWN": "3"}

    run(main())


def test_a_cancelled_task_can_be_retried_and_a_running_one_cannot() -> None:
    async def main() -> None:
        gate = Gate()
        async with served(FakePool(gate.run_task)) as (server, _):
            path = f"/v1/tasks/{(await submit(server, wait=0))['id']}"
            refused = await server.ask("POST", f"{path}/retry")
            await server.ask("DELETE", path)
            await server.ask("GET", f"{path}?wait=20")
            retried = await server.ask("POST", f"{path}/retry")
            gate.is_open.set()
            ended = await server.ask("GET", f"{path}?wait=20")

        assert (refused.status, refused.body["error"]["code"]) == (409, "task_not_ended")
        assert retried.status == 200
        assert ended.body["state"] == "succeeded"

    run(main())


def test_a_question_of_an_agent_is_answered_over_http() -> None:
    async def main() -> None:
        pool = FakePool()
        pool.asks = ("Bash", "Write")
        async with served(pool) as (server, _):
            record = await submit(server, wait=0, asks=True)
            path = f"/v1/tasks/{record['id']}"
            for allow in (True, False):
                asked = await _question(server, path)
                body = {"key": asked["key"], "allow": allow, "reason": "no"}
                answer = await server.ask("POST", f"{path}/answer", body)
                assert answer.body == {"accepted": True}
            late = await server.ask("POST", f"{path}/answer", body)
            ended = await server.ask("GET", f"{path}?wait=20")

        assert late.body == {"accepted": False}
        assert "permitted ['Bash']" in ended.body["result"]["text"]

    run(main())


async def _question(server: RestServer, path: str) -> dict[str, Any]:
    while not (questions := (await server.ask("GET", path)).body["questions"]):
        pass
    return dict(questions[0])


def test_a_task_gets_the_variables_that_its_client_has_otherwise() -> None:
    async def main() -> None:
        pool = FakePool()
        environ = {"SAME": "1", "KEY": "daemon's", "ONLY_DAEMON": "x", "BLOCKED": "x"}
        client = {"SAME": "1", "KEY": "client's", "TERM": "xterm", "BLOCKED": "y"}
        async with served(pool, environ=environ, env_block=("BLOCK*",)) as (server, _):
            body = {**task_body(env={"OWN": "2"}), "environment": client}
            await server.ask("POST", "/v1/tasks?wait=20", body)
            await server.ask("POST", "/v1/tasks?wait=20", task_body())

        first, second = pool.requests
        assert first.env == {"KEY": "client's", "ONLY_DAEMON": "", "OWN": "2"}
        assert second.env is None

    run(main())


def test_no_answer_shows_a_variable_of_a_client() -> None:
    async def main() -> None:
        async with served(FakePool()) as (server, _):
            body = {**task_body(env={"A": "hunter2"}), "environment": {"KEY": "hunter3"}}
            record = await server.ask("POST", "/v1/tasks?wait=20", body)
            path = f"/v1/tasks/{record.body['id']}"
            answers = [record, *[await server.ask("GET", p) for p in (path, "/v1/tasks")]]
            events = await server.ask("GET", f"{path}/events")

        assert "hunter" not in repr([answers, events])
        assert '"KEY":"…"' in events.body

    run(main())


def test_a_client_that_leaves_does_not_end_its_task() -> None:
    async def main() -> None:
        gate = Gate()
        async with served(FakePool(gate.run_task)) as (server, durable):
            waiting = asyncio.create_task(submit(server, wait=60))
            while not (found := await durable.tasks()):
                pass
            waiting.cancel()
            await asyncio.wait([waiting])
            gate.is_open.set()
            handle = await durable.attach(found[0].id)
            assert (await handle.result()).text == "reviewer did look"

    run(main())


def test_as_many_tasks_as_the_store_takes_are_accepted() -> None:
    async def main() -> None:
        gate = Gate()
        async with served(FakePool(gate.run_task), Settings(max_queued=1, max_workers=1)) as (
            server,
            _,
        ):
            answers = [await server.ask("POST", "/v1/tasks", task_body()) for _ in range(3)]
            gate.is_open.set()

        assert [one.status for one in answers] == [201, 201, 429]
        assert answers[2].body["error"]["code"] == "too_many_requests"
        assert answers[2].body["error"]["retryable"] is True

    run(main())


def test_checks_and_conversations_have_routes_of_their_own() -> None:
    async def main() -> None:
        pool = FakePool()
        async with served(pool) as (server, _):
            checked = await server.ask("POST", "/v1/check", task_body())
            body = {"agent": "reviewer", "conversation": "open"}
            ended = await server.ask("POST", "/v1/conversations/end", body)
            unknown = await server.ask(
                "POST", "/v1/conversations/end", {**body, "conversation": "x"}
            )

        assert checked.body == {"ok": True}
        assert pool.requests == []
        assert (ended.body, unknown.body) == ({"ended": True}, {"ended": False})

    run(main())


def test_a_child_of_a_worker_gets_that_task_as_its_parent() -> None:
    """The guard of the daemon names the task of the worker that a caller descends from."""

    async def main() -> None:
        from starlette.applications import Starlette
        from starlette.types import Receive, Scope, Send

        from agent_pool.daemon.callers import Peer
        from agent_pool.daemon.rest import rest_routes

        async with served(FakePool()) as (server, durable):
            parent = await submit(server)
            app = Starlette(routes=rest_routes(durable, environ={}))

            async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
                peer = Peer(1, 0, worker="w-1", task_id=parent["id"], depth=1)
                scope.setdefault("state", {})["peer"] = peer
                await app(scope, receive, send)

            await server.stop()
            await server.start_app(guarded)
            child = await submit(server)
            other = await submit(server, parent="another")

        assert child["request"]["parent"] == parent["id"]
        assert other["request"]["parent"] == "another"

    run(main())


@pytest.mark.parametrize("path", ["", "/retry", "/answer", "/events"])
def test_an_unknown_task_is_answered_with_404(path: str) -> None:
    async def main() -> None:
        method = {"": "GET", "/events": "GET"}.get(path, "POST")
        body = {"key": "k", "allow": True} if path == "/answer" else None
        async with served(FakePool()) as (server, _):
            for task_id in ("missing", "a%00b", "%ff", "x" * 300):
                answer = await server.ask(method, f"/v1/tasks/{task_id}{path}", body)
                assert (answer.status, answer.body["error"]["code"]) == (404, "task_not_found")

    run(main())


def test_a_wait_ends_when_its_client_has_left() -> None:
    async def main() -> None:
        gate = Gate()
        async with served(FakePool(gate.run_task)) as (server, _):
            path = f"/v1/tasks/{(await submit(server, wait=0))['id']}?wait=300"
            waiting = asyncio.create_task(server.ask("GET", path))
            await wait_until(lambda: server.requests == 1)
            waiting.cancel()
            await wait_until(lambda: server.requests == 0)
            gate.is_open.set()

    run(main())
