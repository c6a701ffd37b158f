"""The values of the scheduler: agents, workers, tickets, limits, and the actions it returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent_pool.models import AgentKey


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One version of an agent, as the scheduler sees it.

    Attributes:
        key: workers, limits and queues belong to it.
        version: changes when the definition does; workers of another version are retired.
        profile: workers with equal profiles start as interchangeable blank processes.
        is_role: a worker of another agent with this profile can become this agent.
        base: the profile of spares that belong to no project and can become this agent too;
            empty if there are none.
    """

    key: AgentKey
    version: str
    profile: str
    is_role: bool = False
    base: str = ""


class WorkerState(StrEnum):
    """The state of a worker."""

    STARTING = "starting"
    IDLE = "idle"
    LEASED = "leased"
    RESETTING = "resetting"
    STOPPING = "stopping"


class RetireReason(StrEnum):
    """Why a worker is retired, or a caller refused."""

    MAX_TASKS = "max_tasks"
    MAX_LIFETIME = "max_lifetime"
    MAX_IDLE = "max_idle"
    MAX_RSS = "max_rss"
    MAX_TOTAL_RSS = "max_total_rss"
    ZOMBIES = "zombies"
    TAINTED = "tainted"
    NO_RESET = "no_reset"
    EDITED = "edited"
    ROOM = "room"
    DRAINED = "drained"
    ASKED = "asked"
    DIED = "died"
    START_FAILED = "start_failed"
    CLOSED = "closed"


class TicketState(StrEnum):
    """The state of a ticket: all but WAITING are final, but a granted ticket can be abandoned."""

    WAITING = "waiting"
    GRANTED = "granted"
    REFUSED = "refused"
    ABANDONED = "abandoned"


# Compared by identity, so that it can be a key while its state changes.
class Ticket:
    """A caller's place in the queue of its agent.

    Attributes:
        number: grows with each request; a smaller number has waited longer.
        spec: the agent, as it was defined at the request.
        since: the time of the request.
        state: waiting, granted, refused or abandoned.
        worker: the worker's name once it was granted.
    """

    __slots__ = ("number", "since", "spec", "state", "worker")

    def __init__(self, number: int, spec: AgentSpec, now: float) -> None:
        self.number = number
        self.spec = spec
        self.since = now
        self.state = TicketState.WAITING
        self.worker = ""

    def __repr__(self) -> str:
        return f"<Ticket {self.number} {self.spec.key} {self.state} {self.worker}>"


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers that the scheduler obeys; `None` means no limit. See `Settings` for each."""

    max_size: int = 4
    max_workers: int = 8
    max_waiting: int = 100
    spares: int = 0
    spawn_concurrency: int = 4
    max_tasks: int | None = None
    max_tasks_jitter: float = 0.0
    max_lifetime: float | None = None
    max_lifetime_jitter: float = 0.0
    max_idle: float | None = None
    max_rss: int | None = None
    max_rss_hard: int | None = None
    max_total_rss: int | None = None


@dataclass(slots=True)
class WorkerRecord:
    """A worker, as the scheduler knows it.

    Attributes:
        name: its id.
        number: grows with each worker.
        spec: its agent at present; `None` for a spare.
        profile: how its process was started.
        state: starting, idle, leased, resetting or stopping.
        since: the time from which it has this state.
        task_limit: its own limit of tasks: `max_tasks` less a random part.
        expires: the time at which it is too old: `max_lifetime` less a random part.
        tasks: tasks that it has done.
        rss: resident bytes of its process tree when it was last measured.
        zombies: processes that have ended and stay in the system until this worker ends.
        retiring: why it goes as soon as that costs no caller anything.
        replaces: the worker that it was started to replace; usually empty.
        unfit: why it must not be granted again.
        is_parked: a spare that is started and can be assigned.
        is_switching: it is started already, and becomes another agent.
    """

    name: str
    number: int
    spec: AgentSpec | None
    profile: str
    state: WorkerState
    since: float
    task_limit: float
    expires: float
    tasks: int = 0
    rss: int = 0
    zombies: int = 0
    retiring: RetireReason | None = None
    replaces: str = ""
    unfit: RetireReason | None = None
    is_parked: bool = False
    is_switching: bool = False

    @property
    def key(self) -> AgentKey | None:
        """Return the key of its agent; `None` for a spare."""
        return self.spec.key if self.spec else None


@dataclass(frozen=True, slots=True)
class StateChange:
    """A worker's change of state.

    `previous` is `None` for a new worker, and `state` is `None` for a removed one.
    """

    worker: str
    key: AgentKey | None
    previous: WorkerState | None
    state: WorkerState | None


# Actions


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker, or a blank spare if `spec` is `None`; then call `started`."""

    worker: str
    spec: AgentSpec | None
    profile: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Make a parked spare, or an idle worker, a worker of an agent; then call `started`.

    `previous` is the agent that it was; `None` for a spare.
    """

    worker: str
    spec: AgentSpec
    previous: AgentKey | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """Make a worker forget its task; then call `reset_finished`."""

    worker: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a worker; then call `removed`."""

    worker: str
    reason: RetireReason


@dataclass(frozen=True, slots=True)
class Grant:
    """Give a worker to a waiting caller."""

    ticket: Ticket
    worker: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Refuse a waiting caller: its agent cannot start, or the pool closes."""

    ticket: Ticket
    reason: RetireReason


Action = Spawn | Assign | Reset | Stop | Grant | Refuse
