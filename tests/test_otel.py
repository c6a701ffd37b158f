"""`agent_pool.otel`: spans and metrics, on the real CLI and the offline model."""

from __future__ import annotations

import asyncio
import builtins
import gc
import importlib
import re
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import (
    CallbackOptions,
    Meter,
    NoOpMeter,
    NoOpMeterProvider,
    Observation,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from agent_pool import (
    AgentNotFound,
    AgentPool,
    InternalError,
    PoolStats,
    Queued,
    RateLimits,
    RateWindow,
    StructureMissing,
    TaskEvent,
    TaskResult,
    TooManyRequests,
    WorkerRetired,
)
from agent_pool.loopback import ErrorResponse, ModelReply, ModelRequest
from agent_pool.otel import COUNTERS, LEVELS, STATES, instrument
from support.model_scripts import Gate
from support.pools import PoolProject, wait_for_stats, wait_until_idle
from support.waiting import run, wait_until

SECRET = "the colour of the bicycle shed"

OTHER_NAMES = (
    "agent_pool.node",
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
"""The other names, of metrics and attributes; the other tests show that they are used."""


@pytest.fixture
def otel_project(tmp_path: Path) -> PoolProject:
    """Return a project for pools."""
    return PoolProject(tmp_path)


class Telemetry:
    """The spans and metrics that an application's OpenTelemetry SDK would export."""

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
        """Return each metric's values, or (count, sum) of a histogram, by attribute values."""
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

    def figures(self) -> dict[str, dict[tuple[str, ...], Any]]:
        """Return the metrics that are figures of the pool; empty for one without a value yet."""
        metrics = self.metrics()
        return {name: metrics.get(name, {}) for name, *_ in (*COUNTERS, *LEVELS)}

    def everything(self) -> str:
        """Return all of it as one text, to search for words that must not be there."""
        return f"{[span.to_json() for span in self.spans]} {self._reader.get_metrics_data()}"


def _value(point: Any) -> Any:
    return (point.count, point.sum) if hasattr(point, "count") else point.value


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_task_span_has_the_caller_as_parent_and_holds_figures(otel_project: PoolProject) -> None:
    async def main() -> None:
        async with otel_project.real(lambda _: SECRET) as (pool, _):
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


def test_telemetry_contains_no_text_of_tasks_or_answers(otel_project: PoolProject) -> None:
    def script(request: ModelRequest) -> ModelReply | ErrorResponse:
        if "fail" in request.last_user_text:
            return ErrorResponse(400, message=SECRET)
        return ModelReply(SECRET)

    async def main() -> None:
        async with otel_project.real(script) as (pool, _):
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


def test_failed_task_is_reported_with_its_error_code(otel_project: PoolProject) -> None:
    async def main() -> None:
        never = asyncio.Event()

        async def script(request: ModelRequest) -> ModelReply | ErrorResponse:
            if "refuse" in request.last_user_text:
                return ErrorResponse(400)
            await never.wait()
            return ModelReply("late")

        queued = asyncio.Event()
        async with otel_project.real(script, max_size=1, max_waiting=1) as (pool, api):
            telemetry = Telemetry(pool)
            await pool.invoke("tester", "refuse")
            with pytest.raises(AgentNotFound):
                await pool.invoke("nobody", "one")
            await wait_until_idle(pool)
            one = asyncio.create_task(pool.invoke("tester", "two"))
            await api.wait_until(lambda: api.requests[-1].last_user_text.strip() == "two")

            def listen(event: TaskEvent) -> None:
                if isinstance(event, Queued):
                    queued.set()

            two = asyncio.create_task(pool.invoke("tester", "three", on_event=listen))
            await queued.wait()
            with pytest.raises(TooManyRequests):
                await pool.invoke("tester", "four")
            for call in (two, one):
                call.cancel()
            await asyncio.wait([one, two])
            assert (one.cancelled(), two.cancelled()) == (True, True)
            codes = [attributes(span)["error.type"] for span in telemetry.spans]
            expected = ["task_failed", "agent_not_found", TooManyRequests.code, *["cancelled"] * 2]
            assert codes == expected
            assert {span.status.status_code for span in telemetry.spans} == {StatusCode.ERROR}
            assert [span.events for span in telemetry.spans] == [()] * 5
            durations = telemetry.metrics()["gen_ai.invoke_agent.duration"]
            assert {key[-1]: count for key, (count, _) in durations.items()} == Counter(codes)

    run(main())


def test_answer_that_breaks_the_schema_is_reported_with_its_usage(
    otel_project: PoolProject,
) -> None:
    form = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

    async def main() -> None:
        async with otel_project.real(lambda _: SECRET) as (pool, _):
            telemetry = Telemetry(pool)
            with pytest.raises(StructureMissing) as caught:
                await pool.invoke("tester", "task", schema=form)
            assert caught.value.result is not None
            span = attributes(telemetry.spans[0])
            assert span["error.type"] == StructureMissing.code
            output = caught.value.result.usage.output_tokens
            assert span["gen_ai.usage.output_tokens"] == output > 0
            counted = telemetry.metrics()["gen_ai.client.token.usage"]
            assert {key[-1]: value for key, value in counted.items()}["output"] == (1, output)

    run(main())


def test_metrics_page_names_every_metric_and_every_attribute(otel_project: PoolProject) -> None:
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


def test_metrics_have_the_same_values_as_the_pool_stats(otel_project: PoolProject) -> None:
    async def main() -> None:
        async with otel_project.real(lambda _: "done", max_size=1) as (pool, _):
            telemetry = Telemetry(pool)
            for number in range(3):
                await pool.invoke("tester", f"task {number}")
            await wait_until_idle(pool)
            stats = await pool.stats()
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
            await wait_for_stats(pool, lambda stats: not stats.workers)
            retired = telemetry.metrics()["agent_pool.workers.retired"]
            assert retired == {(reason,): n for reason, n in (await pool.stats()).retired.items()}
            assert sum(retired.values()) == 1
            assert telemetry.figures() == expected_figures(await pool.stats())

    run(main())


def expected_figures(stats: PoolStats) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the values that the metrics of a pool must have, by name and attribute values."""
    agents = stats.agents
    tokens = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens")
    return {
        "agent_pool.tasks": {(one.agent,): one.tasks for one in agents},
        "agent_pool.tasks.failed": {
            (one.agent, "_OTHER" if code == InternalError.code else code): count
            for one in agents
            for code, count in one.failed.items()
        },
        "agent_pool.tasks.reused": {(): stats.reuse.tasks},
        "agent_pool.tasks.running_time": {(one.agent,): one.running for one in agents},
        "agent_pool.tasks.waiting_time": {(one.agent,): one.waited for one in agents},
        "agent_pool.tokens": {
            (one.agent, kind.removesuffix("_tokens")): getattr(one.usage, kind)
            for one in agents
            for kind in tokens
        },
        "agent_pool.cost": {(one.agent,): one.cost_usd for one in agents},
        "agent_pool.workers.spawned": {(): stats.spawned},
        "agent_pool.workers.retired": {(why,): count for why, count in stats.retired.items()},
        "agent_pool.workers.resets": {(): stats.resets},
        "agent_pool.workers.strays": {(): stats.strays},
        "agent_pool.workers": {(state,): stats.workers.get(state, 0) for state in STATES},
        "agent_pool.waiting": {(): stats.waiting},
    }


@pytest.mark.long
def test_figures_from_before_instrument_are_counted_too(otel_project: PoolProject) -> None:
    gate = Gate()

    async def script(request: ModelRequest) -> object:
        if "refuse" in request.last_user_text:
            return ErrorResponse(400)
        return await gate(request) if "hold" in request.last_user_text else "done"

    async def main() -> None:
        # Another option: its worker serves no task of the first agent.
        otel_project.agent("other", description="Tests.", maxTurns="9")
        async with otel_project.real(script, max_size=1) as (pool, _):
            for agent, task in (("tester", "one"), ("tester", "refuse"), ("other", "two")):
                await pool.invoke(agent, task)
                await wait_until_idle(pool)
            await pool.reset("other")
            held = asyncio.create_task(pool.invoke("tester", "hold"))
            await gate.reached.wait()
            waiting = asyncio.create_task(pool.invoke("tester", "three"))
            await wait_for_stats(pool, lambda stats: stats.waiting)
            telemetry = Telemetry(pool)
            before = await pool.stats()
            assert (before.total.tasks, before.reuse.tasks, before.workers["leased"]) == (3, 1, 1)
            # A task that waits reports its place within a second; the other figures are there now.
            without_queue = {"agent_pool.waiting": {(): 0}}
            assert telemetry.figures() == {**expected_figures(before), **without_queue}
            await wait_until(lambda: telemetry.figures()["agent_pool.waiting"] == {(): 1})
            gate.open()
            await asyncio.gather(held, waiting)
            await pool.invoke("other", "four")
            await wait_until_idle(pool)
            after = await pool.stats()
            assert after.total.tasks == 6
            assert telemetry.figures() == expected_figures(after)
            assert [span.name for span in telemetry.spans] == ["invoke_agent other"]

    run(main())


def test_an_internal_error_is_reported_as_other(
    otel_project: PoolProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> object:
        raise ZeroDivisionError

    async def main() -> None:
        async with otel_project.faulty() as pool:
            early, late = Telemetry(pool), None
            monkeypatch.setattr("agent_pool.pool.task_runner.TaskResult", fail)
            with pytest.raises(InternalError):
                await pool.invoke("tester", "task")
            late = Telemetry(pool)
            for telemetry in (early, late):
                failed = telemetry.metrics()["agent_pool.tasks.failed"]
                assert failed == {("tester", "_OTHER"): 1}
            assert attributes(early.spans[0])["error.type"] == "_OTHER"

    run(main())


def test_instrumentation_does_not_keep_an_unused_pool_alive(otel_project: PoolProject) -> None:
    pool = otel_project.pool("http://127.0.0.1:9")
    telemetry = Telemetry(pool)
    assert telemetry.metrics()["agent_pool.workers.spawned"] == {(): 0}
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert telemetry.metrics().get("agent_pool.workers.spawned", {}) == {}


def test_a_pause_is_reported_even_if_it_began_before(otel_project: PoolProject) -> None:
    pool = otel_project.pool("http://127.0.0.1:9")
    early = Telemetry(pool)
    assert early.metrics()["agent_pool.paused"] == {(): 0}
    pool._supervisor.pause(1000)
    for telemetry in (early, Telemetry(pool)):
        assert 900 < telemetry.metrics()["agent_pool.paused"][()] <= 1000


def test_the_early_end_of_a_pause_is_reported(otel_project: PoolProject) -> None:
    pool = otel_project.pool("http://127.0.0.1:9")
    telemetry = Telemetry(pool)
    in_an_hour, later = time.time() + 3600, time.time() + 7200
    window = RateWindow(1.0, in_an_hour)
    report = pool._supervisor.report_rate_limits
    report(RateLimits("rejected", "five_hour", 1.0, in_an_hour, window))
    assert telemetry.metrics()["agent_pool.paused"][()] > 3000
    report(RateLimits("allowed", "five_hour", 0.0, later, RateWindow(0.0, later)))
    assert telemetry.metrics()["agent_pool.paused"] == {(): 0}


class RecordingMeterProvider(NoOpMeterProvider):
    """A provider whose meters keep the callback of each counter, by the counter's name."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[CallbackOptions], Iterator[Observation]]] = {}

    def get_meter(self, name: str, *_: Any, **__: Any) -> Meter:
        meter = NoOpMeter(name)
        create = meter.create_observable_counter

        def record(name: str, callbacks: Any = None, unit: str = "", text: str = "") -> Any:
            (self.callbacks[name],) = callbacks
            return create(name, callbacks, unit, text)

        vars(meter)["create_observable_counter"] = record
        return meter


def retire(pool: AgentPool, reason: str) -> None:
    """Publish that a worker was retired; each new reason is a new value of the metric."""
    pool._bus.publish(WorkerRetired(worker="worker-1", reason=reason))


def test_figures_can_change_while_they_are_read(otel_project: PoolProject) -> None:
    pool = otel_project.pool("http://127.0.0.1:9")
    meters = RecordingMeterProvider()
    instrument(pool, meter_provider=meters)
    for reason in ("one", "two"):
        retire(pool, reason)
    reading = meters.callbacks["agent_pool.workers.retired"](CallbackOptions())
    values = [next(reading).value]
    retire(pool, "three")
    values += [observation.value for observation in reading]
    assert values == [1, 1]


def test_an_exporter_thread_can_read_while_figures_change(
    otel_project: PoolProject, caplog: pytest.LogCaptureFixture
) -> None:
    pool = otel_project.pool("http://127.0.0.1:9")
    telemetry = Telemetry(pool)
    totals: list[float] = []

    def export() -> None:
        # Fifty reads may pass before the other thread runs at all: go on until a figure changed.
        while len(totals) < 50 or (totals[-1] == totals[0] and len(totals) < 1_000_000):
            retired = telemetry.metrics().get("agent_pool.workers.retired", {})
            totals.append(sum(retired.values()))

    exporter = threading.Thread(target=export)
    exporter.start()
    published = 0
    while exporter.is_alive():
        retire(pool, f"reason {published % 100}")
        published += 1
    assert caplog.messages == []  # the SDK logs the exceptions of callbacks
    assert totals == sorted(totals)
    assert totals[-1] > totals[0]
    assert sum(telemetry.metrics()["agent_pool.workers.retired"].values()) == published


def test_import_error_without_opentelemetry_names_the_package_to_install(
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
