"""Metrics and spans for OpenTelemetry; needs ``pip install 'claude-agent-pool[otel]'``.

    from agent_pool import AgentPool
    from agent_pool.otel import instrument

    async with AgentPool() as pool:
        instrument(pool)
        ...

Names are those of the semantic conventions for generative AI where they have one, and begin with
``agent_pool.`` otherwise. What is asked and answered goes nowhere: no task, no answer, no tool's
input, and of an error its code alone.
"""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider
except ImportError as error:
    raise ImportError(
        "agent_pool.otel needs OpenTelemetry: pip install 'claude-agent-pool[otel]'"
    ) from error

import agent_pool
from agent_pool import AgentPoolError, AgentStats, PoolStats, TaskError, TaskResult, Usage

if TYPE_CHECKING:
    from agent_pool import AgentPool

NAME: Final = "agent_pool"
AGENT: Final = "gen_ai.agent.name"
ERROR: Final = "error.type"
OPERATION: Final = {
    "gen_ai.operation.name": "invoke_agent",
    "gen_ai.provider.name": "anthropic",
}
SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
TOKENS: Final = tuple(4**power for power in range(14))
STATES: Final = ("starting", "idle", "leased", "resetting", "stopping")
_LOOKS: Final = 5

Labels = Mapping[str, str]
Rows = Iterable[tuple[float, Labels]]


def instrument(
    pool: AgentPool,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Report what this pool does from now on; to be called once for each pool.

    Every task becomes a span, a child of the caller's. The pool's figures become metrics that are
    read whenever the meter's reader asks; they do not keep the pool alive.

    Args:
        pool: open or not.
        meter_provider, tracer_provider: by default the global ones, which do nothing unless the
            application sets up an OpenTelemetry SDK.
    """
    version = str(agent_pool.__version__)
    meter = metrics.get_meter(NAME, version, meter_provider)
    tracer = trace.get_tracer(NAME, version, tracer_provider)
    _observe(meter, weakref.ref(pool))
    # map(), stream() and the MCP server call invoke() too, so this alone sees every task.
    vars(pool)["invoke"] = _traced(pool.invoke, tracer, _Histograms(meter))


# Tasks


def _traced(invoke: Callable[..., Any], tracer: Tracer, histograms: _Histograms) -> Any:
    """`AgentPool.invoke` inside a span."""

    @functools.wraps(invoke)
    async def traced(agent: str, task: str, **options: Any) -> TaskResult:
        attributes = {**OPERATION, AGENT: str(agent)}
        began = time.monotonic()
        failure = "_OTHER"
        with tracer.start_as_current_span(
            f"invoke_agent {agent}",
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            record_exception=False,  # its message may hold the answer
            set_status_on_exception=False,
        ) as span:
            try:
                result: TaskResult = await invoke(agent, task, **options)
                failure = "task_error" if result.is_error else ""
                _describe(span, result)
                histograms.count(result.usage, attributes)
                return result
            except AgentPoolError as error:
                failure = error.code
                if isinstance(error, TaskError) and error.result is not None:
                    _describe(span, error.result)
                    histograms.count(error.result.usage, attributes)
                raise
            except asyncio.CancelledError:
                failure = "cancelled"
                raise
            finally:
                if failure:
                    span.set_attribute(ERROR, failure)
                    span.set_status(StatusCode.ERROR)
                histograms.time(time.monotonic() - began, attributes, failure)

    return traced


def _describe(span: Span, result: TaskResult) -> None:
    usage = result.usage
    span.set_attributes(
        {
            "gen_ai.conversation.id": result.session_id,
            "gen_ai.usage.input_tokens": _input_of(usage),
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "agent_pool.worker": result.worker,
            "agent_pool.worker.pid": result.pid,
            "agent_pool.task.waited": result.waited,
            "agent_pool.task.turns": result.turns,
            "agent_pool.task.cost": result.cost_usd,
        }
    )


def _input_of(usage: Usage) -> int:
    """All tokens of the prompts, as the conventions count them: those of the cache included."""
    return usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens


class _Histograms:
    """What is recorded task by task."""

    def __init__(self, meter: Meter) -> None:
        self._duration: Histogram = meter.create_histogram(
            "gen_ai.invoke_agent.duration",
            unit="s",
            description="Time of a task, from the call to the answer.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._tokens: Histogram = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens of a task.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )

    def time(self, seconds: float, attributes: Labels, failure: str) -> None:
        self._duration.record(seconds, {**attributes, **({ERROR: failure} if failure else {})})

    def count(self, usage: Usage, attributes: Labels) -> None:
        for kind, count in (("input", _input_of(usage)), ("output", usage.output_tokens)):
            self._tokens.record(count, {**attributes, "gen_ai.token.type": kind})


# The pool's figures


def _observe(meter: Meter, pool: weakref.ref[AgentPool]) -> None:
    for name, unit, description, rows in COUNTERS:
        meter.create_observable_counter(name, [_reader(pool, rows)], unit, description)
    for name, unit, description, rows in LEVELS:
        meter.create_observable_up_down_counter(name, [_reader(pool, rows)], unit, description)
    meter.create_observable_gauge(
        "agent_pool.paused",
        [_reader(pool, lambda stats: [(stats.paused, {})])],
        "s",
        "For how long no work is given out, because the API refused some.",
    )


def _reader(
    pool: weakref.ref[AgentPool], rows: Callable[[PoolStats], Rows]
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def read(_: CallbackOptions) -> Iterator[Observation]:
        if (living := pool()) is not None:
            for value, attributes in rows(_stats(living)):
                yield Observation(value, attributes)

    return read


def _stats(pool: AgentPool) -> PoolStats:
    """The figures, for an exporter's thread too: what changes under the look is looked at again."""
    for _ in range(_LOOKS):
        try:
            return pool.stats()
        except RuntimeError:  # a dictionary changed its size meanwhile
            continue
    return pool.stats()


def _each(value: Callable[[AgentStats], float]) -> Callable[[PoolStats], Rows]:
    return lambda stats: [(value(agent), {AGENT: agent.agent}) for agent in stats.agents]


def _failed(stats: PoolStats) -> Rows:
    for agent in stats.agents:
        for code, count in agent.failed.items():
            yield count, {AGENT: agent.agent, ERROR: code}


def _tokens(stats: PoolStats) -> Rows:
    """Kinds that do not overlap, as they are priced."""
    for agent in stats.agents:
        usage = agent.usage
        for kind, count in (
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cache_write", usage.cache_write_tokens),
            ("cache_read", usage.cache_read_tokens),
        ):
            yield count, {AGENT: agent.agent, "agent_pool.token.type": kind}


def _workers(stats: PoolStats) -> Rows:
    for state in {**dict.fromkeys(STATES), **stats.workers}:
        yield stats.workers.get(state, 0), {"agent_pool.worker.state": state}


def _retired(stats: PoolStats) -> Rows:
    for reason, count in stats.retired.items():
        yield count, {"agent_pool.worker.reason": reason}


Instrument = tuple[str, str, str, Callable[[PoolStats], Rows]]

COUNTERS: Final[tuple[Instrument, ...]] = (
    ("agent_pool.tasks", "{task}", "Tasks that ended.", _each(lambda agent: agent.tasks)),
    ("agent_pool.tasks.failed", "{task}", "Tasks that did not end well.", _failed),
    (
        "agent_pool.tasks.reused",
        "{task}",
        "Tasks that ran on a process which had been given one before.",
        lambda stats: [(stats.reuse.tasks, {})],
    ),
    (
        "agent_pool.tasks.running_time",
        "s",
        "Time that tasks ran on a worker.",
        _each(lambda agent: agent.running),
    ),
    (
        "agent_pool.tasks.waiting_time",
        "s",
        "Time that tasks waited for a worker.",
        _each(lambda agent: agent.waited),
    ),
    ("agent_pool.tokens", "{token}", "Tokens, interrupted tasks included.", _tokens),
    ("agent_pool.cost", "{USD}", "Cost by list prices.", _each(lambda agent: agent.cost_usd)),
    (
        "agent_pool.workers.spawned",
        "{worker}",
        "Processes started.",
        lambda stats: [(stats.spawned, {})],
    ),
    ("agent_pool.workers.retired", "{worker}", "Workers that went, and why.", _retired),
    (
        "agent_pool.workers.resets",
        "{reset}",
        "Workers made to forget a task.",
        lambda stats: [(stats.resets, {})],
    ),
    (
        "agent_pool.workers.strays",
        "{result}",
        "Results that nobody had asked for; each cost its worker.",
        lambda stats: [(stats.strays, {})],
    ),
)
LEVELS: Final[tuple[Instrument, ...]] = (
    ("agent_pool.workers", "{worker}", "Workers now.", _workers),
    ("agent_pool.waiting", "{task}", "Tasks that wait now.", lambda stats: [(stats.waiting, {})]),
)
