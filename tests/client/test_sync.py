from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from agent_pool import (
    ConfigError,
    Denied,
    Ended,
    Event,
    PermissionRequest,
    PoolClosed,
    PoolError,
    Snapshot,
    Submitted,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskFilter,
    TaskRequest,
    TaskResult,
    Text,
)
from agent_pool.api import OnEvent
from agent_pool.client.remote_pool import RemotePool
from agent_pool.sync import BlockingPool, BlockingRemotePool
from support.fake_pool import FakePool, make_result
from support.rest_server import served
from support.waiting import blocking_wait


class Agent:
    """An agent that says two words, and waits before its end until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun = 0
        self.cancelled = 0

    async def run_task(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        self.begun += 1
        try:
            if task == "fail":
                raise TaskFailed("no")
            emit(Text("one "))
            emit(Text("two"))
            # Another thread sets it.
            while task == "wait" and not self.go_on.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return make_result(f"{agent} did {task}", agent=agent)


class ServerThread:
    """A daemon's interface in a thread of its own, and a blocking client of it."""

    def __init__(self, pool: FakePool) -> None:
        self._pool = pool
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.address: Any = None

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with served(self._pool) as (server, _):
            self.address = server.address
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> BlockingRemotePool:
        self._thread.start()
        assert self._ready.wait(15)
        return BlockingRemotePool(RemotePool(self.address, environ={}, patience=5))

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(15)


Open = Callable[[Agent], Any]


@contextmanager
def remote_pool(agent: Agent) -> Iterator[BlockingPool[Any]]:
    """Open a blocking client of a daemon."""
    with ServerThread(FakePool(agent.run_task)) as pool, pool:
        yield pool


@contextmanager
def local_pool(agent: Agent) -> Iterator[BlockingPool[Any]]:
    """Open a blocking pool in this process."""
    with BlockingPool(FakePool(agent.run_task)) as pool:
        yield pool


@pytest.fixture(params=[local_pool, remote_pool], ids=["local", "remote"])
def opened(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Return a function that opens a pool; afterwards none of its threads is left."""
    before = set(threading.enumerate())
    open_pool: Open = request.param
    yield open_pool
    blocking_wait(
        lambda: not [one for one in set(threading.enumerate()) - before if "Worker" not in one.name]
    )


def test_a_blocking_call_returns_the_result(opened: Open) -> None:
    events: list[TaskEvent] = []
    with opened(Agent()) as pool:
        result = pool.invoke("reviewer", "look", on_event=events.append)

    assert result.text == "reviewer did look"
    assert isinstance(events[0], Submitted)
    assert isinstance(events[-1], Ended)


def test_a_blocking_call_raises_the_error_of_its_task(opened: Open) -> None:
    with opened(Agent()) as pool, pytest.raises(TaskFailed):
        pool.invoke("reviewer", "fail")


def test_a_stream_is_an_iterator_whose_end_has_the_result() -> None:
    with remote_pool(Agent()) as pool:
        events = list(pool.stream("reviewer", "look"))
        with pytest.raises(TaskFailed):
            list(pool.stream("reviewer", "fail"))

    assert [one.text for one in events if isinstance(one, Text)] == ["one ", "two"]
    assert isinstance(events[-1], Ended)


def test_a_stream_that_is_left_early_cancels_its_task() -> None:
    agent = Agent()
    with remote_pool(agent) as pool:
        for event in pool.stream("reviewer", "wait"):
            if isinstance(event, Text):
                break
        blocking_wait(lambda: agent.cancelled == 1)


def test_a_stream_that_nobody_reads_on_is_ended_by_its_close() -> None:
    agent = Agent()
    with remote_pool(agent) as pool:
        events = pool.stream("reviewer", "wait")
        assert isinstance(next(events), Submitted)
        events.close()
        events.close()
        blocking_wait(lambda: agent.cancelled == 1)


def test_a_handle_waits_with_a_bound_and_cancels(opened: Open) -> None:
    agent = Agent()
    with opened(agent) as pool:
        handle = pool.submit(TaskRequest("reviewer", "wait"))
        with pytest.raises(TimeoutError):
            handle.result(timeout=0.05)
        assert agent.cancelled == 0  # the task goes on
        blocking_wait(lambda: agent.begun == 1)
        assert handle.request == TaskRequest("reviewer", "wait")
        assert handle.cancel() is True
        with pytest.raises(TaskCancelled):
            handle.result(timeout=15)


def test_a_list_of_tasks_returns_all_outcomes_in_order(opened: Open) -> None:
    ended: list[int] = []
    with opened(Agent()) as pool:
        outcomes = pool.map(
            [("a", "1"), ("b", "fail"), {"agent": "c", "task": "3"}],
            on_end=lambda index, _: ended.append(index),
        )

    assert [getattr(one, "text", type(one).__name__) for one in outcomes] == [
        *("a did 1", "TaskFailed", "c did 3"),
    ]
    assert sorted(ended) == [0, 1, 2]


def test_permission_is_asked_in_a_thread_that_can_block() -> None:
    def decide(request: PermissionRequest) -> bool | Denied:
        threads.add(threading.get_ident())
        time.sleep(0.02)  # a person takes time, and the event loop goes on
        return request.tool == "Bash" or Denied("no")

    fake, threads = FakePool(), set[int]()
    fake.asks = ("Bash", "Write")
    with ServerThread(fake) as pool, pool:
        result = pool.invoke("reviewer", "look", on_permission=decide)
        (of_a_list,) = pool.map([("a", "b")], on_permission=lambda index, one: decide(one))

    assert result.text.endswith("permitted ['Bash']")
    assert isinstance(of_a_list, TaskResult)
    assert of_a_list.text.endswith("permitted ['Bash']")
    assert threading.get_ident() not in threads


def test_a_keyboard_interrupt_cancels_the_call_and_leaves_nothing(opened: Open) -> None:
    agent = Agent()

    def interrupt() -> None:
        blocking_wait(lambda: agent.begun == 1)
        os.kill(os.getpid(), signal.SIGINT)

    with opened(agent) as pool:
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            pool.invoke("reviewer", "wait")
        interrupting.join()
        blocking_wait(lambda: agent.cancelled == 1)
        assert pool.invoke("reviewer", "look").text == "reviewer did look"


def test_several_threads_use_one_pool_at_once(opened: Open) -> None:
    with opened(Agent()) as pool, ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(pool.invoke, f"agent-{number}", "look") for number in range(24)]
        texts = [call.result().text for call in calls]

    assert texts == [f"agent-{number} did look" for number in range(24)]


def test_a_pool_works_where_an_event_loop_runs_already(opened: Open) -> None:
    async def cell() -> str:
        """Run as a cell of a notebook does."""
        with opened(Agent()) as pool:
            return str(pool.invoke("reviewer", "look").text)

    assert asyncio.run(cell()) == "reviewer did look"


def test_a_callback_that_calls_its_own_pool_is_refused(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    def call_again(event: TaskEvent) -> None:
        try:
            pool.stats()
        except PoolError as error:
            errors.append(str(error))

    errors: list[str] = []
    with opened(Agent()) as pool:
        pool.invoke("reviewer", "look", on_event=call_again)

    assert errors
    assert "another thread" in errors[0]


def test_a_closed_pool_says_so_and_can_be_closed_again(opened: Open) -> None:
    with opened(Agent()) as pool:
        pool.close()
        with pytest.raises(PoolClosed):
            pool.invoke("reviewer", "look")
        with pytest.raises(PoolClosed):
            pool.open()
        pool.close()


def test_events_of_the_pool_are_passed_until_the_end_of_the_subscription() -> None:
    events: list[Event] = []
    with remote_pool(Agent()) as pool:
        unsubscribe = pool.subscribe(events.append)
        blocking_wait(lambda: events)
        pool.invoke("reviewer", "look")
        blocking_wait(lambda: isinstance(events[-1], Ended))
        unsubscribe()
        count = len(events)
        pool.invoke("reviewer", "look")
        assert len(events) == count

    assert isinstance(events[0], Snapshot)


def test_stored_tasks_are_found_by_a_blocking_client() -> None:
    agent = Agent()
    with ServerThread(FakePool(agent.run_task)) as pool, pool:
        handle = pool.submit(TaskRequest("reviewer", "wait"))
        blocking_wait(lambda: agent.begun)
        handle.cancel()
        with pytest.raises(TaskCancelled):
            pool.attach(handle.id).result()
        agent.go_on.set()
        assert pool.retry(handle.id).result().text == "reviewer did wait"
        assert [one.id for one in pool.tasks(TaskFilter(limit=5))] == [handle.id]
        assert pool.task(handle.id).state == "succeeded"
        assert isinstance(list(pool.task_events(handle.id))[-1], Ended)
        assert pool.answer(handle.id, "k", True) is False


def test_every_other_method_gives_what_the_pool_gives(opened: Open) -> None:
    with opened(Agent()) as pool:
        assert [one.name for one in pool.agents().agents] == ["reviewer"]
        assert pool.agents_version() == "1"
        assert pool.launch_spec("a").cwd == "/x"
        assert pool.prompt_size("a").total == 0
        assert pool.reset_verdict("a") is None
        assert pool.warmup("a").worker == "a-1"
        assert pool.workers() == []
        assert pool.stats().uptime == 60.0
        assert pool.reset("a") == 0
        assert pool.end_conversation("a", "open") is True
        assert pool.check(TaskRequest("a", "b")) is None
        assert pool.cancel("missing") is False


def test_a_wrong_setting_is_reported_when_the_pool_is_made() -> None:
    from agent_pool.sync import AgentPool

    with pytest.raises(ConfigError, match="max_sise"):
        AgentPool(environ={}, max_sise=2)


def test_nothing_is_logged_as_an_error_by_an_interrupted_call(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(Agent()) as pool:
        handle = pool.submit(TaskRequest("reviewer", "wait"))
        with pytest.raises(TimeoutError):
            handle.result(timeout=0.01)
        handle.cancel()

    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
