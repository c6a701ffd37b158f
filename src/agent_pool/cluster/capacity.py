"""How many workers fit on a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent_pool.settings import Settings

DEFAULT_WORKER_BYTES: Final = 768 << 20
"""The memory that is counted for a worker where the setting `max_rss` is off."""


def node_size(resources: Mapping[str, float], settings: Settings) -> int:
    """Return how many workers fit on a node; 0 if none does.

    Args:
        resources: what the node has declared to Ray: cores as ``CPU``, bytes as ``memory``.
        settings: `ray_workers` is the number where it is set; otherwise each worker counts as a
            core and `max_rss` bytes. It is never more than `max_workers`.
    """
    if settings.ray_workers is not None:
        return min(settings.ray_workers, settings.max_workers)
    fits = [settings.max_workers, int(resources.get("CPU", 0.0))]
    if "memory" in resources:
        fits.append(int(resources["memory"] // (settings.max_rss or DEFAULT_WORKER_BYTES)))
    return max(0, min(fits))
