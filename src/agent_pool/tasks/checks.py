"""Checks of the fields of a request that only a store uses."""

from __future__ import annotations

import math
from typing import Final

from agent_pool.errors import ConfigError
from agent_pool.models import TaskFilter, TaskRequest

MAX_PRIORITY: Final = 1_000_000
MAX_KEY: Final = 512
MAX_ID: Final = 128
MAX_FOUND: Final = 1000


def check_store_fields(request: TaskRequest, task_id: str | None) -> None:
    """Check what the store needs of a request.

    Raises:
        ConfigError: a field is wrong; the message names it.
    """
    priority = request.priority
    if type(priority) is not int or abs(priority) > MAX_PRIORITY:
        raise ConfigError(
            f"priority: expected a whole number from -{MAX_PRIORITY:,} to {MAX_PRIORITY:,}, "
            f"found {priority!r:.80}"
        )
    for name in ("not_before", "deadline"):
        _check_time(name, getattr(request, name))
    _check_name("idempotency_key", request.idempotency_key, MAX_KEY)
    _check_name("parent", request.parent, MAX_ID)
    _check_name("task_id", task_id, MAX_ID)


def _check_time(name: str, value: object) -> None:
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(float(value)) or float(value) < 0:  # type: ignore[arg-type]
        raise ConfigError(f"{name}: expected seconds since 1970, found {value!r:.80}")


def _check_name(name: str, value: object, most: int) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise ConfigError(f"{name}: expected 1 to {most} printable characters, found {value!r:.80}")


def check_filter(wanted: TaskFilter) -> None:
    """Check a filter.

    Raises:
        ConfigError: its limit is out of bounds.
    """
    if type(wanted.limit) is not int or not 1 <= wanted.limit <= MAX_FOUND:
        raise ConfigError(f"limit: expected 1 to {MAX_FOUND:,}, found {wanted.limit!r:.80}")
