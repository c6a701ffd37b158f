"""One caller and one pool on the real CLI."""

from __future__ import annotations

import asyncio
import logging

import psutil
import pytest

from agent_pool import (
    AgentNotFound,
    ConfigError,
    PoolClosed,
    Started,
    TaskResult,
    Text,
    ToolOutput,
    ToolUse,
    Usage,
)
from agent_pool.loopback import Request
from pool_world import (
    Held,
    PoolWorld,
    bash,
    is_alive,
    say_task,
    until,
    until_idle,
)
from support import run


def test_an_answer_comes_back_with_what_it_took(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.real(say_task) as (pool, api):
            result = await pool.invoke("tester", "one")
            (request,) = api.requests
            billed = request.usage
            assert billed is not None
            assert result == TaskResult(
                text="echo: one",
                is_error=False,
                subtype="success",
                agent="tester",
                duration=result.duration,
                waited=result.waited,
                turns=1,
                usage=Usage(
                    billed.input_tokens,
                    billed.output_tokens,
                    billed.cache_creation_input_tokens,
                    billed.cache_read_input_tokens,
                ),
                cost_usd=result.cost_usd,
                session_id=request.session_id,
                worker="worker-1",
                pid=result.pid,
            )
            assert result.cost_usd > 0
            assert result.duration > 0
            assert psutil.Process(result.pid).environ()["TEST_MARK"] == world.mark

    run(main())


def test_one_process_serves_task_after_task_and_each_conversation_is_new(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.real(say_task) as (pool, api):
            results = [await pool.invoke("tester", f"task-{number}") for number in range(3)]
            assert [result.text for result in results] == [f"echo: task-{n}" for n in range(3)]
            assert len({result.pid for result in results}) == 1
            assert len({result.session_id for result in results}) == 3
            for number, (result, request) in enumerate(zip(results, api.requests, strict=True)):
                told = [n for n in range(3) if f"task-{n}" in str(request.messages)]
                assert told == [number]
                assert request.usage is not None
                assert result.usage.output_tokens == request.usage.output_tokens
                assert result.usage.cache_read_tokens == request.usage.cache_read_input_tokens
            (worker,) = await pool.list()
            assert worker.usage == results[0].usage + results[1].usage + results[2].usage
            assert worker.cost_usd == pytest.approx(sum(result.cost_usd for result in results))

    run(main())


def test_map_returns_results_and_errors_in_the_order_of_its_calls(world: PoolWorld) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script, max_size=2) as (pool, _):
            calls = [("tester", "a"), ("nobody", "b"), ("tester", "c"), ("tester", " ")]
            mapped = asyncio.create_task(pool.map(calls))
            await until(lambda: len(script.began) == 2)
            script.let_go("c")
            script.let_go("a")
            first, second, third, fourth = await mapped
            assert isinstance(first, TaskResult)
            assert first.text == "echo: a"
            assert isinstance(second, AgentNotFound)
            assert isinstance(third, TaskResult)
            assert third.text == "echo: c"
            assert isinstance(fourth, ConfigError)

    run(main())


def test_map_tells_events_with_the_place_of_their_call(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty(max_size=1) as pool:
            told: list[tuple[int, str]] = []
            await pool.map(
                [("tester", "a"), ("tester", "b")],
                on_event=lambda place, event: (
                    told.append((place, event.text)) if isinstance(event, Text) else None
                ),
            )
            assert sorted(told) == [(0, "echo: a"), (1, "echo: b")]

    run(main())


def test_a_stream_yields_what_happens_and_ends_with_the_result(world: PoolWorld) -> None:
    def script(request: Request) -> object:
        return say_task(request) if request.tool_results else bash("printf seen")

    async def main() -> None:
        async with world.real(script) as (pool, _):
            await pool.warmup("tester")
            events = [event async for event in pool.stream("tester", "look")]
            started, use, output, text, result = events
            assert isinstance(result, TaskResult)
            assert started == Started("tester", result.worker, result.pid, result.waited)
            assert isinstance(use, ToolUse)
            assert use.name == "Bash"
            assert use.input["command"] == "printf seen"
            assert output == ToolOutput(use.id, "seen", is_error=False)
            assert text == Text("tool: seen")
            assert result.text == "tool: seen"
            assert result.turns == 2

    run(main())


def test_leaving_a_stream_ends_its_task_and_frees_the_worker(world: PoolWorld) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script, max_size=1) as (pool, api):
            stream = pool.stream("tester", "left")
            async for event in stream:
                if isinstance(event, Started):
                    await until(lambda: script.began == ["left"])
                    break
            await stream.aclose()
            await api.wait_until(lambda: api.requests[0].disconnected)
            script.let_go()
            assert (await pool.invoke("tester", "next")).text == "echo: next"

    run(main())


def test_the_error_of_a_stream_that_was_left_is_not_lost_loudly(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty({"at": "prompt", "do": "die", "match": "bad"}) as pool:
            stream = pool.stream("tester", "bad")
            async for event in stream:
                if isinstance(event, Started):
                    break
            await until(lambda: not is_alive(event.pid))
            await until_idle(pool)
            await stream.aclose()

    run(main())


def test_warmup_starts_a_worker_which_the_next_task_gets(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.real(say_task) as (pool, _):
            warmed = await pool.warmup("tester")
            assert (warmed.agent, warmed.description) == ("tester", "Tests.")
            assert (warmed.state, warmed.tasks) == ("idle", 0)
            assert (await pool.warmup("tester")).pid == warmed.pid
            assert (await pool.invoke("tester", "one")).pid == warmed.pid

    run(main())


def test_warmup_gives_no_worker_that_is_being_stopped(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty({"at": "eof", "do": "deaf"}) as pool:
            doomed = await pool.warmup("tester")
            stopping = asyncio.create_task(pool.reset("tester"))
            await until(lambda: "eof" in world.journal())
            fresh = await pool.warmup("tester")
            assert fresh.pid != doomed.pid
            assert fresh.state == "idle"
            assert await stopping == 1

    run(main())


def test_warmup_during_a_reset_never_fails(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            for _ in range(10):
                await pool.warmup("tester")
                warmed, stopped = await asyncio.gather(pool.warmup("tester"), pool.reset("tester"))
                assert (warmed.agent, stopped) == ("tester", 1)

    run(main())


def test_list_shows_the_workers_as_they_are(world: PoolWorld) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script) as (pool, _):
            assert await pool.list() == []
            running = asyncio.create_task(pool.invoke("tester", "one"))
            await until(lambda: script.began == ["one"])
            (busy,) = await pool.list()
            assert (busy.worker, busy.agent, busy.state) == ("worker-1", "tester", "leased")
            assert busy.tasks == 0
            script.let_go()
            result = await running
            await until_idle(pool)
            (idle,) = await pool.list()
            assert (idle.pid, idle.tasks, idle.usage) == (result.pid, 1, result.usage)
            assert idle.rss >= psutil.Process(result.pid).memory_info().rss // 2
            assert idle.uptime > busy.uptime

    run(main())


def test_reset_stops_the_workers_of_one_agent_and_the_next_task_gets_a_new_one(
    world: PoolWorld,
) -> None:
    world.agent("other")

    async def main() -> None:
        async with world.faulty() as pool:
            old = await pool.invoke("tester", "one")
            other = await pool.invoke("other", "one")
            assert await pool.reset("tester") == 1
            assert not is_alive(old.pid)
            assert [worker.pid for worker in await pool.list()] == [other.pid]
            assert await pool.reset("tester") == 0
            assert (await pool.invoke("tester", "two")).pid != old.pid
            with pytest.raises(AgentNotFound):
                await pool.reset("nobody")

    run(main())


def test_an_agent_can_be_reset_by_the_name_of_its_file_too(world: PoolWorld) -> None:
    world.agent("tester").rename(world.root / ".claude" / "agents" / "by-file.md")

    async def main() -> None:
        async with world.faulty() as pool:
            assert (await pool.invoke("by-file", "one")).text == "echo: one"
            assert await pool.reset("by-file") == 1

    run(main())


def test_a_worker_is_not_harmed_by_one_whose_name_its_own_begins_with(world: PoolWorld) -> None:
    world.agent("other")

    async def main() -> None:
        async with world.faulty() as pool:
            first = await pool.invoke("tester", "one")
            bystander = await pool.warmup("other")
            while bystander.worker != f"{first.worker}0":
                await pool.reset("other")
                bystander = await pool.warmup("other")
            assert (await pool.invoke("tester", "two")).pid == first.pid
            await until_idle(pool)
            assert await pool.reset("tester") == 1
            assert bystander.pid is not None
            assert is_alive(bystander.pid)
            assert (await pool.invoke("other", "three")).pid == bystander.pid

    run(main())


def test_an_edited_agent_takes_effect_at_its_next_task(world: PoolWorld) -> None:
    world.agent("tester", "You are the first.")

    async def main() -> None:
        async with world.real(say_task) as (pool, api):
            old = await pool.invoke("tester", "one")
            world.agent("tester", "You are the second.")
            new = await pool.invoke("tester", "two")
            first, second = (request.system_text for request in api.requests)
            assert "You are the first." in first
            assert "You are the second." in second
            assert "You are the first." not in second
            assert new.pid != old.pid
            await until(lambda: not is_alive(old.pid))

    run(main())


def test_an_agent_edited_during_its_task_finishes_it_and_serves_no_other(world: PoolWorld) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script) as (pool, api):
            running = asyncio.create_task(pool.invoke("tester", "one"))
            await until(lambda: script.began == ["one"])
            world.agent("tester", "You were edited.")
            script.let_go("two")
            new = await pool.invoke("tester", "two")
            script.let_go("one")
            old = await running
            assert (old.text, new.text) == ("echo: one", "echo: two")
            await until(lambda: not is_alive(old.pid))
            assert "You were edited." in api.requests[-1].system_text

    run(main())


def test_an_unknown_agent_is_refused_with_the_closest_name_and_nothing_is_started(
    world: PoolWorld,
) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            for call in (pool.invoke("testre", "one"), pool.warmup("testre")):
                with pytest.raises(AgentNotFound, match="did you mean tester"):
                    await call
            assert await pool.list() == []
            assert world.journal() == []

    run(main())


def test_a_listener_that_fails_is_reported_and_harms_no_task(
    world: PoolWorld, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(event: object) -> None:
        raise ValueError(f"no {type(event).__name__}, please")

    async def main() -> None:
        async with world.real(say_task, max_size=1) as (pool, _):
            result = await pool.invoke("tester", "one", on_event=listener)
            assert result.text == "echo: one"
            assert (await pool.invoke("tester", "two")).pid == result.pid
        failures = [record for record in caplog.records if record.levelno == logging.ERROR]
        told = {str(record.exc_info[1]) for record in failures if record.exc_info}
        assert told == {f"no {name}, please" for name in ("Queued", "Started", "Text")}
        caplog.clear()

    run(main())


def test_a_pool_serves_only_while_it_is_open(world: PoolWorld) -> None:
    async def main() -> None:
        pool = world.faulty()
        with pytest.raises(PoolClosed, match="not open"):
            await pool.invoke("tester", "one")
        async with pool:
            assert (await pool.invoke("tester", "one")).text == "echo: one"
        for call in (pool.invoke("tester", "two"), pool.warmup("tester"), pool.open()):
            with pytest.raises(PoolClosed, match="closed"):
                await call
        assert await pool.list() == []

    run(main())


def test_a_pool_with_its_default_settings_reuses_the_real_cli(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.real(say_task, reset="auto", spares=1) as (pool, _):
            results = [await pool.invoke("tester", f"task {number}") for number in range(3)]
            assert [result.text for result in results] == [f"echo: task {n}" for n in range(3)]
            assert len({result.pid for result in results}) == 1

    run(main())
