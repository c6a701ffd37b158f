"""The pool's side of its watchdog, which starts the workers and cleans up if the pool is killed."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import itertools
import logging
import marshal
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from agent_pool.claude import watchdog_script
from agent_pool.claude.cgroups import PoolGroups, WorkerGroup, find_groups
from agent_pool.claude.cookies import CookieSearch
from agent_pool.claude.process_tree import KernelSearch, ProcessSearch, read_process
from agent_pool.claude.started_process import OwnPipes, StartedProcess
from agent_pool.claude.watchdog_script import has_children_lists
from agent_pool.errors import ConfigError

log = logging.getLogger("agent_pool")

P = TypeVar("P", bound=asyncio.SubprocessProtocol)

HAS_SUBREAPERS = sys.platform == "linux"
"""Whether a process can be made the parent of those that lose theirs."""
START_TRIES: Final = 3
"""Times that a start is tried whose watchdog ends before the process stands."""
_STEADY_SECONDS: Final = 1.0
"""Seconds after which a watchdog that ends is replaced at once, and not only for the next start."""
_FIRST_SECONDS: Final = 1.0
_GOODBYE: Final = marshal.dumps(())


class Watchdog:
    """The watchdog of one pool, started before the pool's first worker.

    Args:
        cookie: the cookie that the pool's processes have in their environment.
    """

    def __init__(self, cookie: str) -> None:
        self.cookie = cookie
        self._connection: _Connection | None = None
        self._by_cookie = _CookieWatchdog(cookie)
        self._adopts = HAS_SUBREAPERS
        self._failures = 0
        self._kernel_search: KernelSearch | None = None
        self._cookie_search = CookieSearch()
        self._groups = _useful_groups(cookie) if HAS_SUBREAPERS else None
        self._is_over = False

    @property
    def pid(self) -> int | None:
        """Return its process id; `None` before the start and after the goodbye."""
        connection = self._connection
        return connection.pid if connection is not None else self._by_cookie.pid

    @property
    def has_run(self) -> bool:
        """Return whether it was started and not dismissed."""
        return self._connection is not None or self._by_cookie.pid is not None

    @property
    def search(self) -> ProcessSearch:
        """Return how the processes are found that it starts now."""
        if not self._adopts:
            return self._cookie_search
        self._kernel_search = self._kernel_search or KernelSearch()
        return self._kernel_search

    def start(self) -> None:
        """Start it unless it runs; log a warning where that is impossible.

        Raises:
            ConnectionAbortedError: it was dismissed; another one would never be.
        """
        if self._is_over:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the pool's watchdog has ended")
        if self._adopts and self._connection is None:
            try:
                groups = str(self._groups.path) if self._groups is not None else ""
                self._connection = _Connection(self.cookie, groups, self._lost)
            except OSError as error:
                self._adopts = False
                log.debug("the watchdog cannot be the parent of the workers: %s", error)
        if not self._adopts:
            self._by_cookie.start()

    def make_group(self, memory: int | None) -> WorkerGroup | None:
        """Make a control group for a worker with this limit; `None` where there are none."""
        return self._groups.make(memory) if self._groups is not None and self._adopts else None

    async def subprocess_exec(
        self,
        make_protocol: Callable[[], P],
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        group: WorkerGroup | None = None,
    ) -> P:
        """Start a process like `loop.subprocess_exec`, as the leader of a session of its own.

        It starts in `group`, if there is one.

        Raises:
            OSError: the system refused, or the watchdog was dismissed.
        """
        for _ in range(2 * START_TRIES):
            self.start()
            if self._connection is None:
                break
            try:
                return await self._connection.start(make_protocol, argv, env, cwd, group)
            except ConnectionError:
                # It ended before the process stood, and took with it what it had started.
                continue
        loop = asyncio.get_running_loop()
        _, protocol = await loop.subprocess_exec(
            make_protocol, *argv, env=dict(env), cwd=cwd, start_new_session=True
        )
        return protocol

    def _lost(self, connection: _Connection) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        if self._is_over:
            return
        if connection.was_ready:
            self._failures = 0
            log.warning("the watchdog (pid %s) was killed, and its workers with it", connection.pid)
            if connection.age > _STEADY_SECONDS:
                self.start()
            return
        self._failures += 1
        if self._failures >= START_TRIES:
            self._adopts = False
            log.warning(
                "the watchdog ends at its start, so processes that agents leave behind are found "
                "by their environment only"
            )

    def end_all(self) -> None:
        """Let it kill everything that it has started, without waiting."""
        self._is_over = True
        if self._connection is not None:
            self._connection.say_goodbye()

    def dismiss(self, timeout: float) -> None:
        """Say goodbye and block until it has ended; kill it after `timeout` seconds.

        What it has started ends with it.
        """
        self._is_over = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.dismiss(timeout)
        if self._groups is not None:
            self._groups.remove()
        self._by_cookie.dismiss(timeout)


class _Connection:
    """One running watchdog that is the parent of the workers.

    Args:
        cookie: the pool's cookie.
        groups: the folder of the pool's control group; empty without one.
        on_lost: called when it has ended without a goodbye.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, cookie: str, groups: str, on_lost: Callable[[_Connection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._socket, theirs = socket.socketpair()
        try:
            self._first = subprocess.Popen(
                # -I and -S: PYTHON* variables and site-packages have no effect on it.
                [
                    *(sys.executable, "-I", "-S", watchdog_script.__file__, cookie),
                    *(tempfile.gettempdir(), str(os.getpid()), str(theirs.fileno()), groups),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # A signal to our process group must not reach it: it has to outlive us.
                start_new_session=True,
                env={"PATH": os.defpath},
                cwd="/",
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self._socket.setblocking(False)
        self._started_at = time.monotonic()
        self._data = bytearray()
        self._descriptors: list[int] = []
        self._handles: list[int] = []
        self._numbers = itertools.count(1)
        self._starting: dict[int, asyncio.Future[None]] = {}
        self._processes: dict[int, StartedProcess] = {}
        self._starts: set[asyncio.Task[Any]] = set()
        self._sending = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None
        self._said_goodbye = False
        self._is_over = False
        self._reaper = 0
        self.pid: int | None = None
        self._loop.add_reader(self._socket, self._read)

    @property
    def was_ready(self) -> bool:
        """Return whether it has ever answered."""
        return self.pid is not None

    @property
    def age(self) -> float:
        """Return the seconds since its start."""
        return time.monotonic() - self._started_at

    # Starting processes

    async def start(
        self,
        make_protocol: Callable[[], P],
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        group: WorkerGroup | None,
    ) -> P:
        """Start a process.

        Raises:
            ConnectionError: the watchdog has ended.
            OSError: the system refused.
        """
        # A task of its own: a half message would make all later ones unreadable, and the process of
        # a caller that has left must be ended.
        start = self._loop.create_task(self._start(make_protocol, argv, env, cwd, group))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)
        try:
            protocol, _ = await asyncio.shield(start)
        except asyncio.CancelledError:
            start.add_done_callback(_abandon)
            raise
        return protocol

    async def _start(
        self,
        make_protocol: Callable[[], P],
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        group: WorkerGroup | None,
    ) -> tuple[P, StartedProcess]:
        program = _find_program(argv[0], env)
        protocol = make_protocol()
        number = next(self._numbers)
        request = (
            number,
            [os.fsencode(program), *map(os.fsencode, argv[1:])],
            {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
            os.fsencode(cwd),
            os.fsencode(group.entrance) if group is not None else b"",
        )
        # Before the request: the answer and the exit can come in one piece.
        process = self._processes[number] = StartedProcess(protocol)
        pipes = OwnPipes()
        try:
            answer = self._starting[number] = self._loop.create_future()
            # If the request cannot be sent, its answer is awaited by nothing.
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
            await self._send(marshal.dumps(request), pipes.theirs)
            pipes.close_theirs()
            await answer
            await pipes.connect(process)
        except BaseException as error:
            self._processes.pop(number, None)
            pipes.close()
            process.close()
            if isinstance(error, _StartError):
                place = str(cwd) if error.is_folder else program
                raise OSError(error.number, os.strerror(error.number), place) from None
            raise
        finally:
            self._starting.pop(number, None)
        process.begin()
        return protocol, process

    async def _send(self, message: bytes, descriptors: Sequence[int]) -> None:
        data = len(message).to_bytes(watchdog_script.INTEGER_BYTES, "big") + message
        async with self._sending:
            # An environment can be larger than the buffer of the socket.
            while data:
                if self._is_over:
                    raise ConnectionResetError("the watchdog has ended")
                try:
                    sent = socket.send_fds(self._socket, [data], list(descriptors))
                except BlockingIOError:
                    await self._until_writable()
                else:
                    data, descriptors = data[sent:], ()

    async def _until_writable(self) -> None:
        writable = self._writable = self._loop.create_future()
        self._loop.add_writer(self._socket, _set_done, writable)
        try:
            await writable
        finally:
            self._writable = None
            if not self._is_over:
                self._loop.remove_writer(self._socket)

    # Hearing from it

    def _read(self) -> None:
        if not self._receive():
            self._end()
            self._on_lost(self)

    def _receive(self) -> bool:
        """Read what it has sent; return whether it can send more."""
        try:
            size = socket.CMSG_SPACE(watchdog_script.MOST_DESCRIPTORS * array.array("i").itemsize)
            data, ancillary, _, _ = self._socket.recvmsg(65536, size, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for _, _, packed in ancillary:
            numbers = array.array("i")
            numbers.frombytes(packed[: len(packed) - len(packed) % numbers.itemsize])
            self._descriptors += numbers
        self._data += data
        for message in self._messages():
            self._dispatch(*message)
        return bool(data)

    def _messages(self) -> list[tuple[Any, ...]]:
        found = []
        head = watchdog_script.INTEGER_BYTES
        while len(self._data) >= head:
            end = head + int.from_bytes(self._data[:head], "big")
            if len(self._data) < end:
                break
            found.append(marshal.loads(self._data[head:end]))
            del self._data[:end]
        return found

    def _dispatch(self, kind: str, number: int, *more: Any) -> None:
        if kind == "ready":
            self.pid, (self._reaper,) = number, more
            self._handles, self._descriptors = self._descriptors[:2], self._descriptors[2:]
            # The first of its processes ends now. Waited for, so that it leaves no zombie.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._first.wait(_FIRST_SECONDS)
        elif kind == "started":
            handle = self._descriptors.pop(0) if self._descriptors else None
            self._processes[number].identify(more[0], handle)
            self._answer(number)
        elif kind == "failed":
            self._answer(number, _StartError(*more))
        elif kind == "exited":
            self._processes[number].exited(more[0])
        else:
            self._processes.pop(number).swept.set()

    def _answer(self, number: int, error: Exception | None = None) -> None:
        answer = self._starting[number]
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    # Its end

    def _end(self) -> None:
        """Close the connection and end what is left of the processes."""
        if self._is_over:
            return
        self._is_over = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._socket.close()
        if self._writable is not None:
            _set_done(self._writable)
        for answer in self._starting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the watchdog has ended"))
        # Its reaper does the same, unless that was killed too.
        for process in list(self._processes.values()):
            process.lost()
        for handle in (*self._handles, *self._descriptors):
            os.close(handle)
        self._handles, self._descriptors = [], []
        if self._first.poll() is None:
            self._first.kill()
            self._first.wait()

    def say_goodbye(self) -> None:
        """Let it end everything and then itself, without waiting."""
        if self._said_goodbye or self._is_over:
            return
        self._said_goodbye = True
        size = len(_GOODBYE).to_bytes(watchdog_script.INTEGER_BYTES, "big")
        try:
            # Behind a half message it would not be understood; the end of the socket is.
            if self._sending.locked() or self._socket.send(size + _GOODBYE) <= len(size):
                self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            log.debug("the watchdog does not hear the goodbye: %s", error)

    def dismiss(self, timeout: float) -> None:
        """Say goodbye and block until it has ended; kill it after `timeout` seconds."""
        if self._is_over:
            return
        self.say_goodbye()
        deadline = time.monotonic() + timeout
        while self._wait_readable(self._socket, deadline) and self._receive():
            pass
        for handle in self._handles:
            if not self._wait_readable(handle, deadline):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        self._reap(deadline)
        self._end()

    def _wait_readable(self, file: Any, deadline: float) -> bool:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def _reap(self, deadline: float) -> None:
        # The reaper is our child if this process adopts orphans: as the first process of a
        # container, or as a subreaper.
        while self._reaper and _lives(self._reaper) and time.monotonic() < deadline:
            time.sleep(0.001)


def _lives(pid: int) -> bool:
    """Check whether a process that has to end is still there; take its end if it is our child."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        process = read_process(pid)
        return process is not None and not process.is_zombie


class _StartError(Exception):
    """The system refused a start, by this error number."""

    def __init__(self, number: int, is_folder: bool) -> None:
        super().__init__(number)
        self.number = number
        self.is_folder = is_folder


def _abandon(start: asyncio.Task[tuple[Any, StartedProcess]]) -> None:
    """End the process of a caller that has left before it stood."""
    if not start.cancelled() and start.exception() is None:
        _, process = start.result()
        process.kill()
        process.close()


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _find_program(name: str, env: Mapping[str, str]) -> str:
    """Return the path of a program; a name is looked for in the PATH of the process itself."""
    if os.sep in name:
        return name
    # If it is nowhere, the system's own error names it.
    return shutil.which(name, path=env.get("PATH", os.defpath)) or name


class _CookieWatchdog:
    """The watchdog where there are no subreapers: it finds processes by their cookie."""

    def __init__(self, cookie: str) -> None:
        self._cookie = cookie
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it unless it runs; log a warning where that is impossible."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self.dismiss(0)  # it was killed: free its pipe before another one is started
        script = watchdog_script.__file__
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", script, self._cookie, tempfile.gettempdir()],
                # The kernel closes our end of this pipe even if we get SIGKILL.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={"PATH": os.defpath},
                cwd="/",
            )
        except OSError as error:
            log.warning(
                "the watchdog cannot be started, so agents stay if this process is killed: %s",
                error,
            )

    def dismiss(self, timeout: float) -> None:
        """Say goodbye and block until it has ended; kill it after `timeout` seconds.

        Call it after all workers have ended.
        """
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(watchdog_script.GOODBYE)
            process.stdin.close()
        except OSError as error:
            log.debug("the watchdog had ended before: %s", error)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _useful_groups(cookie: str) -> PoolGroups | None:
    """Return the control groups of a pool; `None` if none can be made, or they are of no use."""
    groups = find_groups(f"agent-pool-{cookie.partition('/')[0]}")
    # To enter a group takes a process 5 to 14 ms (Linux 6.18), a thirtieth of the CLI's start. It
    # is worth that if the kernel adds up the memory, or has no other list of the processes.
    is_useful = groups is not None and (groups.has_memory or not has_children_lists())
    return groups if is_useful else None


def describe_process_search() -> str:
    """Return how pools find, measure and end what workers start on this machine, for people."""
    if not HAS_SUBREAPERS:
        return f"found by {CookieSearch.way}, because this system has no subreapers"
    groups, way = _useful_groups("doctor"), KernelSearch().way
    if groups is None:
        return f"found and measured one by one, by {way}; there is no cgroup that adds up memory"
    place = groups.path.parent
    if groups.has_memory:
        return f"found by {way}; cgroups in {place} add up and limit the memory, and kill"
    return f"found and killed by cgroups in {place}, and measured one by one"


def make_run_folder(cookie: str) -> Path:
    """Make a private folder for the pool's temporary files; the watchdog knows it by its name.

    Raises:
        ConfigError: no temporary folder can be made.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=watchdog_script.folder_prefix(cookie)))
    except OSError as error:
        raise ConfigError(
            f"no temporary folder can be made: {error}; free some space, or correct TMPDIR"
        ) from None
