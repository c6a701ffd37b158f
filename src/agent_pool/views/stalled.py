"""Which running tasks stand still: their step has not changed for some time."""

from __future__ import annotations

from collections.abc import Iterable

from agent_pool.models import TaskRecord
from agent_pool.views.rows import STALLED_SECONDS


class StepAges:
    """How long each running task has been at the same step, as one viewer has seen it."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[str, float]] = {}

    def is_stalled(self, record: TaskRecord, now: float) -> bool:
        """Check whether the task's step has been the same for `STALLED_SECONDS`.

        Args:
            record: the task.
            now: seconds on a clock that only goes forward.
        """
        if record.state != "running":
            return False
        # Tokens count as a step: a long answer changes them and not the line.
        step = f"{record.line}\0{record.usage}"
        known, since = self._steps.get(record.id, ("", 0.0))
        if known != step:
            since = now
            self._steps[record.id] = (step, since)
        return now - since >= STALLED_SECONDS

    def forget_others(self, records: Iterable[TaskRecord]) -> None:
        """Forget all tasks but these."""
        for task_id in self._steps.keys() - {one.id for one in records}:
            del self._steps[task_id]
