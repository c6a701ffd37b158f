"""One caller and one pool, on the real CLI and on the fake one."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import psutil
import pytest

from agent_pool import (
    AgentNotFound,
    AgentPool,
    ConfigError,
    Ended,
    PoolClosed,
    Spent,
    Started,
    Submitted,
    TaskRequest,
    TaskResult,
    Text,
    ToolOutput,
    ToolUse,
    Usage,
)
from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.model_scripts import HeldAnswers, bash, echo_task
from support.pools import PoolProject, wait_until_idle
from support.process_checks import is_alive
from support.waiting import run, wait_until


def test_a_result_carries_the_answer_usage_and_cost(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.real(echo_task) as (pool, api):
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
                task_id=result.task_id,
                stop_reason="end_turn",
                terminal_reason="completed",
                models=(request.model,),
                requests=1,
            )
            assert result.task_id
            assert result.cost_usd > 0
            assert result.duration > 0
            assert psutil.Process(result.pid).environ()["TEST_MARK"] == pool_project.mark

    run(main())


def test_one_worker_serves_each_task_in_a_new_session(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.real(echo_task) as (pool, api):
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
            (worker,) = await pool.workers()
            assert worker.usage == results[0].usage + results[1].usage + results[2].usage
            assert worker.cost_usd == pytest.approx(sum(result.cost_usd for result in results))

    run(main())


def test_map_returns_results_and_errors_in_call_order(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.on_fake_cli(script, max_size=2) as (pool, _):
            calls = [("tester", "a"), ("nobody", "b"), ("tester", "c"), ("tester", " ")]
            mapped = asyncio.create_task(pool.map(calls))
            await wait_until(lambda: len(script.began) == 2)
            script.release("c")
            script.release("a")
            first, second, third, fourth = await mapped
            assert isinstance(first, TaskResult)
            assert first.text == "echo: a"
            assert isinstance(second, AgentNotFound)
            assert isinstance(third, TaskResult)
            assert third.text == "echo: c"
            assert isinstance(fourth, ConfigError)

    run(main())


def test_map_reports_each_event_with_its_call_index(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:
            told: list[tuple[int, str]] = []
            await pool.map(
                [("tester", "a"), ("tester", "b")],
                on_event=lambda place, event: (
                    told.append((place, event.text)) if isinstance(event, Text) else None
                ),
            )
            assert sorted(told) == [(0, "echo: a"), (1, "echo: b")]

    run(main())


def test_a_stream_yields_events_and_ends_with_the_result(pool_project: PoolProject) -> None:
    def script(request: ModelRequest) -> object:
        return echo_task(request) if request.tool_results else bash("printf seen")

    async def main() -> None:
        async with pool_project.real(script) as (pool, _):
            await pool.warmup("tester")
            events = [event async for event in pool.stream("tester", "look")]
            # The CLI is asked beside the turn, so the place of its answer varies.
            others = [event for event in events if not isinstance(event, Spent)]
            submitted, started, use, output, text, ended = others
            assert len(events) == len(others) + 1
            assert isinstance(submitted, Submitted)
            assert submitted.request == TaskRequest("tester", "look")
            assert isinstance(ended, Ended)
            result = ended.result
            assert result is not None
            assert isinstance(started, Started)
            assert (started.worker, started.pid) == (result.worker, result.pid)
            assert started.waited == result.waited
            assert isinstance(use, ToolUse)
            assert use.name == "Bash"
            assert use.input["command"] == "printf seen"
            assert isinstance(output, ToolOutput)
            assert (output.id, output.text, output.is_error) == (use.id, "seen", False)
            assert isinstance(text, Text)
            assert text.text == "tool: seen"
            numbers = [event.number for event in events]
            assert numbers == sorted(set(numbers))
            assert {event.task_id for event in events} == {result.task_id}
            assert result.text == "tool: seen"
            assert result.turns == 2

    run(main())


def test_leaving_a_stream_ends_its_task_and_frees_the_worker(pool_project: PoolProject) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.real(script, max_size=1) as (pool, api):
            stream = pool.stream("tester", "left")
            async for event in stream:
                if isinstance(event, Started):
                    await wait_until(lambda: script.began == ["left"])
                    break
            await stream.aclose()
            await api.wait_until(lambda: api.requests[0].disconnected)
            script.release()
            assert (await pool.invoke("tester", "next")).text == "echo: next"

    run(main())


def test_an_error_of_an_abandoned_stream_is_not_logged(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "prompt", "do": "die", "match": "bad"}) as pool:
            stream = pool.stream("tester", "bad")
            async for event in stream:
                if isinstance(event, Started):
                    started = event
                    break
            await wait_until(lambda: not is_alive(started.pid))
            await wait_until_idle(pool)
            await stream.aclose()

    run(main())


def test_warmup_starts_a_worker_which_the_next_task_gets(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task) as (pool, _):
            warmed = await pool.warmup("tester")
            assert (warmed.agent, warmed.description) == ("tester", "Tests.")
            assert (warmed.state, warmed.tasks) == ("idle", 0)
            assert (await pool.warmup("tester")).pid == warmed.pid
            assert (await pool.invoke("tester", "one")).pid == warmed.pid

    run(main())


def test_warmup_never_returns_a_worker_that_is_stopping(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "eof", "do": "deaf"}) as pool:
            doomed = await pool.warmup("tester")
            stopping = asyncio.create_task(pool.reset("tester"))
            await wait_until(lambda: "eof" in pool_project.journal())
            fresh = await pool.warmup("tester")
            assert fresh.pid != doomed.pid
            assert fresh.state == "idle"
            assert await stopping == 1

    run(main())


def test_warmup_during_a_reset_never_fails(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            for _ in range(10):
                await pool.warmup("tester")
                warmed, stopped = await asyncio.gather(pool.warmup("tester"), pool.reset("tester"))
                assert (warmed.agent, stopped) == ("tester", 1)

    run(main())


def test_list_shows_the_current_state_of_each_worker(pool_project: PoolProject) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.real(script) as (pool, _):
            assert await pool.workers() == []
            running = asyncio.create_task(pool.invoke("tester", "one"))
            await wait_until(lambda: script.began == ["one"])
            (busy,) = await pool.workers()
            assert (busy.worker, busy.agent, busy.state) == ("worker-1", "tester", "leased")
            assert busy.tasks == 0
            script.release()
            result = await running
            await wait_until_idle(pool)
            (idle,) = await pool.workers()
            assert (idle.pid, idle.tasks, idle.usage) == (result.pid, 1, result.usage)
            assert idle.rss >= psutil.Process(result.pid).memory_info().rss // 2
            assert idle.uptime > busy.uptime

    run(main())


def test_reset_replaces_the_workers_of_one_agent_only(
    pool_project: PoolProject,
) -> None:
    pool_project.agent("other", maxTurns="9")  # its processes have another option

    async def main() -> None:
        async with pool_project.faulty() as pool:
            old = await pool.invoke("tester", "one")
            other = await pool.invoke("other", "one")
            assert await pool.reset("tester") == 1
            assert not is_alive(old.pid)
            assert [worker.pid for worker in await pool.workers()] == [other.pid]
            assert await pool.reset("tester") == 0
            assert (await pool.invoke("tester", "two")).pid != old.pid
            with pytest.raises(AgentNotFound):
                await pool.reset("nobody")

    run(main())


def test_an_agent_can_be_reset_by_its_file_name(pool_project: PoolProject) -> None:
    pool_project.agent("tester").rename(pool_project.root / ".claude" / "agents" / "by-file.md")

    async def main() -> None:
        async with pool_project.faulty() as pool:
            assert (await pool.invoke("by-file", "one")).text == "echo: one"
            assert await pool.reset("by-file") == 1

    run(main())


def test_cleaning_up_worker_1_does_not_harm_worker_10(
    pool_project: PoolProject,
) -> None:
    pool_project.agent("other", maxTurns="9")  # its processes have another option

    async def main() -> None:
        async with pool_project.faulty() as pool:
            first = await pool.invoke("tester", "one")
            bystander = await pool.warmup("other")
            while bystander.worker != f"{first.worker}0":
                await pool.reset("other")
                bystander = await pool.warmup("other")
            assert (await pool.invoke("tester", "two")).pid == first.pid
            await wait_until_idle(pool)
            assert await pool.reset("tester") == 1
            assert bystander.pid is not None
            assert is_alive(bystander.pid)
            assert (await pool.invoke("other", "three")).pid == bystander.pid

    run(main())


def test_an_edited_definition_takes_effect_at_the_next_task(pool_project: PoolProject) -> None:
    pool_project.agent("tester", "You are the first.")

    async def main() -> None:
        async with pool_project.real(echo_task) as (pool, api):
            old = await pool.invoke("tester", "one")
            pool_project.agent("tester", "You are the second.")
            new = await pool.invoke("tester", "two")
            first, second = (request.system_text for request in api.requests)
            assert "You are the first." in first
            assert "You are the second." in second
            assert "You are the first." not in second
            assert new.pid == old.pid

    run(main())


def test_an_edit_that_needs_another_process_gets_a_new_worker(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            old = await pool.invoke("tester", "one")
            pool_project.agent("tester", maxTurns="9")
            new = await pool.invoke("tester", "two")
            assert (new.text, new.pid == old.pid) == ("echo: two", False)
            await wait_until(lambda: not is_alive(old.pid))

    run(main())


def test_an_agent_edited_during_a_task_serves_the_next_task_as_edited(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.real(script) as (pool, api):
            running = asyncio.create_task(pool.invoke("tester", "one"))
            await wait_until(lambda: script.began == ["one"])
            pool_project.agent("tester", "You were edited.")
            script.release("two")
            new = await pool.invoke("tester", "two")
            script.release("one")
            old = await running
            assert (old.text, new.text) == ("echo: one", "echo: two")
            assert new.pid != old.pid
            edited = next(r for r in api.requests if "two" in r.last_user_text)
            assert "You were edited." in edited.system_text
            await wait_until_idle(pool)
            # The worker of the earlier version takes the edited one over.
            script.release("three")
            script.release("four")
            texts = [(await pool.invoke("tester", task)).text for task in ("three", "four")]
            assert texts == ["echo: three", "echo: four"]
            assert all("You were edited." in r.system_text for r in api.requests[2:])

    run(main())


def test_an_unknown_agent_is_refused_with_the_closest_name(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            for call in (pool.invoke("testre", "one"), pool.warmup("testre")):
                with pytest.raises(AgentNotFound, match="did you mean tester"):
                    await call
            assert await pool.workers() == []
            assert pool_project.journal() == []

    run(main())


def test_a_failing_listener_is_logged_and_harms_no_task(
    pool_project: PoolProject, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(event: object) -> None:
        raise ValueError(f"no {type(event).__name__}, please")

    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task, max_size=1) as (pool, _):
            result = await pool.invoke("tester", "one", on_event=listener)
            assert result.text == "echo: one"
            assert (await pool.invoke("tester", "two")).pid == result.pid
        failures = [record for record in caplog.records if record.levelno == logging.ERROR]
        told = {str(record.exc_info[1]) for record in failures if record.exc_info}
        assert told == {
            f"no {name}, please" for name in ("Submitted", "Queued", "Started", "Text", "Ended")
        }
        caplog.clear()

    run(main())


def test_a_pool_serves_only_while_it_is_open(pool_project: PoolProject) -> None:
    async def main() -> None:
        pool = pool_project.faulty()
        with pytest.raises(PoolClosed, match="not open"):
            await pool.invoke("tester", "one")
        async with pool:
            assert (await pool.invoke("tester", "one")).text == "echo: one"
        for call in (pool.invoke("tester", "two"), pool.warmup("tester"), pool.open()):
            with pytest.raises(PoolClosed, match="closed"):
                await call
        assert await pool.workers() == []

    run(main())


def test_a_pool_with_its_default_settings_reuses_the_real_cli(
    pool_project: PoolProject, cache: Path
) -> None:
    async def main() -> None:
        async with LoopbackAPI(echo_task) as api:
            environ = pool_project.environment(api.url, XDG_CACHE_HOME=str(cache))
            async with AgentPool(environ=environ) as pool:
                results = [await pool.invoke("tester", f"task {number}") for number in range(3)]
                assert [result.text for result in results] == [f"echo: task {n}" for n in range(3)]
                assert len({result.pid for result in results}) == 1

    run(main())
