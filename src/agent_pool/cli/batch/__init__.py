"""`agent-pool batch`: many tasks side by side, from JSON Lines to JSON Lines."""

from agent_pool.cli.batch.command import batch

__all__ = ["batch"]
