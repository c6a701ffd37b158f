"""The pool that the commands use; the one place of the command line that chooses which.

A task that is to outlive its command needs the daemon, which `connect_tasks` starts. Every other
command uses the daemon where one runs that has this process's settings, else a pool of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agent_pool.errors import ConfigError
from agent_pool.runtime import (
    DAEMON_SWITCH,
    DaemonAddress,
    config_scope,
    config_stamp,
    find_daemon,
    fits_scope,
    is_daemon_wanted,
)

if TYPE_CHECKING:
    from agent_pool import PoolAPI, RemotePool, Settings, TaskAPI


def make_pool(settings: Settings, environ: Mapping[str, str] | None = None) -> PoolAPI:
    """Return a pool of this process with these settings, not open yet.

    Args:
        settings: the settings of the pool.
        environ: the environment of its workers; by default that of this process.

    Raises:
        ConfigError: a setting is wrong.
    """
    from agent_pool import AgentPool  # it takes half of the start-up time of a command

    return AgentPool(settings, environ=environ)


def find_pool(settings: Settings) -> PoolAPI:
    """Return the pool of the daemon where one runs, else one of this process; not open yet.

    With a cluster it is always the daemon, which is started: it alone has the nodes.

    Raises:
        ConfigError: a setting is wrong, or the daemon of a cluster is switched off.
        DaemonUnavailable: the daemon of a cluster cannot be started.
    """
    if settings.ray is not None:
        return connect_tasks(settings.project_dir)
    return find_tasks(settings.project_dir) or make_pool(settings)


def find_tasks(project: Path | None = None) -> TaskAPI | None:
    """Return the pool of the daemon, not open yet; None if none runs that can serve this process.

    Raises:
        ConfigError: `AGENT_POOL_DAEMON` has a wrong value.
    """
    return _connect(project, start=False) if usable_daemon() is not None else None


def connect_tasks(project: Path | None = None) -> RemotePool:
    """Return the pool of the daemon, not open yet; start the daemon if it does not run.

    Args:
        project: the project of tasks that name none; None for this process's.

    Raises:
        ConfigError: the daemon is switched off.
        DaemonUnavailable: it cannot be started.
    """
    if not is_daemon_wanted(os.environ):
        raise ConfigError(
            "this command needs the daemon, which keeps tasks and runs them, and "
            f"{DAEMON_SWITCH}=off switches it off; unset the variable, or use `agent-pool run`"
        )
    return _connect(project, start=True)


def usable_daemon() -> DaemonAddress | None:
    """Return the address of the daemon that can serve this process; None if there is none.

    Raises:
        ConfigError: `AGENT_POOL_DAEMON` has a wrong value.
    """
    if not is_daemon_wanted(os.environ):
        return None
    address = find_daemon(os.environ)
    if address is None or not fits_scope(config_scope(os.environ), address.scope):
        return None
    # A daemon with an older settings file is replaced by the next start, not used as it is.
    return address if address.stamp == config_stamp(os.environ) else None


def _connect(project: Path | None, *, start: bool) -> RemotePool:
    from agent_pool import connect  # its HTTP client takes a while to import

    return connect(project=project, environ=os.environ, start=start)
