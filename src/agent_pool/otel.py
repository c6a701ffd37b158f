"""Metrics and spans for OpenTelemetry; needs ``pip install 'claude-agent-pool[otel]'``.

    from agent_pool import AgentPool
    from agent_pool.otel import instrument

    async with AgentPool() as pool:
        instrument(pool)
        ...

Everything comes from the pool's events. Names are those of the semantic conventions for generative
AI where they have one, and begin with ``agent_pool.`` otherwise. No task, no answer and no tool's
input is reported, and only the code of an error.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
except ImportError as error:
    raise ImportError(
        "agent_pool.otel needs OpenTelemetry: pip install 'claude-agent-pool[otel]'"
    ) from error

import agent_pool
from agent_pool import (
    AgentStats,
    Ended,
    Event,
    InternalError,
    Paused,
    PoolAPI,
    PoolStats,
    Queued,
    Snapshot,
    Started,
    StrayResult,
    Submitted,
    TaskError,
    TaskResult,
    TurnEnded,
    Usage,
    WorkerReset,
    WorkerRetired,
    WorkerStateChanged,
)

SCOPE: Final = "agent_pool"
AGENT: Final = "gen_ai.agent.name"
ERROR: Final = "error.type"
TOKEN_KIND: Final = "agent_pool.token.type"
STATE: Final = "agent_pool.worker.state"
REASON: Final = "agent_pool.worker.reason"
OPERATION: Final = {
    "gen_ai.operation.name": "invoke_agent",
    "gen_ai.provider.name": "anthropic",
}
SECONDS_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
TOKEN_BUCKETS: Final = tuple(4**power for power in range(14))
STATES: Final = ("starting", "idle", "leased", "resetting", "stopping")
_UNEXPECTED: Final = "_OTHER"  # the conventions' word for an error that has no code

Labels = Mapping[str, str]
Row = tuple[float, Labels]


def instrument(
    pool: PoolAPI,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Report the events of this pool from now on; call it once for each pool.

    Every task becomes a span, a child of the caller's. The pool's figures become metrics that are
    read whenever the meter's reader asks for them; they do not keep the pool alive.

    Args:
        pool: open or not. Its figures so far are a part of the metrics.
        meter_provider, tracer_provider: by default the global ones, which do nothing unless the
            application sets up an OpenTelemetry SDK.
    """
    version = str(agent_pool.__version__)
    meter = metrics.get_meter(SCOPE, version, meter_provider)
    tracer = trace.get_tracer(SCOPE, version, tracer_provider)
    figures = _Figures()
    pool.subscribe(figures.record)
    pool.subscribe(_TaskReporter(meter, tracer).record)
    _observe(meter, weakref.ref(pool), figures)


# Tasks


class _TaskReporter:
    """Makes a span and the histograms' values of each task."""

    def __init__(self, meter: Meter, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._spans: dict[str, tuple[Span, float, dict[str, str]]] = {}
        self._duration = meter.create_histogram(
            "gen_ai.invoke_agent.duration",
            unit="s",
            description="Time of a task, from the call to the answer.",
            explicit_bucket_boundaries_advisory=SECONDS_BUCKETS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens of a task.",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )

    def record(self, event: Event) -> None:
        match event:
            case Submitted():
                self._start(event)
            case Ended() if event.task_id in self._spans:
                self._end(event)
            case _:
                pass

    def _start(self, event: Submitted) -> None:
        # The event comes while the caller's context is current: its span becomes the parent.
        attributes = {**OPERATION, AGENT: event.agent}
        span = self._tracer.start_span(
            f"invoke_agent {event.agent}", kind=SpanKind.INTERNAL, attributes=attributes
        )
        self._spans[event.task_id] = span, time.monotonic(), attributes

    def _end(self, event: Ended) -> None:
        span, began, attributes = self._spans.pop(event.task_id)
        result = event.result
        if result is None and isinstance(event.error, TaskError):
            result = event.error.result
        if result is not None:
            span.set_attributes(_result_attributes(result))
            self._record_tokens(result.usage, attributes)
        failure = _error_type(event.failure)
        if failure:
            span.set_attribute(ERROR, failure)
            span.set_status(StatusCode.ERROR)
        labels = {**attributes, **({ERROR: failure} if failure else {})}
        self._duration.record(time.monotonic() - began, labels)
        span.end()

    def _record_tokens(self, usage: Usage, attributes: Labels) -> None:
        for kind, count in (("input", usage.prompt_tokens), ("output", usage.output_tokens)):
            self._tokens.record(count, {**attributes, "gen_ai.token.type": kind})


def _error_type(code: str) -> str:
    return _UNEXPECTED if code == InternalError.code else code


def _result_attributes(result: TaskResult) -> dict[str, Any]:
    usage = result.usage
    return {
        "gen_ai.conversation.id": result.session_id,
        # The conventions count the tokens of the cache as input tokens.
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "agent_pool.worker": result.worker,
        "agent_pool.worker.pid": result.pid,
        **({"agent_pool.node": result.node} if result.node else {}),
        "agent_pool.task.waited": result.waited,
        "agent_pool.task.turns": result.turns,
        "agent_pool.task.cost": result.cost_usd,
    }


# The pool's figures


class _Figures:
    """The pool's figures: those of the first snapshot, and every event since.

    Each figure is a counter by labels, written as a tuple of pairs.
    """

    def __init__(self) -> None:
        self._values: dict[str, Counter[tuple[tuple[str, str], ...]]] = {
            name: Counter() for name, *_ in (*COUNTERS, *LEVELS)
        }
        # Events come on the event loop's thread; an exporter reads on a thread of its own.
        self._lock = threading.Lock()
        self.paused_until = 0.0
        self._waiting: set[str] = set()
        self._add("agent_pool.waiting", 0)
        for state in STATES:
            self._add("agent_pool.workers", 0, {STATE: state})

    def rows(self, name: str) -> list[Row]:
        """Return the values of a figure; any thread can call it."""
        with self._lock:
            values = list(self._values[name].items())
        return [(value, dict(labels)) for labels, value in values]

    def record(self, event: Event) -> None:
        match event:
            case Snapshot():
                self._record_snapshot(event.stats)
            case Queued():
                self._set_waiting(event.task_id, True)
            case Started():
                self._set_waiting(event.task_id, False)
            case Ended():
                self._set_waiting(event.task_id, False)
                self._record_task(event)
            case TurnEnded():
                self._record_usage(event.agent, event.usage, event.cost_usd)
            case Paused():
                until = time.monotonic() + event.seconds
                # A pause of 0 seconds is the early end of another one.
                self.paused_until = max(self.paused_until, until) if event.seconds else until
            case _:
                self._record_worker(event)

    def _record_worker(self, event: Event) -> None:
        match event:
            case WorkerStateChanged():
                self._record_state(event)
            case WorkerRetired():
                self._add("agent_pool.workers.retired", 1, {REASON: event.reason})
            case WorkerReset():
                self._add("agent_pool.workers.resets", 1)
            case StrayResult():
                self._add("agent_pool.workers.strays", 1)
            case _:
                pass

    def _add(self, name: str, value: float, labels: Labels | None = None) -> None:
        key = tuple((labels or {}).items())
        with self._lock:
            # Counter counts whole numbers by its type only; seconds and dollars add up as well.
            self._values[name][key] += value  # type: ignore[assignment]

    def _set_waiting(self, task_id: str, is_waiting: bool) -> None:
        if is_waiting and task_id not in self._waiting:
            self._waiting.add(task_id)
            self._add("agent_pool.waiting", 1)
        elif not is_waiting and task_id in self._waiting:
            self._waiting.discard(task_id)
            self._add("agent_pool.waiting", -1)

    def _record_state(self, event: WorkerStateChanged) -> None:
        if not event.previous:
            self._add("agent_pool.workers.spawned", 1)
        for state, step in ((event.previous, -1), (event.state, 1)):
            if state in STATES:
                self._add("agent_pool.workers", step, {STATE: state})

    def _record_task(self, event: Ended) -> None:
        if not event.worker:  # a task that got no worker is not counted, as in `PoolAPI.stats`
            return
        agent = {AGENT: event.agent}
        self._add("agent_pool.tasks", 1, agent)
        self._add("agent_pool.tasks.reused", int(event.reused))
        self._add("agent_pool.tasks.running_time", event.running, agent)
        self._add("agent_pool.tasks.waiting_time", event.waited, agent)
        if failure := _error_type(event.failure):
            self._add("agent_pool.tasks.failed", 1, {**agent, ERROR: failure})

    def _record_usage(self, agent: str, usage: Usage, cost_usd: float) -> None:
        # Kinds that do not overlap, as they are priced.
        for kind, count in (
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cache_write", usage.cache_write_tokens),
            ("cache_read", usage.cache_read_tokens),
        ):
            self._add("agent_pool.tokens", count, {AGENT: agent, TOKEN_KIND: kind})
        self._add("agent_pool.cost", cost_usd, {AGENT: agent})

    def _record_snapshot(self, stats: PoolStats) -> None:
        for agent in stats.agents:
            self._record_agent(agent)
        self._add("agent_pool.tasks.reused", stats.reuse.tasks)
        self._add("agent_pool.workers.spawned", stats.spawned)
        self._add("agent_pool.workers.resets", stats.resets)
        self._add("agent_pool.workers.strays", stats.strays)
        # Tasks that wait now are not added: each reports its place again within a second.
        for reason, count in stats.retired.items():
            self._add("agent_pool.workers.retired", count, {REASON: reason})
        for state, count in stats.workers.items():
            self._add("agent_pool.workers", count, {STATE: state})
        self.paused_until = time.monotonic() + stats.paused

    def _record_agent(self, agent: AgentStats) -> None:
        label = {AGENT: agent.agent}
        self._add("agent_pool.tasks", agent.tasks, label)
        self._add("agent_pool.tasks.running_time", agent.running, label)
        self._add("agent_pool.tasks.waiting_time", agent.waited, label)
        for code, count in agent.failed.items():
            self._add("agent_pool.tasks.failed", count, {**label, ERROR: _error_type(code)})
        self._record_usage(agent.agent, agent.usage, agent.cost_usd)


def _observe(meter: Meter, pool: weakref.ref[PoolAPI], figures: _Figures) -> None:
    for name, unit, description in COUNTERS:
        meter.create_observable_counter(name, [_reader(pool, figures, name)], unit, description)
    for name, unit, description in LEVELS:
        reader = _reader(pool, figures, name)
        meter.create_observable_up_down_counter(name, [reader], unit, description)

    def read_pause(_: CallbackOptions) -> Iterable[Observation]:
        if pool() is not None:
            yield Observation(max(0.0, figures.paused_until - time.monotonic()))

    meter.create_observable_gauge(
        "agent_pool.paused",
        [read_pause],
        "s",
        "Time for which no work is given out, because the API refused some.",
    )


def _reader(
    pool: weakref.ref[PoolAPI], figures: _Figures, name: str
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def read(_: CallbackOptions) -> Iterator[Observation]:
        if pool() is not None:  # a pool that is not used any more has no figures
            for value, labels in figures.rows(name):
                yield Observation(value, labels)

    return read


Instrument = tuple[str, str, str]

COUNTERS: Final[tuple[Instrument, ...]] = (
    ("agent_pool.tasks", "{task}", "Tasks that ended."),
    ("agent_pool.tasks.failed", "{task}", "Tasks that did not succeed."),
    ("agent_pool.tasks.reused", "{task}", "Tasks on a process that had a task before."),
    ("agent_pool.tasks.running_time", "s", "Time that tasks ran on a worker."),
    ("agent_pool.tasks.waiting_time", "s", "Time that tasks waited for a worker."),
    ("agent_pool.tokens", "{token}", "Tokens, interrupted tasks included."),
    ("agent_pool.cost", "{USD}", "Cost by list prices."),
    ("agent_pool.workers.spawned", "{worker}", "Processes started."),
    ("agent_pool.workers.retired", "{worker}", "Workers retired, by reason."),
    ("agent_pool.workers.resets", "{reset}", "Workers that were reset after a task."),
    (
        "agent_pool.workers.strays",
        "{result}",
        "Results that no task asked for; each costs its worker.",
    ),
)
LEVELS: Final[tuple[Instrument, ...]] = (
    ("agent_pool.workers", "{worker}", "Workers now."),
    ("agent_pool.waiting", "{task}", "Tasks that wait now."),
)
"""Each metric: its name, unit and description."""
