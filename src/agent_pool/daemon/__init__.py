"""The daemon: one pool for all sessions and programs of a user."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def run_daemon(
    environ: Mapping[str, str],
    *,
    ends_when_idle: bool = True,
    logs_to_stderr: bool = False,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Run the daemon in this process until it is stopped, drained or idle.

    Args:
        environ: its environment.
        ends_when_idle: end after the setting `daemon_idle` without a client and a task.
        logs_to_stderr: write each line of the log to stderr too.
        on_ready: called when clients can connect.

    Raises:
        DaemonUnavailable: another daemon of this user runs.
        ConfigError: a setting or a folder cannot be used, or the port is taken.
    """
    from agent_pool.daemon.lock import take_lock
    from agent_pool.errors import DaemonUnavailable
    from agent_pool.runtime import make_private, runtime_folder

    lock = take_lock(make_private(runtime_folder(environ)))
    if lock is None:
        raise DaemonUnavailable("a daemon of this user runs already")
    lock.note("starting")
    # After the lock: of many processes that start a daemon at once, only one loads all of it.
    from agent_pool.mcp.loading import lean_imports

    with lean_imports():
        import asyncio

        from agent_pool.daemon.server import Daemon

    daemon = Daemon(environ, lock, ends_when_idle=ends_when_idle, on_ready=on_ready)
    asyncio.run(daemon.run(logs_to_stderr=logs_to_stderr))


def run_detached(environ: Mapping[str, str], *, ends_when_idle: bool = True) -> None:
    """Run the daemon in a new process in the background; return there at its end.

    This process ends when the new one is ready, or when it has failed, with its exit status. That
    another daemon runs already is no failure here: the starter uses that one.

    Raises:
        ConfigError: as `run_daemon`, in the new process.
    """
    from agent_pool.daemon.detach import detach
    from agent_pool.errors import DaemonUnavailable

    ready = detach()
    try:
        run_daemon(environ, ends_when_idle=ends_when_idle, on_ready=ready)
    except DaemonUnavailable:
        return
