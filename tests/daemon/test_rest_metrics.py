from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from agent_pool import AgentStats, PoolStats, TaskResult, Usage
from agent_pool.api import OnEvent
from support.fake_pool import FakePool, make_stats, make_worker
from support.rest_server import served, task_body
from support.waiting import run

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class MeasuredPool(FakePool):
    """A pool with given figures, whose tasks never end."""

    def __init__(self, stats: PoolStats) -> None:
        super().__init__(self._run_forever)
        self._stats = stats

    async def stats(self) -> PoolStats:
        return self._stats

    async def _run_forever(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        import asyncio

        await asyncio.Event().wait()
        raise AssertionError


def scrape(pool: FakePool, *agents: str) -> Samples:
    """Submit a task for each agent; return the metrics, as Prometheus reads them."""

    async def main() -> str:
        async with served(pool) as (server, _):
            for agent in agents:
                await server.ask("POST", "/v1/tasks", task_body(agent=agent))
            answer = await server.ask("GET", "/v1/metrics")
            assert answer.status == 200
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            return str(answer.body)

    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(run(main()))
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return the value of one sample."""
    return samples[name, frozenset(labels.items())]


def agent_stats(name: str, **fields: object) -> AgentStats:
    values = {
        "tasks": 5,
        "failed": {"task_timeout": 2},
        "running": 10.5,
        "waited": 1.5,
        "usage": Usage(1, 2, 3, 4),
        "cost_usd": 0.25,
    }
    return AgentStats(name, **{**values, **fields})  # type: ignore[arg-type]


def test_the_metrics_have_the_figures_of_pool_and_agents() -> None:
    agents = (agent_stats("a"), agent_stats("a", project="/other"), agent_stats("b", failed={}))
    pool = MeasuredPool(make_stats(agents=agents, workers={"idle": 2, "leased": 1}, spawned=7))
    pool.worker_infos = [make_worker(rss=100), make_worker(rss=50, state="leased")]

    found = scrape(pool, "a", "a", "b")

    # Figures of two projects' agents of one name are added.
    assert value(found, "agent_pool_tasks_total", agent="a", outcome="succeeded") == 6
    assert value(found, "agent_pool_tasks_total", agent="a", outcome="task_timeout") == 4
    assert value(found, "agent_pool_tasks_total", agent="b", outcome="succeeded") == 5
    assert value(found, "agent_pool_tokens_total", agent="a", kind="output") == 4
    assert value(found, "agent_pool_tokens_total", agent="b", kind="cache_read") == 4
    assert value(found, "agent_pool_cost_usd_total", agent="a") == 0.5
    assert value(found, "agent_pool_task_seconds_total", agent="b", phase="running") == 10.5
    assert value(found, "agent_pool_task_seconds_total", agent="b", phase="waiting") == 1.5
    assert value(found, "agent_pool_workers", state="idle") == 2
    assert value(found, "agent_pool_worker_memory_bytes", state="leased") == 50
    assert value(found, "agent_pool_spawned_total") == 7
    states = {
        state: number
        for (name, labels), number in found.items()
        if name == "agent_pool_tasks_open"
        and ("agent", "a") in labels
        and (state := dict(labels)["state"])
    }
    assert sum(states.values()) == 2
    assert not any(name.startswith(("python_", "process_")) for name, _ in found)


def test_the_number_of_agents_in_the_metrics_is_bounded() -> None:
    names = [f"agent-{number}" for number in range(300)]
    agents = tuple(agent_stats(name, tasks=9 if name == "agent-299" else 5) for name in names)

    found = scrape(MeasuredPool(make_stats(agents=agents)))

    labels = {
        dict(labels)["agent"] for name, labels in found if name == "agent_pool_cost_usd_total"
    }
    assert len(labels) == 101
    assert "agent-299" in labels  # those with the most tasks have figures of their own
    assert value(found, "agent_pool_cost_usd_total", agent=":other") == 200 * 0.25


def test_names_with_odd_characters_are_escaped() -> None:
    name = 'a"b\\c\nd\ud800'

    found = scrape(MeasuredPool(make_stats(agents=(agent_stats(name),))))

    assert value(found, "agent_pool_cost_usd_total", agent='a"b\\c\nd?') == 0.25


def test_health_counts_open_tasks_and_has_no_secret() -> None:
    async def main() -> None:
        pool = MeasuredPool(make_stats())
        async with served(pool, environ={"KEY": "hunter2"}) as (server, _):
            await server.ask("POST", "/v1/tasks", task_body())
            answer = await server.ask("GET", "/v1/health")

        assert answer.status == 200
        assert set(answer.body) == {"status", "version", "uptime", "open_tasks"}
        assert (answer.body["status"], answer.body["open_tasks"]) == ("ok", 1)
        assert answer.body["uptime"] >= 0

    run(main())
