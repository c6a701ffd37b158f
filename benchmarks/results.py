"""The results of the benchmark, and the statistics on them."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

RESAMPLES: Final = 2000
"""How often the pairs are drawn again for the interval of their ratio."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Input tokens of some requests.

    Attributes:
        written, read: written to and read from the prompt cache.
        uncached: neither written nor read.
    """

    written: int = 0
    read: int = 0
    uncached: int = 0


@dataclass(frozen=True, slots=True)
class TokenUse:
    """The tokens of a method's first tasks.

    Attributes:
        sent: all requests, with every byte counted as it was sent.
        without_header: the same, as if the CLI's attribution header were not part of the prompt.
        session: the part of `sent` that belongs to the session around the agent.
    """

    sent: TokenCounts
    without_header: TokenCounts
    session: TokenCounts


@dataclass(frozen=True, slots=True)
class ProcessSnapshot:
    """All processes of a method at one moment, including the program that asks for the tasks.

    Attributes:
        memory: resident bytes.
        processes: how many.
        cpu: seconds of processor time so far, including processes that have ended.
    """

    memory: int
    processes: int
    cpu: float


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Resident memory around one task.

    Attributes:
        peak: the largest sample during the task, bytes.
        after: after the task and its clean-up, bytes.
        processes: the largest number of processes during the task.
    """

    peak: int
    after: int
    processes: int


@dataclass(slots=True)
class MethodResult:
    """The figures of one method.

    Attributes:
        ready: seconds from the start until it could take the first task.
        tokens: token use up to and including a task, by the task's number.
        memory: memory around a task, by the task's number.
        times: seconds of each timed task.
        paired_times: seconds of each task that was timed in alternation with one other method.
        cpu: seconds of processor time per task, including the clean-up.
        per_second: tasks per second, by the number of tasks at the same time.
        problem: why figures are missing; empty if there was no problem.
    """

    ready: float = 0.0
    tokens: dict[int, TokenUse] = field(default_factory=dict)
    memory: dict[int, MemoryUse] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    paired_times: list[float] = field(default_factory=list)
    cpu: float | None = None
    per_second: dict[int, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def spread(self) -> TimeSpread | None:
        """Return the distribution of `times`, None if no task was timed."""
        return time_spread(self.times) if self.times else None


@dataclass(frozen=True, slots=True)
class TimeSpread:
    """The distribution of several times of the same work, in seconds.

    Attributes:
        fastest: the time with the least disturbance by other programs.
        p90: the 90th percentile.
    """

    median: float
    p90: float
    fastest: float


def time_spread(values: Sequence[float]) -> TimeSpread:
    """Summarise at least one time."""
    return TimeSpread(statistics.median(values), percentile(values, 90), min(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of at least one value, by linear interpolation."""
    place = (len(values) - 1) * percent / 100
    ordered = sorted(values)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class TimeRatio:
    """How many times longer a task takes with one method than with another.

    Attributes:
        median, fastest: the ratio of the medians, and of the fastest tasks.
        cpu: the ratio of the processor times, None if they were not measured.
    """

    median: float
    fastest: float
    cpu: float | None


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two methods whose tasks were timed in alternation, so that noise disturbs both alike.

    Attributes:
        pairs: how many tasks of each method.
        one, other: the times of the two methods.
        ratio: how many times longer a task of `one` takes.
        low, high: the bounds of the 95 % interval of `ratio.median`.
    """

    pairs: int
    one: TimeSpread
    other: TimeSpread
    ratio: TimeRatio
    low: float
    high: float


def ratio_interval(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of two medians, by the bootstrap over pairs.

    Whole pairs are drawn, because the two tasks of a pair met the same noise. The generator has a
    fixed seed: the same times give the same interval.
    """
    pairs = list(zip(one, other, strict=True))
    draw = random.Random(0)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = draw.choices(pairs, k=len(pairs))
        medians = [statistics.median(values) for values in zip(*drawn, strict=True)]
        ratios.append(medians[0] / medians[1])
    return percentile(ratios, 2.5), percentile(ratios, 97.5)


@dataclass(frozen=True, slots=True)
class ProgramStart:
    """The start of a program.

    Attributes:
        seconds: from its start to an answer, or to its end.
        memory: the largest resident size then, in bytes; 0 if it had ended.
    """

    seconds: TimeSpread
    memory: int


@dataclass(slots=True)
class BenchmarkResult:
    """The result of one run.

    Attributes:
        machine: the machine and the versions, each with its label.
        methods: the figures of each method, by its name.
        starts: the starts of the MCP server and of the programs it is compared with.
        noise: how long a fixed piece of work took between the timed tasks.
        duration: seconds of the whole run.
    """

    machine: dict[str, str] = field(default_factory=dict)
    methods: dict[str, MethodResult] = field(default_factory=dict)
    starts: dict[str, ProgramStart] = field(default_factory=dict)
    noise: TimeSpread | None = None
    duration: float = 0.0

    def ratio(self, one: str, other: str) -> TimeRatio | None:
        """Return how many times longer a task takes with method `one` than with `other`.

        None if one of them has no timed task.
        """
        results = self._both(one, other)
        if results is None or not (results[0].times and results[1].times):
            return None
        return _ratio(results, (results[0].times, results[1].times))

    def paired(self, one: str, other: str) -> PairedComparison | None:
        """Compare two methods by the tasks that were timed in alternation.

        None if there are no such tasks.
        """
        results = self._both(one, other)
        if results is None:
            return None
        # The second time of the last pair is missing if its method failed there.
        pairs = min(len(results[0].paired_times), len(results[1].paired_times))
        if not pairs:
            return None
        times = results[0].paired_times[:pairs], results[1].paired_times[:pairs]
        low, high = ratio_interval(*times)
        return PairedComparison(
            pairs, time_spread(times[0]), time_spread(times[1]), _ratio(results, times), low, high
        )

    def _both(self, one: str, other: str) -> tuple[MethodResult, MethodResult] | None:
        results = self.methods.get(one), self.methods.get(other)
        return None if results[0] is None or results[1] is None else (results[0], results[1])


def _ratio(
    results: tuple[MethodResult, MethodResult], times: tuple[Sequence[float], Sequence[float]]
) -> TimeRatio:
    one, other = map(time_spread, times)
    cpu = results[0].cpu, results[1].cpu
    return TimeRatio(
        median=one.median / other.median,
        fastest=one.fastest / other.fastest,
        cpu=cpu[0] / cpu[1] if cpu[0] and cpu[1] else None,
    )
