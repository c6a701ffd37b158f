"""`agent-pool bench`: every way to give an agent tasks, measured in one run."""

from typing import Any


def __getattr__(name: str) -> Any:
    """The command, loaded when it is wanted: the drivers are measured, and must be slim."""
    if name == "bench":
        from agent_pool.cli.bench.command import bench

        return bench
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
