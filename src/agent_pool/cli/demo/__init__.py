"""`agent-pool demo`: compares a pool with a new `claude -p` process for each task."""

from agent_pool.cli.demo.command import demo

__all__ = ["demo"]
