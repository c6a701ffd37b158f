"""`agent_pool.otel`: spans and metrics, on the real CLI and the offline model."""

from __future__ import annotations

import asyncio
import builtins
import gc
import importlib
import itertools
import re
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from agent_pool import AgentNotFound, AgentPool, TaskFailed, TaskResult, TooManyRequests
from agent_pool.loopback import Failure, Reply, Request
from agent_pool.otel import COUNTERS, LEVELS, instrument
from pool_world import PoolWorld, until, until_idle
from support import run

SECRET = "the colour of the bicycle shed"

OTHER_NAMES = (
    "agent_pool.paused",
    "agent_pool.task.cost",
    "agent_pool.task.turns",
    "agent_pool.task.waited",
    "agent_pool.token.type",
    "agent_pool.worker",
    "agent_pool.worker.pid",
    "agent_pool.worker.reason",
    "agent_pool.worker.state",
    "gen_ai.agent.name",
    "gen_ai.client.token.usage",
    "gen_ai.conversation.id",
    "gen_ai.invoke_agent.duration",
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.token.type",
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
)
"""What else is written, as the other tests show."""


@pytest.fixture
def world(tmp_path: Path) -> PoolWorld:
    """A project for pools."""
    return PoolWorld(tmp_path)


class Telemetry:
    """What an application's OpenTelemetry SDK would have exported."""

    def __init__(self, pool: AgentPool) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._meters = MeterProvider([self._reader])
        instrument(pool, meter_provider=self._meters, tracer_provider=self.tracers)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()

    def metrics(self) -> dict[str, dict[tuple[str, ...], Any]]:
        """Every metric: by its attributes' values, its value or its histogram's (count, sum)."""
        data = self._reader.get_metrics_data()
        scopes = [s for r in (data.resource_metrics if data else ()) for s in r.scope_metrics]
        return {
            metric.name: {
                tuple(map(str, (point.attributes or {}).values())): _value(point)
                for point in metric.data.data_points
            }
            for scope in scopes
            for metric in scope.metrics
        }

    def everything(self) -> str:
        """All of it as text, to look for what must not be there."""
        return f"{[span.to_json() for span in self.spans]} {self._reader.get_metrics_data()}"


def _value(point: Any) -> Any:
    return (point.count, point.sum) if hasattr(point, "count") else point.value


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_task_is_a_span_of_the_caller_with_what_it_took(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.real(lambda _: SECRET) as (pool, _):
            telemetry = Telemetry(pool)
            with telemetry.tracers.get_tracer("mine").start_as_current_span("mine") as parent:
                result = await pool.invoke("tester", SECRET)
            span = telemetry.spans[0]
            usage = result.usage
            assert (span.name, span.kind) == ("invoke_agent tester", SpanKind.INTERNAL)
            assert span.parent is not None
            assert span.parent.span_id == parent.get_span_context().span_id
            assert span.status.status_code is StatusCode.UNSET
            assert attributes(span) == {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.provider.name": "anthropic",
                "gen_ai.agent.name": "tester",
                "gen_ai.conversation.id": result.session_id,
                "gen_ai.usage.input_tokens": usage.input_tokens
                + usage.cache_write_tokens
                + usage.cache_read_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
                "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
                "agent_pool.worker": "worker-1",
                "agent_pool.worker.pid": result.pid,
                "agent_pool.task.waited": result.waited,
                "agent_pool.task.turns": 1,
                "agent_pool.task.cost": result.cost_usd,
            }

    run(main())


def test_nothing_that_was_asked_or_answered_is_told(world: PoolWorld) -> None:
    def script(request: Request) -> Reply | Failure:
        if "fail" in request.last_user_text:
            return Failure(400, message=SECRET)
        return Reply(SECRET)

    async def main() -> None:
        async with world.real(script) as (pool, _):
            telemetry = Telemetry(pool)
            answers = await pool.map([("tester", SECRET), ("tester", f"fail: {SECRET}")])
            assert [isinstance(one, TaskResult) and SECRET in one.text for one in answers] == [
                True,
                True,
            ]
            with pytest.raises(AgentNotFound):
                await pool.invoke("nobody", SECRET)
            assert len(telemetry.spans) == 3
            assert SECRET not in telemetry.everything()

    run(main())


def test_how_a_task_failed_is_told_by_its_code(world: PoolWorld) -> None:
    async def main() -> None:
        never = asyncio.Event()

        async def script(request: Request) -> Reply | Failure:
            if "refuse" in request.last_user_text:
                return Failure(400)
            await never.wait()
            return Reply("late")

        queued = asyncio.Event()
        async with world.real(script, max_size=1, max_waiting=1) as (pool, api):
            telemetry = Telemetry(pool)
            await pool.invoke("tester", "refuse")
            with pytest.raises(AgentNotFound):
                await pool.invoke("nobody", "one")
            await until_idle(pool)
            one = asyncio.create_task(pool.invoke("tester", "two"))
            await api.wait_until(lambda: api.requests[-1].last_user_text.strip() == "two")
            two = asyncio.create_task(
                pool.invoke("tester", "three", on_event=lambda _: queued.set())
            )
            await queued.wait()
            with pytest.raises(TooManyRequests):
                await pool.invoke("tester", "four")
            for call in (two, one):
                call.cancel()
            await asyncio.wait([one, two])
            assert (one.cancelled(), two.cancelled()) == (True, True)
            codes = [attributes(span)["error.type"] for span in telemetry.spans]
            expected = ["task_error", "agent_not_found", TooManyRequests.code, *["cancelled"] * 2]
            assert codes == expected
            assert {span.status.status_code for span in telemetry.spans} == {StatusCode.ERROR}
            assert [span.events for span in telemetry.spans] == [()] * 5
            durations = telemetry.metrics()["gen_ai.invoke_agent.duration"]
            assert {key[-1]: count for key, (count, _) in durations.items()} == Counter(codes)

    run(main())


def test_an_answer_that_does_not_fit_is_told_with_what_it_took(world: PoolWorld) -> None:
    form = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

    async def main() -> None:
        async with world.real(lambda _: SECRET) as (pool, _):
            telemetry = Telemetry(pool)
            with pytest.raises(TaskFailed) as caught:
                await pool.invoke("tester", "task", schema=form)
            assert caught.value.result is not None
            told = attributes(telemetry.spans[0])
            assert told["error.type"] == TaskFailed.code
            output = caught.value.result.usage.output_tokens
            assert told["gen_ai.usage.output_tokens"] == output > 0
            counted = telemetry.metrics()["gen_ai.client.token.usage"]
            assert {key[-1]: value for key, value in counted.items()}["output"] == (1, output)

    run(main())


def test_the_page_names_every_metric_and_every_attribute(world: PoolWorld) -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    kinds = {name: "counter" for name, *_ in COUNTERS} | {
        name: "up-down counter" for name, *_ in LEVELS
    }
    for name, unit, *_ in (*COUNTERS, *LEVELS):
        (row,) = [
            line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line
        ]
        _, _, kind, its_unit, *_ = map(str.strip, row.split("|"))
        assert (kind, its_unit) == (kinds[name], unit)
    written = set(re.findall(r"`((?:gen_ai|agent_pool)\.[a-z_.]+)`", page))
    known = {name for name, *_ in (*COUNTERS, *LEVELS)} | set(OTHER_NAMES)
    assert written - {"agent_pool.", "agent_pool.otel"} == known


def test_the_metrics_are_the_pools_figures(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.real(lambda _: "done", max_size=1) as (pool, _):
            telemetry = Telemetry(pool)
            for number in range(3):
                await pool.invoke("tester", f"task {number}")
            await until_idle(pool)
            stats = pool.stats()
            usage, metrics = stats.total.usage, telemetry.metrics()
            assert metrics["agent_pool.tasks"] == {("tester",): 3}
            assert metrics["agent_pool.tasks.reused"] == {(): 2}
            assert metrics["agent_pool.tokens"] == {
                ("tester", "input"): usage.input_tokens,
                ("tester", "output"): usage.output_tokens,
                ("tester", "cache_write"): usage.cache_write_tokens,
                ("tester", "cache_read"): usage.cache_read_tokens,
            }
            assert usage.cache_read_tokens > 0
            assert metrics["agent_pool.cost"] == {("tester",): stats.total.cost_usd}
            assert metrics["agent_pool.workers.spawned"] == {(): 1}
            assert metrics["agent_pool.workers.resets"] == {(): 3}
            assert metrics["agent_pool.waiting"] == {(): 0}
            assert metrics["agent_pool.workers"] == {
                ("starting",): 0,
                ("idle",): 1,
                ("leased",): 0,
                ("resetting",): 0,
                ("stopping",): 0,
            }
            whole = usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens
            counted = metrics["gen_ai.client.token.usage"]
            assert {key[-1]: value for key, value in counted.items()} == {
                "input": (3, whole),
                "output": (3, usage.output_tokens),
            }
            assert await pool.reset("tester") == 1
            await until(lambda: not pool.stats().workers)
            retired = telemetry.metrics()["agent_pool.workers.retired"]
            assert retired == {(reason,): n for reason, n in pool.stats().retired.items()}
            assert sum(retired.values()) == 1

    run(main())


def test_a_pool_that_nobody_needs_any_more_is_not_kept(world: PoolWorld) -> None:
    pool = world.pool("http://127.0.0.1:9")
    telemetry = Telemetry(pool)
    assert telemetry.metrics()["agent_pool.workers.spawned"] == {(): 0}
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert telemetry.metrics().get("agent_pool.workers.spawned", {}) == {}


def test_figures_that_change_while_they_are_read_are_read_again(world: PoolWorld) -> None:
    pool = world.pool("http://127.0.0.1:9")
    telemetry = Telemetry(pool)
    vars(pool)["stats"] = failing_often(pool.stats, RuntimeError("dictionary changed size"))
    assert telemetry.metrics()["agent_pool.workers.spawned"] == {(): 0}


def failing_often(function: Callable[[], Any], error: Exception) -> Callable[[], Any]:
    """The function, every other call of which fails."""
    calls = itertools.count()

    def called() -> Any:
        if next(calls) % 2 == 0:
            raise error
        return function()

    return called


def test_without_opentelemetry_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "opentelemetry":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "agent_pool.otel")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'claude-agent-pool\[otel\]'"):
        importlib.import_module("agent_pool.otel")
