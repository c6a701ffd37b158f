"""The figures of the daemon as Prometheus text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent_pool.api import TaskAPI
from agent_pool.models import (
    OPEN_STATES,
    AgentStats,
    NodeState,
    PoolStats,
    TaskFilter,
    TaskRecord,
    WorkerInfo,
)
from agent_pool.text import whole_characters

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MOST_AGENTS: Final = 100
"""The most agents with figures of their own: each value of a label costs memory in Prometheus."""
OTHER_AGENTS: Final = ":other"
"""The label of all further agents together; the name of an agent has no colon."""
OPEN_PAGE: Final = 1000
"""The most open tasks that are counted by agent."""


async def metrics_text(pool: TaskAPI) -> bytes:
    """Return the figures of a pool since it was opened, as Prometheus reads them.

    Raises:
        AgentPoolError: as the methods of the pool.
    """
    tasks = await pool.tasks(TaskFilter(states=OPEN_STATES, limit=OPEN_PAGE))
    figures = _PoolFigures(await pool.stats(), await pool.workers(), tasks)
    # A registry of its own: the default one has the figures of this Python process too.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(figures)
    return generate_latest(registry)


class _PoolFigures(Collector):
    """The figures at one moment, for one answer."""

    def __init__(
        self, stats: PoolStats, workers: Sequence[WorkerInfo], tasks: Sequence[TaskRecord]
    ) -> None:
        self._stats = stats
        self._workers = workers
        self._tasks = tasks

    def collect(self) -> Iterable[Metric]:
        yield from self._open_tasks()
        yield from self._agents()
        yield from self._pool()

    def _open_tasks(self) -> Iterator[Metric]:
        metric = GaugeMetricFamily(
            "agent_pool_tasks_open",
            f"Tasks that have not ended, of at most {OPEN_PAGE}.",
            labels=("agent", "state"),
        )
        counts = Counter((task.agent, task.state) for task in self._tasks)
        often = _most_frequent(Counter(task.agent for task in self._tasks))
        merged: Counter[tuple[str, str]] = Counter()
        for (agent, state), number in counts.items():
            name = whole_characters(agent) if agent in often else OTHER_AGENTS
            merged[name, state] += number
        for labels, number in sorted(merged.items()):
            metric.add_metric(labels, number)
        yield metric

    def _agents(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "agent_pool_tasks", "Tasks that ended.", labels=("agent", "outcome")
        )
        tokens = CounterMetricFamily(
            "agent_pool_tokens", "Tokens of ended tasks.", labels=("agent", "kind")
        )
        cost = CounterMetricFamily(
            "agent_pool_cost_usd", "Cost of ended tasks by list prices.", labels=("agent",)
        )
        seconds = CounterMetricFamily(
            "agent_pool_task_seconds",
            "Seconds that tasks ran, and waited for a worker.",
            labels=("agent", "phase"),
        )
        for agent in self._agent_figures():
            name, usage = whole_characters(agent.agent), agent.usage
            ended.add_metric((name, "succeeded"), agent.tasks - sum(agent.failed.values()))
            for code, number in sorted(agent.failed.items()):
                ended.add_metric((name, code), number)
            tokens.add_metric((name, "input"), usage.input_tokens)
            tokens.add_metric((name, "output"), usage.output_tokens)
            tokens.add_metric((name, "cache_write"), usage.cache_write_tokens)
            tokens.add_metric((name, "cache_read"), usage.cache_read_tokens)
            cost.add_metric((name,), agent.cost_usd)
            seconds.add_metric((name, "running"), agent.running)
            seconds.add_metric((name, "waiting"), agent.waited)
        yield from (ended, tokens, cost, seconds)

    def _agent_figures(self) -> list[AgentStats]:
        """Return the figures by name; agents of one name in two projects are one."""
        often = _most_frequent(Counter({one.agent: one.tasks for one in self._stats.agents}))
        figures: dict[str, AgentStats] = {}
        for one in self._stats.agents:
            name = one.agent if one.agent in often else OTHER_AGENTS
            figures[name] = figures.get(name, AgentStats(name)) + one
        return [figures[name] for name in sorted(figures)]

    def _worker_figures(self) -> Iterator[Metric]:
        yield _labelled("agent_pool_workers", "Workers by state.", "state", self._stats.workers)
        memory = Counter[str]()
        for worker in self._workers:
            memory[worker.state] += worker.rss
        yield _labelled(
            "agent_pool_worker_memory_bytes", "Resident memory of workers.", "state", memory
        )
        if self._stats.nodes:
            yield from self._node_figures()

    def _node_figures(self) -> Iterator[Metric]:
        states = GaugeMetricFamily("agent_pool_nodes", "Machines by state.", labels=("state",))
        counts = Counter(one.state for one in self._stats.nodes)
        for state in get_args(NodeState):
            states.add_metric((state,), counts[state])
        size = GaugeMetricFamily(
            "agent_pool_node_size", "Tasks that a machine runs at most.", labels=("node",)
        )
        running = GaugeMetricFamily(
            "agent_pool_node_running", "Tasks that a machine runs.", labels=("node",)
        )
        memory = GaugeMetricFamily(
            "agent_pool_node_worker_memory_bytes",
            "Resident memory of a machine's workers.",
            labels=("node",),
        )
        by_node = Counter[str]()
        for worker in self._workers:
            by_node[worker.node] += worker.rss
        for one in sorted(self._stats.nodes, key=lambda node: node.node):
            name = (whole_characters(one.node),)
            size.add_metric(name, one.size)
            running.add_metric(name, one.running)
            memory.add_metric(name, by_node[one.node])
        yield from (states, size, running, memory)

    def _pool(self) -> Iterator[Metric]:
        stats = self._stats
        yield from self._worker_figures()
        yield GaugeMetricFamily("agent_pool_waiting", "Tasks that wait.", stats.waiting)
        yield GaugeMetricFamily("agent_pool_uptime_seconds", "Seconds of life.", stats.uptime)
        yield CounterMetricFamily("agent_pool_spawned", "Processes started.", stats.spawned)
        yield CounterMetricFamily("agent_pool_resets", "Resets of workers.", stats.resets)
        yield CounterMetricFamily(
            "agent_pool_strays", "Results that no task had asked for.", stats.strays
        )


def _most_frequent(counts: Counter[str]) -> set[str]:
    return {name for name, _ in counts.most_common(MOST_AGENTS)}


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=(label,))
    for key, number in sorted(values.items()):
        metric.add_metric((key,), number)
    return metric
