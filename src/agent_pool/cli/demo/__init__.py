"""`agent-pool demo`: a pool at work beside a new process for each task, measured."""

from agent_pool.cli.demo.command import demo

__all__ = ["demo"]
