"""What was measured."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tokens:
    """What some tasks took from the prompt cache's point of view.

    Attributes:
        written, read: to and from the cache.
        plain: neither written nor read.
    """

    written: int = 0
    read: int = 0
    plain: int = 0


@dataclass(frozen=True, slots=True)
class Accounts:
    """The tokens of the first tasks of a way.

    Attributes:
        sent: of all requests, with every byte counted as it was sent.
        headless: the same, had the CLI's attribution header not been part of the prompt.
        beside: what of `sent` was not for the agent itself, but for the session around it.
    """

    sent: Tokens
    headless: Tokens
    beside: Tokens


@dataclass(frozen=True, slots=True)
class Census:
    """All processes of a way, the one that asks for the tasks included.

    Attributes:
        memory: resident bytes.
        processes: how many.
        cpu: seconds of processor time so far, of those that have ended too.
    """

    memory: int
    processes: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory around one task.

    Attributes:
        busy: the most that was seen during the task, bytes.
        rest: when everything was cleaned up after it, bytes.
        processes: the most that were seen during the task.
    """

    busy: int
    rest: int
    processes: int


@dataclass(slots=True)
class Figures:
    """What was measured of one way.

    Attributes:
        ready: seconds until the first task could be given.
        tokens: of the first tasks, by their number.
        memory: around a task, by its number.
        times: seconds of each timed task.
        cpu: seconds of processor time a task, cleaning up included.
        per_second: tasks a second, by how many at once.
        problem: why there is no more; empty if there is no problem.
    """

    ready: float = 0.0
    tokens: dict[int, Accounts] = field(default_factory=dict)
    memory: dict[int, Memory] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    cpu: float | None = None
    per_second: dict[int, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def median(self) -> float | None:
        """Seconds a task, None if none was timed."""
        return statistics.median(self.times) if self.times else None

    @property
    def p90(self) -> float | None:
        """Seconds that nine of ten tasks stayed below."""
        return percentile(self.times, 90)

    @property
    def least(self) -> float | None:
        """Seconds of the fastest task: what is left when a machine's noise is least."""
        return min(self.times, default=None)


def percentile(values: list[float], percent: int) -> float | None:
    """A percentile by linear interpolation; None of nothing."""
    if not values:
        return None
    place = (len(values) - 1) * percent / 100
    ordered = sorted(values)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class Spread:
    """How long the same thing took on several tries, in seconds."""

    least: float
    median: float
    p90: float


def spread(values: list[float]) -> Spread:
    """Of at least one value."""
    return Spread(min(values), statistics.median(values), percentile(values, 90) or 0.0)


@dataclass(frozen=True, slots=True)
class Start:
    """The start of a program.

    Attributes:
        seconds: from its spawn to an answer, or to its end.
        memory: resident bytes then.
    """

    seconds: Spread
    memory: int


@dataclass(slots=True)
class Result:
    """One run of the benchmark.

    Attributes:
        machine: what it ran on, and the versions, for people.
        ways: the figures, by the way's name.
        starts: of the MCP server and of what it is compared with.
        noise: how long a fixed piece of work took between the timed tasks: the machine's noise.
        duration: seconds of the whole run.
    """

    machine: dict[str, str] = field(default_factory=dict)
    ways: dict[str, Figures] = field(default_factory=dict)
    starts: dict[str, Start] = field(default_factory=dict)
    noise: Spread | None = None
    duration: float = 0.0

    def ratio(self, one: str, other: str) -> tuple[float, float, float] | None:
        """How many times longer a task takes one way than the other: median, least, CPU time.

        None where one of them was not measured.
        """
        pairs = [
            (getattr(self.ways.get(one), name, None), getattr(self.ways.get(other), name, None))
            for name in ("median", "least", "cpu")
        ]
        found = [a / b for a, b in pairs if a is not None and b]
        return (found[0], found[1], found[2]) if len(found) == 3 else None
