"""What the core tells its shell to do, and what the two call things."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class AgentRef:
    """An agent as the core sees it.

    Attributes:
        name: workers are shared, limited and queued for by it.
        version: changes when the definition does; workers of another version are retired.
        flags: workers with equal flags start as interchangeable blank processes.
    """

    name: str
    version: str
    flags: str


class WorkerState(StrEnum):
    """Where a worker stands."""

    STARTING = "starting"
    IDLE = "idle"
    LEASED = "leased"
    RESETTING = "resetting"
    STOPPING = "stopping"


class Reason(StrEnum):
    """Why a worker was retired."""

    MAX_TASKS = "max_tasks"
    MAX_LIFETIME = "max_lifetime"
    MAX_IDLE = "max_idle"
    MAX_RSS = "max_rss"
    MAX_TOTAL_RSS = "max_total_rss"
    TAINTED = "tainted"
    NO_RESET = "no_reset"
    EDITED = "edited"
    ROOM = "room"
    DRAINED = "drained"
    ASKED = "asked"
    DIED = "died"
    START_FAILED = "start_failed"
    CLOSED = "closed"


class Ticket:
    """A place in the queue; `worker` is set when it was granted."""

    __slots__ = ("number", "ref", "since", "state", "worker")

    def __init__(self, number: int, ref: AgentRef, now: float) -> None:
        self.number = number
        self.ref = ref
        self.since = now
        self.state = TicketState.WAITING
        self.worker = ""

    def __repr__(self) -> str:
        return f"<Ticket {self.number} {self.ref.name} {self.state} {self.worker}>"


class TicketState(StrEnum):
    """Where a ticket stands; all but WAITING are final, but a granted one may be given back."""

    WAITING = "waiting"
    GRANTED = "granted"
    REFUSED = "refused"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker; as a blank spare when `ref` is None."""

    worker: str
    ref: AgentRef | None
    flags: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make a spare, parked or about to be, into an agent."""

    worker: str
    ref: AgentRef


@dataclass(frozen=True, slots=True)
class Reset:
    """Make a worker forget its task, then report `was_reset`."""

    worker: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End a worker, then report `gone`."""

    worker: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Grant:
    """Give a worker to a waiting caller."""

    ticket: Ticket
    worker: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell a waiting caller that it is not served: its agent cannot start, or the pool ends."""

    ticket: Ticket
    reason: Reason


Action = Spawn | Adopt | Reset | Stop | Grant | Refuse
