"""The daemon's life: its lock, its files, its sockets, and the ways in which it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from agent_pool import runtime
from agent_pool.client.start import ENDING, log_file, package_version
from agent_pool.daemon.app import make_app, make_pool
from agent_pool.daemon.dashboard.pages import Dashboard
from agent_pool.daemon.http_server import DaemonHttpServer, Listener
from agent_pool.daemon.idle import IdleWatch
from agent_pool.daemon.lock import DaemonLock
from agent_pool.daemon.log_files import open_log, stop_rotation
from agent_pool.daemon.mcp_faces import McpFaces
from agent_pool.errors import AgentPoolError, ConfigError
from agent_pool.models import OPEN_STATES, TaskFilter
from agent_pool.runtime import DaemonAddress
from agent_pool.settings import Environment, load_settings

log = logging.getLogger("agent_pool")

HOST: Final = "127.0.0.1"
MAX_PRIVATE: Final = 2000
"""Connections of this user's processes on the Unix socket; half of the open files, if that is less.
"""
MAX_TCP: Final = 128
PORT_FILE: Final = "daemon.port"
"""The file with the last TCP port: a page that is open finds the next daemon there."""
OPEN_FILES: Final = 8192
"""Files that this process can have open, if the system permits it; the usual bound is 1,024."""
CONNECTION_SECONDS: Final = 2.0
"""Seconds for connections to end after all tasks have ended."""
CLOSE_MARGIN: Final = 10.0
"""Seconds beyond `close_timeout` after which everything is killed."""
_MOST_COUNTED: Final = 1000


class Daemon:
    """One daemon, from `run` to its end.

    Args:
        environ: its environment: of its settings, its folders and its workers.
        lock: the lock of its runtime folder, which it releases at its end.
        ends_when_idle: end after the setting `daemon_idle` without a client and a task.
        on_ready: called when clients can connect.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        lock: DaemonLock,
        *,
        ends_when_idle: bool = True,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._environ = Environment(environ)
        self._lock = lock
        self._ends_when_idle = ends_when_idle
        self._on_ready = on_ready
        self._started = time.time()
        self._token = secrets.token_urlsafe(32)
        self._has_address = False
        self._relays_end: asyncio.Task[None] | None = None
        self._drain_asked = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._kill_asked = asyncio.Event()

    async def run(self, *, logs_to_stderr: bool = False) -> None:
        """Serve until the end; then nothing of it is left.

        Raises:
            ConfigError: a setting or a folder cannot be used, or the port is taken.
        """
        self._folder = runtime.runtime_folder(self._environ)
        try:
            # After the lock: the log belongs to the daemon that runs.
            open_log(log_file(self._environ), self._environ, to_stderr=logs_to_stderr)
            await self._run()
        except AgentPoolError as error:
            log.error("the daemon cannot run: %s", error)
            raise
        except Exception:
            log.exception("the daemon fails by a bug of its own")
            raise
        finally:
            if self._lock.is_held:  # else the files are those of the next daemon
                self._remove_files()
            self._lock.release()

    async def _run(self) -> None:
        # Before the settings are read: an edit in between makes this daemon outdated.
        stamp = runtime.config_stamp(self._environ)
        self._settings = load_settings(self._environ)
        self._remove_files()
        self._listen_for_signals()
        last = runtime.state_folder(self._environ) / PORT_FILE
        listeners = _bind(self._folder, self._settings.daemon_port, last)
        try:
            self._pool = make_pool(
                self._settings, self._environ, runtime.state_folder(self._environ)
            )
            await self._pool.open()
        except BaseException:
            for listener in listeners:
                listener.socket.close()
            raise
        try:
            await self._serve(listeners, stamp)
        finally:
            self._release_address()
            await self._close_pool()
            log.info("the daemon (pid %d) has ended", os.getpid())

    async def _serve(self, listeners: tuple[Listener, ...], stamp: str) -> None:
        port = listeners[-1].socket.getsockname()[1]
        self._mcp = McpFaces(self._pool, self._settings, self._environ)
        state = runtime.state_folder(self._environ)
        # Elsewhere the kernel does not say whose connection it is, and another user who listened
        # on the port of a daemon that has ended could use the cookie that its page sends there.
        keys = state if sys.platform == "linux" else None
        self._dashboard = Dashboard(self._pool, self._settings, state, self._pool.totals, keys)
        app = make_app(
            self,
            self._pool,
            self._settings,
            self._mcp,
            self._dashboard,
            environ=self._environ,
            token=self._token,
            port=port,
        )
        self._idle = IdleWatch(self._is_busy)
        self._http = DaemonHttpServer(app, listeners, self._idle.touch)
        unsubscribe = self._pool.subscribe(lambda _: self._idle.touch())
        try:
            await self._http.start()
            await self._mcp.start(self._folder / runtime.MCP_SOCKET)
            self._address = self._make_address(port, stamp)
            runtime.write_address(self._folder, self._address)
            self._has_address = True
            self._lock.note("running")
            log.info("the daemon (pid %d) serves %s", os.getpid(), self._address.http_socket)
            self._on_ready()
            await self._until_end()
            await self._finish()
        finally:
            unsubscribe()
            if self._relays_end is not None:
                self._relays_end.cancel()
            self._dashboard.close()
            await self._mcp.close()
            await self._http.finish(0)

    def _make_address(self, port: int, stamp: str) -> DaemonAddress:
        return DaemonAddress(
            pid=os.getpid(),
            version=package_version(),
            started=self._started,
            http_socket=str(self._folder / runtime.HTTP_SOCKET),
            mcp_socket=str(self._folder / runtime.MCP_SOCKET),
            url=f"http://{HOST}:{port}",
            token=self._token,
            scope=runtime.config_scope(self._environ),
            stamp=stamp,
        )

    # The end

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        loop.add_signal_handler(signal.SIGQUIT, self._ask_to_kill)
        loop.add_signal_handler(signal.SIGHUP, self.begin_drain)

    def _ask_to_stop(self) -> None:
        if self._stop_asked.is_set():  # a second Ctrl-C
            self._kill_asked.set()
        self._stop_asked.set()

    def _ask_to_kill(self) -> None:
        self._stop_asked.set()
        self._kill_asked.set()

    def begin_drain(self) -> None:
        """Give the address up, finish the running tasks, then end."""
        if not self._drain_asked.is_set():
            self._drain_asked.set()
            self._release_address()

    def drain_node(self, node: str) -> bool:
        """Let a machine finish its tasks and get no more; return False if there is none."""
        return self._pool.drain_node(node)

    @property
    def is_draining(self) -> bool:
        """Return whether it finishes its tasks and takes no new ones."""
        return self._drain_asked.is_set()

    async def _until_end(self) -> None:
        """Wait until something asks for the end, or the daemon is idle."""
        idle = self._settings.daemon_idle if self._ends_when_idle else None
        waits = [_task(self._drain_asked.wait()), _task(self._stop_asked.wait())]
        if idle is not None:
            waits.append(_task(self._idle.wait(idle)))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()  # an error must not pass for idleness
        finally:
            for one in waits:
                one.cancel()

    async def _finish(self) -> None:
        """Take no new connection, and end what runs, in the way that was asked for."""
        is_idle = not (self._drain_asked.is_set() or self._stop_asked.is_set())
        log.info("the daemon ends: %s", "nobody uses it" if is_idle else "it was asked to")
        self._release_address()
        if self._drain_asked.is_set() and not self._stop_asked.is_set():
            await self._hand_over()
            await _unless(self._stop_asked, self._pool.drain())
        await _unless(self._kill_asked, self._close_pool())
        if self._kill_asked.is_set():
            self._pool.kill()
            await self._close_pool()
        # Clients that waited for a task must get its end.
        await self._http.finish(CONNECTION_SECONDS)
        if self._relays_end is not None:
            await asyncio.wait([self._relays_end], timeout=CONNECTION_SECONDS)

    async def _hand_over(self) -> None:
        """Let the next daemon start while this one finishes its tasks."""
        try:
            await self._pool.hand_over()
        except AgentPoolError as error:
            # The next one can start when this one has ended.
            log.error("the store of tasks cannot be handed over: %s", error)
        else:
            stop_rotation()
            self._lock.release()

    async def _close_pool(self) -> None:
        try:
            async with asyncio.timeout(self._settings.close_timeout + CLOSE_MARGIN):
                await self._pool.close()
        except TimeoutError:
            log.error("the pool did not end in time, so its processes are killed")
            self._pool.kill()

    def _release_address(self) -> None:
        """Take no new connection, so that clients look for the next daemon."""
        if self._has_address:
            self._has_address = False
            self._lock.note(ENDING)
            self._remove_files()
            self._http.stop_listening()
            # In the background: it returns when no call of a client runs.
            self._relays_end = _task(self._mcp.drain())

    def _remove_files(self) -> None:
        for name in (runtime.ADDRESS_FILE, runtime.HTTP_SOCKET, runtime.MCP_SOCKET):
            with suppress(OSError):
                (self._folder / name).unlink()

    # Figures

    async def _is_busy(self) -> bool:
        if self._http.connections or self._mcp.client_count:
            return True
        return bool(await self._pool.tasks(TaskFilter(states=OPEN_STATES, limit=1)))

    async def status(self) -> dict[str, Any]:
        """Return its figures as JSON values, without the token."""
        tasks = await self._pool.tasks(TaskFilter(states=OPEN_STATES, limit=_MOST_COUNTED))
        workers = await self._pool.workers()
        now = time.time()
        return {
            "pid": self._address.pid,
            "version": self._address.version,
            "started": self._address.started,
            "uptime": now - self._address.started,
            "draining": self.is_draining,
            "http_socket": self._address.http_socket,
            "url": self._address.url,
            "log": str(log_file(self._environ)),
            "connections": self._http.connections + self._mcp.client_count,
            "workers": dict(Counter(one.state for one in workers)),
            "tasks": dict(Counter(one.state for one in tasks)),
            "memory": {
                "daemon": psutil.Process().memory_info().rss,
                "workers": sum(one.rss for one in workers),
            },
        }


def _task(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work)


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, Any]) -> None:
    """Do this work, but leave it when the event is set."""
    running, asked = _task(work), _task(event.wait())
    try:
        await asyncio.wait([running, asked], return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
        running.cancel()
        await asyncio.wait([running])
    if not running.cancelled():
        running.result()


def _bind(folder: Path, port: int, last: Path) -> tuple[Listener, ...]:
    """Return the sockets of the HTTP server: the private one, and that of TCP.

    Args:
        folder: the runtime folder.
        port: the TCP port; 0 for that of the daemon before, or any free one.
        last: the file with the port of the daemon before.

    Raises:
        ConfigError: one of them cannot be bound.
    """
    path = folder / runtime.HTTP_SOCKET
    private = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        private.bind(str(path))
        path.chmod(0o600)
    except OSError as error:  # e.g. longer than 107 bytes on Linux, 103 on macOS
        private.close()
        raise ConfigError(
            f"{path}: cannot be made: {error}; name another folder by {runtime.RUNTIME_DIR}"
        ) from None
    # With its protocol named, asyncio switches Nagle's algorithm off, which delays answers.
    public = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Otherwise the port of a daemon that has just ended stays in use (TIME_WAIT).
        public.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind_port(public, port or _last_port(last), is_wanted=bool(port))
    except OSError as error:
        private.close()
        public.close()
        raise ConfigError(
            f"the daemon cannot listen on {HOST}:{port}: {error}; choose another daemon_port, or "
            "0 for any free one"
        ) from None
    with suppress(OSError):  # on a full disk the next daemon has another port
        last.touch(mode=0o600)
        last.write_text(str(public.getsockname()[1]))
    most = min(MAX_PRIVATE, _raise_file_limit() // 2)
    return Listener(private, True, most), Listener(public, False, MAX_TCP)


def _last_port(file: Path) -> int:
    """Return the port of the daemon before this one, which open pages still ask; 0 if unknown."""
    try:
        port = int(file.read_bytes()[:10])
    except (OSError, ValueError):
        return 0
    return port if 1024 <= port <= 65535 else 0


def _bind_port(public: socket.socket, port: int, *, is_wanted: bool) -> None:
    """Bind a port of 127.0.0.1; any other free one if this one is taken and was not asked for."""
    try:
        public.bind((HOST, port))
    except OSError:
        if is_wanted:
            raise
        public.bind((HOST, 0))


def _raise_file_limit() -> int:
    """Let this process open more files; return how many it can open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return OPEN_FILES
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
