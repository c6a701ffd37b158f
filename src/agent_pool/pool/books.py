"""The pool's accounts: what every agent's tasks took, and what happened to the workers.

Tokens and cost are booked as turns end, so an interrupted task counts too, a moment after its
caller was told. A process that is killed during a turn reports nothing of that turn, and nothing is
made up for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from agent_pool.claude.accounts import Account, Usage

NO_USAGE: Final = Usage()
NO_ACCOUNT: Final = Account()


@dataclass(frozen=True, slots=True)
class AgentStats:
    """What one agent's tasks took so far.

    Attributes:
        agent: its name.
        tasks: that were given to it.
        failed: how many of them did not end well, by the error's code; ``task_error`` where the
            CLI reported an error instead of an answer, ``cancelled`` where the caller left.
        running: seconds that its tasks ran.
        waited: seconds that its tasks waited for a worker.
        usage: tokens.
        cost_usd: by the CLI's list prices.
    """

    agent: str
    tasks: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    running: float = 0.0
    waited: float = 0.0
    usage: Usage = NO_USAGE
    cost_usd: float = 0.0

    def __add__(self, other: AgentStats) -> AgentStats:
        """Both together, under the first one's name."""
        return AgentStats(
            agent=self.agent,
            tasks=self.tasks + other.tasks,
            failed=Counter(self.failed) + Counter(other.failed),
            running=self.running + other.running,
            waited=self.waited + other.waited,
            usage=self.usage + other.usage,
            cost_usd=self.cost_usd + other.cost_usd,
        )

    @property
    def cache_hit_rate(self) -> float:
        """The share of input tokens that was read from the prompt cache, 0 to 1."""
        usage = self.usage
        whole = usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens
        return usage.cache_read_tokens / whole if whole else 0.0

    def as_json(self) -> dict[str, object]:
        """The figures as plain JSON values, `cache_hit_rate` included."""
        return {
            "agent": self.agent,
            "tasks": self.tasks,
            "failed": dict(self.failed),
            "running": self.running,
            "waited": self.waited,
            "usage": asdict(self.usage),
            "cost_usd": self.cost_usd,
            "cache_hit_rate": self.cache_hit_rate,
        }


@dataclass(frozen=True, slots=True)
class Reuse:
    """What using processes again spared, against a new process for each task.

    Attributes:
        tasks: tasks that were given to a process which had been given one before.
        starts: processes whose start was measured. A spare's is not: it is started before anybody
            wants it, and waits.
        starting: seconds that these took together, from spawn to ready.
    """

    tasks: int = 0
    starts: int = 0
    starting: float = 0.0

    def __add__(self, other: Reuse) -> Reuse:
        return Reuse(
            self.tasks + other.tasks,
            self.starts + other.starts,
            self.starting + other.starting,
        )

    @property
    def mean_start(self) -> float | None:
        """Seconds that a start took on average; None if none was measured."""
        return self.starting / self.starts if self.starts else None

    @property
    def seconds_saved(self) -> float | None:
        """`tasks` times `mean_start`: the starts that did not take place; None if unknown."""
        mean = self.mean_start
        return None if mean is None else self.tasks * mean

    def as_json(self) -> dict[str, object]:
        """The figures as plain JSON values, under names that explain themselves."""
        return {
            "tasks_on_a_used_process": self.tasks,
            "measured_starts": self.starts,
            "mean_seconds_from_spawn_to_ready": self.mean_start,
            "seconds_of_starting_saved": self.seconds_saved,
        }


NO_REUSE: Final = Reuse()


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What happened in a pool since it was opened.

    Attributes:
        uptime: seconds.
        waiting: callers that wait now.
        paused: seconds for which no work is given out, because the API refused some.
        workers: how many there are, by state.
        spawned: processes started.
        resets: `/clear` sent and acknowledged.
        strays: results that nobody had asked for.
        retired: workers that went, by reason.
        agents: the accounts, by agent.
        reuse: what using processes again spared, as measured here.
    """

    uptime: float
    waiting: int
    paused: float
    workers: Mapping[str, int]
    spawned: int
    resets: int
    strays: int
    retired: Mapping[str, int]
    agents: tuple[AgentStats, ...]
    reuse: Reuse = NO_REUSE

    @property
    def total(self) -> AgentStats:
        """All agents together."""
        return sum(self.agents, AgentStats(agent=""))

    def as_json(self) -> dict[str, object]:
        """The figures as plain JSON values, `total` included."""
        return {
            "uptime": self.uptime,
            "waiting": self.waiting,
            "paused": self.paused,
            "workers": dict(self.workers),
            "spawned": self.spawned,
            "resets": self.resets,
            "strays": self.strays,
            "retired": dict(self.retired),
            "agents": [agent.as_json() for agent in self.agents],
            "total": self.total.as_json(),
            "reuse": self.reuse.as_json(),
        }


@dataclass(slots=True)
class _Page:
    tasks: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    running: float = 0.0
    waited: float = 0.0
    account: Account = NO_ACCOUNT


class Books:
    """Where the pool writes down what happens; only ever added to."""

    def __init__(self) -> None:
        self.spawned = 0
        self.resets = 0
        self.strays = 0
        self.reuse = NO_REUSE
        self._pages: defaultdict[str, _Page] = defaultdict(_Page)

    def turn_ended(self, agent: str, account: Account) -> None:
        """A turn has ended, whether anybody waited for it or not."""
        self._pages[agent].account += account

    def process_started(self, seconds: float) -> None:
        """A process got ready so many seconds after it was spawned."""
        self.reuse += Reuse(starts=1, starting=seconds)

    def task_ended(
        self, agent: str, *, waited: float, running: float, reused: bool, failure: str = ""
    ) -> None:
        """A task has ended.

        Args:
            waited: seconds until it had a worker.
            running: seconds from then on.
            reused: its process had been given a task before.
            failure: how it failed, empty if it did not.
        """
        self.reuse += Reuse(tasks=int(reused))
        page = self._pages[agent]
        page.tasks += 1
        page.waited += waited
        page.running += running
        if failure:
            page.failed[failure] += 1

    def agents(self) -> tuple[AgentStats, ...]:
        """The accounts by agent, as they are now."""
        return tuple(
            AgentStats(
                agent=name,
                tasks=page.tasks,
                failed=dict(page.failed),
                running=page.running,
                waited=page.waited,
                usage=page.account.usage,
                cost_usd=page.account.cost_usd,
            )
            for name, page in sorted(self._pages.items())
        )
