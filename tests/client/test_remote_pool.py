from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent_pool import (
    AgentNotFound,
    AgentPoolError,
    ConfigError,
    ContextLost,
    DaemonUnavailable,
    Denied,
    Ended,
    Event,
    PermissionRequest,
    PoolClosed,
    PoolError,
    Settings,
    Snapshot,
    Submitted,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskFilter,
    TaskNotEnded,
    TaskNotFound,
    TaskRequest,
    TaskResult,
    Text,
    WorkerDied,
)
from agent_pool.api import OnEvent, PoolAPI, TaskAPI
from agent_pool.client.remote_pool import RemotePool
from agent_pool.tasks.service import DurablePool
from support.fake_pool import FakePool, make_result, make_worker
from support.rest_server import RestServer, served, short_folder
from support.waiting import run, wait_until

_: type[TaskAPI] = RemotePool


@asynccontextmanager
async def remote(
    pool: PoolAPI, **options: Any
) -> AsyncIterator[tuple[RemotePool, RestServer, DurablePool]]:
    """Serve a pool, and open a client of it."""
    async with (
        served(pool) as (server, durable),
        RemotePool(server.address, **{"patience": 5, "environ": {}, **options}) as client,
    ):
        yield client, server, durable


class Steps:
    """An agent that says a word for each step that it is given, and ends after the last.

    Attributes:
        begun: how many tasks began.
    """

    def __init__(self, *words: str) -> None:
        self._words = words
        self._steps = asyncio.Semaphore(0)
        self.begun = 0
        self.cancelled = 0

    def step(self, number: int = 1) -> None:
        """Let the agent go on."""
        for _ in range(number):
            self._steps.release()

    async def run_task(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        self.begun += 1
        try:
            for word in self._words:
                await self._steps.acquire()
                emit(Text(word))
            await self._steps.acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return make_result("".join(self._words), agent=agent)


def texts(events: list[TaskEvent]) -> list[str]:
    return [one.text for one in events if isinstance(one, Text)]


def has_texts(events: list[TaskEvent], number: int) -> bool:
    return len(texts(events)) == number


def check_whole(events: list[TaskEvent]) -> None:
    """Check that these are all events of a task, in order and each once."""
    assert isinstance(events[0], Submitted)
    assert [isinstance(one, Ended) for one in events] == [False] * (len(events) - 1) + [True]
    assert [one.number for one in events] == list(range(1, len(events) + 1))


# Tasks


def test_a_task_runs_in_the_daemon_with_the_client_options() -> None:
    async def main() -> None:
        pool = FakePool()
        async with remote(pool, project="/srv/shop") as (client, _, _):
            result = await client.invoke("reviewer", "look", timeout=5, model="opus", effort="low")
            await client.invoke("reviewer", "look", project="/srv/other", env={"A": "b"})

        assert result.text == "reviewer did look"
        first, second = pool.requests
        assert (first.project, first.timeout, first.model, first.effort) == (
            *("/srv/shop", 5, "opus", "low"),
        )
        assert (second.project, second.env) == ("/srv/other", {"A": "b"})

    run(main())


def test_a_relative_project_means_a_folder_of_the_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def main() -> None:
        pool = FakePool()
        async with remote(pool) as (client, _, _):
            await client.invoke("reviewer", "look", project="shop")

        assert pool.requests[0].project == str(tmp_path / "shop")

    monkeypatch.chdir(tmp_path)
    run(main())


def test_a_task_gets_the_environment_of_its_client() -> None:
    async def main() -> None:
        pool = FakePool()
        async with remote(pool, environ={"KEY": "mine", "TERM": "xterm"}) as (client, _, _):
            await client.invoke("reviewer", "look")

        assert pool.requests[0].env == {"KEY": "mine"}

    run(main())


def test_every_event_of_a_task_arrives_once_and_in_order() -> None:
    async def main() -> None:
        steps, events = Steps("a", "b", "c"), list[TaskEvent]()
        async with remote(FakePool(steps.run_task)) as (client, _, _):
            steps.step(4)
            result = await client.invoke("reviewer", "look", on_event=events.append)

        assert result.text == "abc"
        assert texts(events) == ["a", "b", "c"]
        check_whole(events)

    run(main())


def test_a_stream_ends_with_the_result() -> None:
    async def main() -> None:
        steps = Steps("a", "b")
        async with remote(FakePool(steps.run_task)) as (client, _, _):
            steps.step(3)
            events = [event async for event in client.stream("reviewer", "look")]

        check_whole(events)
        assert isinstance(events[-1], Ended)
        assert events[-1].result is not None

    run(main())


def test_a_stream_that_is_left_early_cancels_its_task() -> None:
    async def main() -> None:
        steps = Steps("a", "b")
        async with remote(FakePool(steps.run_task)) as (client, _, durable):
            steps.step()
            async with aclosing(client.stream("reviewer", "look")) as events:
                async for event in events:
                    if isinstance(event, Text):
                        break
            (record,) = await durable.tasks()
            assert (await durable.attach(record.id)).cancel() is False
            assert (await durable.task(record.id)).state == "cancelled"

    run(main())


@pytest.mark.parametrize(
    "error",
    [
        WorkerDied("it ended", worker="w-1", pid=5, stderr_tail="bye"),
        TaskFailed("no", result=make_result("half", is_error=True)),
        AgentPoolError("plain"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_task_fails_with_the_error_of_the_pool(error: AgentPoolError) -> None:
    async def fail(agent: str, task: str, emit: OnEvent) -> TaskResult:
        raise error

    async def main() -> None:
        events: list[TaskEvent] = []
        async with remote(FakePool(fail)) as (client, _, _):
            for listener in (None, events.append):
                with pytest.raises(type(error)) as caught:
                    await client.invoke("reviewer", "look", on_event=listener)
                assert caught.value.as_json() == error.as_json()
            with pytest.raises(type(error)):
                await drain(client.stream("reviewer", "look"))
            check_whole(events)

    run(main())


async def drain(events: AsyncIterator[TaskEvent]) -> None:
    """Read a stream that has no `Ended`."""
    async for event in events:
        assert not isinstance(event, Ended)


def test_a_refused_request_raises_the_class_of_its_error() -> None:
    async def main() -> None:
        async with remote(FakePool()) as (client, _, _):
            with pytest.raises(ConfigError, match="half of a surrogate"):
                await client.invoke("reviewer", "\ud800")
            with pytest.raises(ConfigError, match="the request is wrong"):
                await client.invoke("reviewer", 5)  # type: ignore[arg-type]
            with pytest.raises(AgentNotFound):
                await client.invoke(5, "look")  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="timeout"):
                await client.invoke("reviewer", "x", timeout=float("nan"))
            with pytest.raises(TaskNotFound):
                await client.task("missing")

    run(main())


@pytest.mark.parametrize("has_listener", [True, False])
def test_a_cancelled_caller_cancels_its_task(has_listener: bool) -> None:
    async def main() -> None:
        steps = Steps("a")
        async with remote(FakePool(steps.run_task)) as (client, _, durable):
            listener = (lambda _: None) if has_listener else None
            calling = asyncio.create_task(client.invoke("reviewer", "look", on_event=listener))
            await wait_until(lambda: steps.begun)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            (record,) = await durable.tasks()
            await durable_end(durable, record.id)
            assert (await durable.task(record.id)).state == "cancelled"
            assert steps.cancelled == 1

    run(main())


async def durable_end(durable: DurablePool, task_id: str) -> None:
    """Wait until a task has ended."""
    with pytest.raises(TaskCancelled):
        await (await durable.attach(task_id)).result()


def test_a_caller_that_leaves_at_once_leaves_no_task_running() -> None:
    async def main() -> None:
        steps = Steps("a")
        async with remote(FakePool(steps.run_task)) as (client, _, durable):
            for turns in range(8):
                calling = asyncio.create_task(client.invoke("reviewer", f"task {turns}"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                calling.cancel()
                await asyncio.wait([calling])
            await client.close()
            for record in await durable.tasks():
                await durable_end(durable, record.id)

    run(main())


def test_a_handle_waits_for_and_cancels_its_task() -> None:
    async def main() -> None:
        steps = Steps()
        async with remote(FakePool(steps.run_task)) as (client, _, _):
            request = TaskRequest("reviewer", "look")
            first = await client.submit(request)
            assert first.request == request
            waiting = asyncio.create_task(first.result())
            await wait_until(lambda: steps.begun)
            waiting.cancel()  # leaves the task running
            await asyncio.wait([waiting])
            assert first.cancel() is True
            with pytest.raises(TaskCancelled):
                await first.result()
            assert first.cancel() is False
            assert await client.cancel(first.id) is False
            assert await client.cancel("missing") is False

    run(main())


def test_a_request_without_a_key_is_not_taken_for_another() -> None:
    async def main() -> None:
        pool = FakePool()
        async with remote(pool) as (client, _, _):
            request = TaskRequest("reviewer", "look")
            handles = [await client.submit(request) for _ in range(3)]
            once = [
                await client.submit(TaskRequest("reviewer", "x", idempotency_key="k"))
                for _ in range(3)
            ]
            for handle in (*handles, *once):
                await handle.result()

        assert len({handle.id for handle in handles}) == 3
        assert len({handle.id for handle in once}) == 1
        assert len(pool.requests) == 4

    run(main())


def test_permission_is_asked_of_the_client() -> None:
    async def decide(request: PermissionRequest) -> bool | Denied:
        asked.append(request.tool)
        if request.tool == "Fails":
            raise ValueError("no idea")
        return request.tool == "Bash" or Denied("not this")

    async def main() -> None:
        pool = FakePool()
        pool.asks = ("Bash", "Write", "Fails")
        async with remote(pool) as (client, _, _):
            result = await client.invoke("reviewer", "look", on_permission=decide)

        assert asked == ["Bash", "Write", "Fails"]
        assert result.text.endswith("permitted ['Bash']")

    asked: list[str] = []
    run(main())


def test_a_question_that_another_answers_is_withdrawn(caplog: pytest.LogCaptureFixture) -> None:
    async def decide(request: PermissionRequest) -> bool:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            withdrawn.append(request.tool)
            raise
        return False

    async def main() -> None:
        pool = FakePool()
        pool.asks = ("Bash",)
        async with remote(pool) as (client, _, _):
            handle = await client.submit(TaskRequest("reviewer", "x"), on_permission=decide)
            await asked.wait()
            (question,) = (await client.task(handle.id)).questions
            assert await client.answer(handle.id, question.key, True)
            assert (await handle.result()).text.endswith("permitted ['Bash']")
            await wait_until(lambda: withdrawn)

    asked, withdrawn = asyncio.Event(), list[str]()
    run(main())


def test_a_list_of_tasks_runs_with_the_bounds_of_the_settings() -> None:
    running = most = 0

    async def run_task(agent: str, task: str, emit: OnEvent) -> TaskResult:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        if task == "fail":
            raise TaskFailed("no")
        return make_result(task, agent=agent)

    async def main() -> None:
        ended, events = list[int](), list[tuple[int, TaskEvent]]()
        settings = Settings(max_workers=3, max_size=2)
        async with remote(FakePool(run_task), settings=settings) as (client, _, _):
            outcomes = await client.map(
                [
                    *[("a", str(number)) for number in range(6)],
                    {"agent": "b", "task": "fail", "conversation": "c"},
                    {"agent": "b", "task": "later", "conversation": "c"},
                ],
                on_end=lambda index, _: ended.append(index),
                on_event=lambda index, event: events.append((index, event)),
            )

        texts = [one.text for one in outcomes if isinstance(one, TaskResult)]
        assert texts == [str(number) for number in range(6)]
        assert isinstance(outcomes[6], TaskFailed)
        assert isinstance(outcomes[7], ContextLost)
        assert sorted(ended) == list(range(8))
        assert most <= 3
        for index in range(7):
            check_whole([event for number, event in events if number == index])

    run(main())


# Stored tasks


def test_stored_tasks_are_listed_attached_and_retried() -> None:
    async def main() -> None:
        steps = Steps("a")
        async with remote(FakePool(steps.run_task)) as (client, _, _):
            handle = await client.submit(TaskRequest("reviewer", "look", priority=3))
            with pytest.raises(TaskNotEnded):
                await client.retry(handle.id)
            handle.cancel()
            with pytest.raises(TaskCancelled):
                await handle.result()
            again = await client.retry(handle.id)
            steps.step(2)
            attached = await client.attach(handle.id)
            assert (await again.result()).text == (await attached.result()).text == "a"
            (record,) = await client.tasks(TaskFilter(states=("succeeded",), text="look"))
            assert await client.task(handle.id) == record
            assert await client.tasks(TaskFilter(agent="other")) == []
            events = [event async for event in client.task_events(handle.id)]
            rest = [event async for event in client.task_events(handle.id, after=2)]

        assert (record.id, record.request.priority) == (handle.id, 3)
        assert isinstance(events[-1], Ended)
        assert rest == [event for event in events if event.number > 2]

    run(main())


def test_agents_and_figures_are_those_of_the_daemon() -> None:
    async def main() -> None:
        pool = FakePool()
        pool.worker_infos = [make_worker(), make_worker(worker="reviewer-2")]
        async with remote(pool) as (client, _, durable):
            assert await client.agents() == await durable.agents()
            assert await client.agents_version() == "1"
            assert await client.launch_spec("a b/c") == await durable.launch_spec("a b/c")
            assert await client.prompt_size("a") == await durable.prompt_size("a")
            assert await client.reset_verdict("a", refresh=True) is None
            assert await client.warmup("a") == await durable.warmup("a")
            assert await client.workers() == await durable.workers()
            assert await client.stats() == await durable.stats()
            assert await client.reset("a") == 2
            assert await client.end_conversation("a", "open") is True
            await client.check(TaskRequest("a", "b"))

        assert ("launch_spec", "a b/c") in pool.calls
        assert ("check", "a", "b") in pool.calls

    run(main())


def test_a_subscription_begins_with_a_snapshot_and_can_be_ended() -> None:
    async def main() -> None:
        events: list[Event] = []
        async with remote(FakePool()) as (client, _, _):
            unsubscribe = client.subscribe(events.append)
            await wait_until(lambda: events)
            await client.invoke("reviewer", "look")
            await wait_until(lambda: any(isinstance(one, Ended) for one in events))
            unsubscribe()
            before = len(events)
            await client.invoke("reviewer", "look")

        assert isinstance(events[0], Snapshot)
        assert len(events) == before

    run(main())


# The connection


def test_a_lost_connection_loses_and_repeats_no_event() -> None:
    async def main() -> None:
        steps, events = Steps(*"abcdefgh"), list[TaskEvent]()
        async with remote(FakePool(steps.run_task)) as (client, server, durable):
            handle = await client.submit(TaskRequest("reviewer", "look"), on_event=events.append)
            polling = asyncio.create_task((await client.attach(handle.id)).result())
            for number in range(1, 5):
                steps.step()
                await wait_until(partial(has_texts, events, number))
                await server.stop()
                await server.start(durable)
            steps.step(5)
            assert (await handle.result()).text == "abcdefgh"
            assert (await polling).text == "abcdefgh"

        assert texts(events) == list("abcdefgh")
        check_whole(events)
        assert steps.begun == 1

    run(main())


def test_a_submit_whose_answer_is_lost_runs_its_task_once() -> None:
    async def main() -> None:
        pool = FakePool()
        async with served(pool) as (server, durable):
            await server.stop()
            lost = 2

            async def losing(scope: Any, receive: Any, send: Any) -> None:
                """Carry requests out, and close the connection instead of the first answers."""
                nonlocal lost
                if lost and scope["method"] == "POST":
                    lost -= 1

                    async def drop(message: Any) -> None:
                        send.__self__.transport.abort()

                    await app(scope, receive, drop)
                else:
                    await app(scope, receive, send)

            from starlette.applications import Starlette

            from agent_pool.daemon.rest import rest_routes

            app = Starlette(routes=rest_routes(durable, environ={}))
            await server.start_app(losing)
            async with RemotePool(server.address, environ={}, patience=5) as client:
                result = await client.invoke("reviewer", "look")

        assert result.text == "reviewer did look"
        assert lost == 0
        assert len(pool.requests) == 1

    run(main())


def test_a_daemon_that_is_gone_is_reported_with_the_next_step() -> None:
    async def main() -> None:
        async with remote(FakePool(), patience=0.3) as (client, server, _):
            await server.stop()
            with pytest.raises(DaemonUnavailable, match="agent-pool daemon status") as caught:
                await client.stats()
            assert str(server.socket) in str(caught.value)
            with pytest.raises(DaemonUnavailable):
                await client.invoke("reviewer", "look", on_event=lambda _: None)

    run(main())


def test_a_task_that_is_followed_fails_if_the_daemon_stays_away() -> None:
    async def main() -> None:
        steps = Steps("a")
        async with remote(FakePool(steps.run_task), patience=0.3) as (client, server, _):
            request = TaskRequest("reviewer", "one")
            followed = await client.submit(request, on_event=lambda _: None)
            await wait_until(lambda: steps.begun)
            await server.stop()
            with pytest.raises(DaemonUnavailable):
                await followed.result()

    run(main())


def test_a_closed_connection_leaves_the_tasks_running() -> None:
    async def main() -> None:
        steps = Steps("a")
        async with served(FakePool(steps.run_task)) as (server, durable):
            client = RemotePool(server.address, environ={})
            await client.open()
            await client.open()
            request = TaskRequest("reviewer", "look")
            handle = await client.submit(request, on_event=lambda _: None)
            waiting = [
                asyncio.create_task(handle.result()),
                asyncio.create_task(client.invoke("reviewer", "other")),
                asyncio.create_task((await client.attach(handle.id)).result()),
            ]
            await wait_until(lambda: steps.begun == 2)
            await client.close()
            await client.close()
            for one in waiting:
                with pytest.raises(PoolClosed, match="go on"):
                    await one
            with pytest.raises(PoolClosed):
                await client.submit(request)
            with pytest.raises(PoolClosed):
                await client.open()
            steps.step(4)
            for record in await durable.tasks():
                assert (await (await durable.attach(record.id)).result()).text == "a"

    run(main())


def test_a_killed_client_gives_its_waiting_callers_up() -> None:
    async def main() -> None:
        steps = Steps("a")
        async with served(FakePool(steps.run_task)) as (server, _):
            client = RemotePool(server.address, environ={})
            await client.open()
            handle = await client.submit(TaskRequest("reviewer", "x"))
            waiting = asyncio.create_task(handle.result())
            await wait_until(lambda: steps.begun)
            await asyncio.to_thread(client.kill)
            with pytest.raises(PoolClosed):
                await waiting
            await client.close()

    run(main())


def test_a_pool_that_is_not_open_answers_what_needs_no_task() -> None:
    async def main() -> None:
        async with served(FakePool()) as (server, durable):
            client = RemotePool(server.address, environ={})
            assert await client.agents() == await durable.agents()
            assert await client.tasks() == []
            await client.check(TaskRequest("a", "b"))
            with pytest.raises(PoolClosed, match="async with"):
                await client.submit(TaskRequest("a", "b"))

    run(main())


def test_a_second_event_loop_is_refused_in_words() -> None:
    async def open_it() -> RemotePool:
        async with served(FakePool()) as (server, _):
            client = RemotePool(server.address, environ={})
            await client.open()
            return client

    async def use_it() -> None:
        with pytest.raises(PoolError, match="another event loop, which has ended"):
            await client.stats()

    client = run(open_it())
    run(use_it())


def test_an_event_of_a_newer_daemon_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    from agent_pool.client.remote_task import _read_event

    assert _read_event({"type": "task.dreamed", "number": 5}) is None
    assert _read_event({"type": "pool.paused", "seconds": 1.0}) is None
    assert "left out" in caplog.text


def test_a_daemon_that_ends_is_replaced_by_the_next_one() -> None:
    """A draining daemon refuses tasks; the client finds the one that takes its place."""

    async def main() -> None:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        refusal = {"error": DaemonUnavailable("it takes no new tasks").as_json()}

        async def refuse(request: object) -> JSONResponse:
            return JSONResponse(refusal, 503)

        async with short_folder() as folder, served(FakePool()) as (server, _):
            old = RestServer(folder)
            route = Route("/v1/tasks", refuse, methods=["POST"])
            await old.start_app(Starlette(routes=[route]))
            addresses = [old.address, old.address, server.address]

            async def find() -> Any:
                return addresses.pop(0)

            async with RemotePool(find=find, environ={}, patience=5) as client:
                assert (await client.invoke("reviewer", "look")).text == "reviewer did look"
            assert addresses == []
            await old.stop()

    run(main())


def test_no_log_has_an_error_after_a_lost_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with remote(FakePool()) as (client, server, durable):
            events: list[Event] = []
            client.subscribe(events.append)
            await wait_until(lambda: events)
            await server.stop()
            await server.start(durable)
            await wait_until(lambda: len(events) >= 2)
            assert isinstance(events[1], Snapshot)  # another daemon has another ring

    run(main())
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
