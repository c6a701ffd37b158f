"""`connect`: the daemon's pool for a program."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Final

from agent_pool.client.connection import FindDaemon
from agent_pool.client.remote_pool import RemotePool
from agent_pool.client.start import ensure_daemon
from agent_pool.errors import ConfigError, DaemonUnavailable
from agent_pool.runtime import DAEMON_SWITCH, DaemonAddress, find_daemon, is_daemon_wanted
from agent_pool.settings import Environment, load_settings

URL_SCHEMES: Final = ("http://", "https://")
RAY_SCHEME: Final = "ray://"
RAY_VARIABLE: Final = "AGENT_POOL_RAY"


def connect(
    project: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    url: str | None = None,
    token: str | None = None,
    start: bool = True,
) -> RemotePool:
    """Return the pool of this user's daemon, not open yet: ``async with connect() as pool``.

    ``connect("ray://HOST:PORT")`` is the daemon whose tasks run on the nodes of this Ray cluster.

    Args:
        project: the folder of calls that name none; by default that of the settings, which is the
            current one.
        environ: the environment that settings, the daemon's place and the tasks' variables come
            from; by default that of this process.
        url: the URL of the daemon's TCP port, instead of its Unix socket; or the ``ray://`` URL of
            a cluster.
        token: the bearer token for `url`.
        start: start the daemon if none runs.

    Raises:
        ConfigError: an argument or a setting is wrong, or ``AGENT_POOL_DAEMON`` is ``off``.
    """
    if url is None and isinstance(project, str) and project.startswith(RAY_SCHEME):
        project, url = None, project
    variables = Environment(environ)
    if url is not None and token is None and url.startswith(RAY_SCHEME):
        # A setting as any other: the daemon that is found must have the same.
        variables, url = Environment({**variables, RAY_VARIABLE: url}), None
    settings = load_settings(variables)
    if url is None and token is None:
        if not is_daemon_wanted(variables):
            raise ConfigError(
                f"{DAEMON_SWITCH} is off, so there is no daemon to connect to; use AgentPool, or "
                "unset the variable"
            )
        find = _finder(variables, start)
        return RemotePool(project=project, settings=settings, environ=variables, find=find)
    if url is None or not url.startswith(URL_SCHEMES):
        raise ConfigError(f"url: expected http://127.0.0.1:PORT, found {url!r}")
    return RemotePool(url, token=token or "", project=project, settings=settings, environ=variables)


def _finder(environ: Mapping[str, str], start: bool) -> FindDaemon:
    async def find() -> DaemonAddress:
        if start:
            # In a thread: it waits for a process.
            return await asyncio.to_thread(ensure_daemon, environ)
        address = await asyncio.to_thread(find_daemon, environ)
        if address is None:
            raise DaemonUnavailable("no daemon runs; start it with `agent-pool daemon start`")
        return address

    return find
