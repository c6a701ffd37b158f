"""The pool that the commands use; the one place of the command line that chooses which."""

from __future__ import annotations

from collections.abc import Mapping

from agent_pool import PoolAPI, Settings


def make_pool(settings: Settings, environ: Mapping[str, str] | None = None) -> PoolAPI:
    """Return a pool with these settings, not open yet.

    Args:
        settings: the settings of the pool.
        environ: the environment of its workers; by default that of this process.

    Raises:
        ConfigError: a setting is wrong.
    """
    from agent_pool import AgentPool  # it takes half of the start-up time of a command

    return AgentPool(settings, environ=environ)
