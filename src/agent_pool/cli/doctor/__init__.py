"""`agent-pool doctor`: checks of the installation, one finding for each."""

from agent_pool.cli.doctor.command import doctor

__all__ = ["doctor"]
