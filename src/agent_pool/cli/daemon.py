"""`agent-pool daemon`: the one process that serves all sessions and programs of a user."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from agent_pool.cli.command import Command, json_option
from agent_pool.cli.output import echo, print_json
from agent_pool.cli.service_files import find_service, write_service
from agent_pool.client import start as client
from agent_pool.errors import ConfigError, DaemonUnavailable
from agent_pool.runtime import DaemonAddress, find_daemon
from agent_pool.text import mebibytes, seconds_text

NOT_RUNNING: Final = 3
"""Exit status of `status`, as that of init scripts."""
STOP_MARGIN: Final = 20.0
"""Seconds beyond `close_timeout` in which a daemon that was asked to stop must have ended."""
NOW_SECONDS: Final = 10.0
"""Seconds in which it must have ended with `--now`; then it is killed."""
FOLLOW_SECONDS: Final = 0.25
RAY_VARIABLE: Final = "AGENT_POOL_RAY"


@click.group(invoke_without_command=True, no_args_is_help=True)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Run the tasks on the nodes of this Ray cluster: HOST:PORT of its head, or auto; the same "
    "as the setting ray. Without a command the daemon runs in the foreground.",
)
@click.pass_context
def daemon(ctx: click.Context, ray: str | None) -> None:
    """Control the daemon: one pool for all sessions and programs.

    Clients start it when they need it, and it ends by itself when it was idle for long. These
    commands are for people who want to see or control it.

    \b
    Example:
      agent-pool daemon status
      agent-pool daemon logs --follow
      agent-pool daemon --ray 10.0.0.1:6379 start
    """
    if ray is not None:
        # In the environment: the daemon is another process, and its clients compare settings.
        os.environ[RAY_VARIABLE] = ray.removeprefix("ray://")
    if ctx.invoked_subcommand is None:
        ctx.invoke(run)


@daemon.command(cls=Command)
@click.option("--detach", is_flag=True, hidden=True)
@click.option("--stay", is_flag=True, help="Do not end when nobody uses it.")
def run(detach: bool, stay: bool) -> None:
    """Run the daemon in the foreground until it is stopped.

    SIGTERM or Ctrl-C stops it: running tasks get the time of close_timeout. SIGHUP lets it finish
    its running tasks first. SIGQUIT stops it at once.
    """
    if detach:
        from agent_pool.daemon import run_detached

        run_detached(os.environ, ends_when_idle=not stay)
        return
    from agent_pool.daemon import run_daemon

    run_daemon(os.environ, ends_when_idle=not stay, logs_to_stderr=True)


@daemon.command(cls=Command)
@json_option
def start(as_json: bool) -> None:
    """Start the daemon in the background, or find the one that runs; print its address."""
    address = client.ensure_daemon(os.environ)
    if as_json:
        print_json(_address_value(address))
    else:
        echo(f"The daemon runs: pid {address.pid}, {address.http_socket}, {address.url}")


def _address_value(address: DaemonAddress) -> dict[str, Any]:
    """Return the address without its token."""
    return {
        "pid": address.pid,
        "version": address.version,
        "http_socket": address.http_socket,
        "mcp_socket": address.mcp_socket,
        "url": address.url,
    }


@daemon.command(cls=Command)
@click.option("--now", is_flag=True, help="Interrupt running tasks at once.")
def stop(now: bool) -> None:
    """Stop the daemon, and wait until it is gone.

    Running tasks get the time of the setting close_timeout; queued ones stay in the store and run
    with the next daemon.
    """
    pid = _running_pid()
    if pid == 0:
        echo("No daemon runs.")
        return
    seconds = NOW_SECONDS if now else _stop_seconds()
    _send(pid, signal.SIGQUIT if now else signal.SIGTERM)
    if not _wait_gone(pid, seconds):
        if not now:
            raise DaemonUnavailable(
                f"the daemon (pid {pid}) has not ended within {seconds:g} s; "
                "`agent-pool daemon stop --now` ends it at once"
            )
        _send(pid, signal.SIGKILL)  # the watchdog ends its workers
        _wait_gone(pid, seconds)
    echo(f"The daemon (pid {pid}) has ended.")


def _running_pid() -> int:
    """Return the pid of the process that holds the lock; 0 if none does."""
    from agent_pool.runtime import is_locked, runtime_folder

    if address := find_daemon(os.environ):
        return address.pid
    folder = runtime_folder(os.environ)
    # Without an address it is starting, or it ends and finishes its tasks.
    return client.lock_state(folder)[0] if is_locked(folder) else 0


def _stop_seconds() -> float:
    from agent_pool.settings import load_settings

    return load_settings().close_timeout + STOP_MARGIN


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has just ended
        pass


def _wait_gone(pid: int, seconds: float) -> bool:
    import psutil

    try:
        psutil.Process(pid).wait(seconds)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@daemon.command(cls=Command)
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show the running daemon: pid, version, workers, tasks, memory. Exit status 3 without one."""
    address = find_daemon(os.environ)
    if address is None or not client.accepts(address):
        if as_json:
            print_json({"running": False})
        else:
            echo("No daemon runs.")
        ctx.exit(NOT_RUNNING)
    reply = client.ask(address, "GET", "/v1/daemon")
    if reply.status != 200:
        raise DaemonUnavailable(f"the daemon (pid {address.pid}) answers with {reply.status}")
    value = json.loads(reply.body)
    if as_json:
        print_json({"running": True, **value})
    else:
        echo(format_status(value))


def format_status(value: dict[str, Any]) -> str:
    """Return the figures of a daemon for people."""
    memory = value["memory"]
    rows = {
        "pid": str(value["pid"]),
        "version": value["version"],
        "up": seconds_text(value["uptime"]),
        "address": f"{value['http_socket']}, {value['url']}",
        "log": value["log"],
        "connections": str(value["connections"]),
        "workers": _counts(value["workers"]),
        "tasks": _counts(value["tasks"]),
        "memory": f"{mebibytes(memory['daemon'])}, workers {mebibytes(memory['workers'])}",
    }
    if value["draining"]:
        rows["state"] = "finishes its running tasks, then ends"
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "none"


@daemon.command(cls=Command, name="drain-node")
@click.argument("node")
@json_option
def drain_node(node: str, as_json: bool) -> None:
    """Let a machine of the daemon's Ray cluster finish its tasks, and give it no more.

    Then its workers end. It gets tasks again when Ray is started anew on it. `agent-pool stats`
    lists the machines.

    \b
    Example:
      agent-pool daemon drain-node blue
    """
    address = find_daemon(os.environ)
    if address is None or not client.accepts(address):
        raise DaemonUnavailable("no daemon runs, so no machine has tasks")
    reply = client.ask(address, "POST", f"/v1/daemon/nodes/{quote(node, safe='')}/drain")
    if reply.status != 202:
        raise ConfigError(
            f"the daemon (pid {address.pid}) has no machine {node!r} that gets tasks; "
            "`agent-pool stats` lists its machines"
        )
    if as_json:
        print_json(json.loads(reply.body))
    else:
        echo(f"{node}: gets no more tasks, and leaves after those that it has")


@daemon.command(cls=Command)
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(0, 10_000))
@click.option("-f", "--follow", is_flag=True, help="Print new lines until Ctrl-C.")
def logs(lines: int, follow: bool) -> None:
    """Print the end of the daemon's log."""
    path = client.log_file(os.environ)
    if not path.exists():
        echo(f"{path} does not exist: no daemon has run yet.", err=True)
        if not follow:
            return
    position = path.stat().st_size if path.exists() else 0
    if lines and (tail := client.log_tail(path, lines, max_bytes=lines * 1000)):
        echo(tail)
    while follow:
        time.sleep(FOLLOW_SECONDS)
        position = _print_new(path, position)


def _print_new(path: Path, position: int) -> int:
    """Print what the file has after `position`; return the new position."""
    try:
        size = path.stat().st_size
        if size < position:  # the log was replaced by a new file
            position = 0
        if size > position:
            with path.open("rb") as file:
                file.seek(position)
                text = file.read(size - position)
            echo(text.decode("utf-8", "replace"), end="")
        return size
    except OSError:
        return position


@daemon.command(cls=Command)
@click.option("--print", "prints", is_flag=True, help="Print the file; write and start nothing.")
def install(prints: bool) -> None:
    """Let the system start the daemon with your login: systemd on Linux, launchd on macOS.

    This is not needed: clients start the daemon themselves.
    """
    service = find_service(os.environ)
    if prints:
        echo(service.text, end="")
        return
    write_service(service)
    echo(f"Written: {service.path}")
    for line in service.enable():
        echo(line)


@daemon.command(cls=Command)
def uninstall() -> None:
    """Undo `agent-pool daemon install`."""
    service = find_service(os.environ)
    if not service.path.exists():
        echo(f"{service.path} does not exist: nothing to undo.")
        return
    for line in service.disable():
        echo(line)
    service.path.unlink()
    echo(f"Removed: {service.path}")
