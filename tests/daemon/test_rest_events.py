from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from agent_pool import (
    Ended,
    Event,
    Snapshot,
    Submitted,
    TaskResult,
    Text,
    WorkerStateChanged,
    event_from_json,
)
from agent_pool.api import OnEvent
from agent_pool.daemon.sse import PoolEvents
from support.fake_pool import FakePool, make_result, make_stats
from support.rest_server import RestServer, served, task_body
from support.waiting import run, wait_until


class Talker:
    """An agent that says some words, then waits for a sign before it says the others."""

    def __init__(self, *words: str, pause_after: int = 10**9) -> None:
        self._words = words
        self._pause_after = pause_after
        self.go_on = asyncio.Event()

    async def run_task(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        for number, word in enumerate(self._words):
            if number == self._pause_after:
                await self.go_on.wait()
            emit(Text(word))
            await asyncio.sleep(0)
        return make_result("".join(self._words), agent=agent)


async def start(server: RestServer) -> str:
    """Submit a task; return the path of its events."""
    answer = await server.ask("POST", "/v1/tasks", task_body())
    return f"/v1/tasks/{answer.body['id']}/events"


async def read(server: RestServer, path: str, most: int = 10**9, **options: Any) -> list[Event]:
    """Read the events of a stream, until its end or `most` of them."""
    found: list[Event] = []
    async with server.events(path, **options) as events:
        async for event in events:
            made = event_from_json(event.json())
            assert event.event == made.type
            if "/tasks/" in path:
                assert event.id == str(made.number)
            found.append(made)
            if len(found) == most:
                break
    return found


def test_the_events_of_a_task_are_streamed_until_its_end() -> None:
    async def main() -> None:
        talker = Talker("one ", "two ", "three", pause_after=1)
        async with served(FakePool(talker.run_task)) as (server, _):
            path = await start(server)
            reading = asyncio.create_task(read(server, path))
            assert len(await read(server, path, most=2)) == 2  # it streams while the task runs
            talker.go_on.set()
            events = await reading

        assert isinstance(events[0], Submitted)
        assert [one.text for one in events if isinstance(one, Text)] == ["one ", "two ", "three"]
        assert isinstance(events[-1], Ended)
        assert events[-1].result is not None
        assert events[-1].result.text == "one two three"
        numbers = [one.number for one in events]
        assert numbers == sorted(set(numbers))

    run(main())


@pytest.mark.parametrize("way", ["parameter", "header", "both"])
def test_a_client_that_comes_back_gets_only_the_rest(way: str) -> None:
    async def main() -> None:
        async with served(FakePool(Talker("a", "b", "c", "d").run_task)) as (server, _):
            path = await start(server)
            everything = await read(server, path)
            for index, event in enumerate(everything):
                last = str(event.number)
                query = {"parameter": {"after": last}, "both": {"after": "0"}}.get(way, {})
                headers = {} if way == "parameter" else {"Last-Event-ID": last}
                rest = await read(server, path, params=query, headers=headers)
                assert rest == everything[index + 1 :]

    run(main())


def test_a_client_that_never_reads_is_dropped_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        talker = Talker(*["x" * 20_000] * 100)
        async with served(FakePool(talker.run_task), send_timeout=1.0) as (server, _):
            path = await start(server)
            silent = socket.socket(socket.AF_UNIX)
            silent.connect(str(server.socket))
            silent.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await wait_until(lambda: "was dropped" in caplog.text)
            everything = await read(server, path)  # another client is not affected
            await wait_until(lambda: server.requests == 0)
            silent.close()

        assert sum(isinstance(one, Text) for one in everything) <= 100
        assert isinstance(everything[-1], Ended)

    caplog.set_level(logging.INFO, "agent_pool")
    run(main())
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


class Publisher(FakePool):
    """A pool whose events the test publishes."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[Event], None]] = []
        self.published = 0

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        listener(Snapshot(stats=make_stats(spawned=self.published)))
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def publish(self, *states: str) -> None:
        """Publish the event of a worker for each state."""
        for state in states:
            self.published += 1
            for listener in tuple(self.listeners):
                listener(WorkerStateChanged(worker="w", state=state, number=self.published))


def _state(event: Event) -> str:
    return event.state if isinstance(event, WorkerStateChanged) else "snapshot"


async def take(events: Any, number: int) -> list[tuple[str, str]]:
    """Take events from a ring; return the id and the state of each."""
    found = []
    for _ in range(number):
        line = await anext(events)
        event = event_from_json(json.loads(line.data))
        state = _state(event)
        if isinstance(event, Snapshot):
            state = f"snapshot of {event.stats.spawned}"
        found.append((line.id, state))
    return found


def test_the_events_of_the_pool_begin_with_a_snapshot() -> None:
    async def main() -> None:
        pool = Publisher()
        events = PoolEvents(pool, "b")
        async with aclosing(events.stream()) as stream:
            assert await take(stream, 1) == [("b-0", "snapshot of 0")]
            pool.publish("one", "two")
            assert await take(stream, 2) == [("b-1", "one"), ("b-2", "two")]
            async with aclosing(events.stream()) as later:
                assert await take(later, 1) == [("b-2", "snapshot of 2")]
                pool.publish("three")
                assert await take(later, 1) == await take(stream, 1) == [("b-3", "three")]
        assert len(pool.listeners) == 1

    run(main())


def test_a_client_of_the_pool_comes_back_to_the_kept_events() -> None:
    async def main() -> None:
        pool = Publisher()
        events = PoolEvents(pool, "b", most_events=3)
        async with aclosing(events.stream()) as stream:
            await take(stream, 1)
        pool.publish("one", "two", "three", "four")  # "one" has left the ring
        async with aclosing(events.stream("b-1")) as stream:
            assert await take(stream, 3) == [("b-2", "two"), ("b-3", "three"), ("b-4", "four")]
        for unknown in ("b-0", "a-2", "b-5", "b-x", "b-", "", "b-²"):
            async with aclosing(events.stream(unknown)) as stream:
                assert await take(stream, 1) == [("b-4", "snapshot of 4")]

    run(main())


def test_a_slow_client_of_the_pool_gets_a_new_snapshot() -> None:
    async def main() -> None:
        pool = Publisher()
        events = PoolEvents(pool, "b", most_events=2)
        async with aclosing(events.stream()) as stream:
            await take(stream, 1)
            pool.publish("one", "two", "three")
            assert await take(stream, 1) == [("b-3", "snapshot of 3")]
            pool.publish("four")
            assert await take(stream, 1) == [("b-4", "four")]

    run(main())


def test_the_memory_of_the_ring_is_bounded_by_bytes() -> None:
    async def main() -> None:
        pool = Publisher()
        events = PoolEvents(pool, "b", most_bytes=10_000)
        async with aclosing(events.stream()) as stream:
            await take(stream, 1)
            pool.publish(*["x" * 3000] * 50)
            gc.collect()
            kept = [one for one in gc.get_objects() if type(one) is str and "x" * 3000 in one]
            assert len(kept) <= 8
            pool.publish("y" * 50_000)
            assert (await take(stream, 1))[0][1] == "snapshot of 51"

    run(main())


def test_a_pool_is_followed_over_http_and_resumed() -> None:
    async def main() -> None:
        pool = FakePool()
        async with served(pool) as (server, _):
            async with server.events("/v1/events") as events:
                first = await anext(events)
                assert isinstance(event_from_json(first.json()), Snapshot)
                await server.ask("POST", "/v1/tasks?wait=20", task_body())
                begun = await anext(events)
                assert isinstance(event_from_json(begun.json()), Submitted)
            headers = {"Last-Event-ID": begun.id}
            async with server.events("/v1/events", headers=headers) as events:
                while not isinstance(event_from_json((await anext(events)).json()), Ended):
                    pass

    run(main())
