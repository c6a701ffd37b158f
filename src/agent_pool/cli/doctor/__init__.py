"""`agent-pool doctor`: what is found and what is wrong, in one screen."""

from agent_pool.cli.doctor.command import doctor

__all__ = ["doctor"]
