"""The watchdog: the parent of a pool's processes, which outlives the pool and ends what is left.

    python -I -S watchdog_script.py COOKIE FOLDER POOL SOCKET GROUPS

It runs as a script of the standard library, without any import that costs memory. SOCKET is the
number of its end of a socket pair, POOL the process id of the pool, GROUPS the folder of the pool's
control group, empty without one. The script becomes two
processes, and the process that the pool has started ends at once. So neither is a child of the
pool, and a program that kills all children of the pool does not find them:

* The *starter* forks the workers, tells the pool about their ends, and ends what a worker left
  behind: as a subreaper it is the new parent of every process whose worker has ended. When the pool
  has ended, it kills all of its descendants until there are none.
* The *reaper* is the starter's parent and a subreaper too. It only waits. If the starter is killed,
  even in the same moment as the pool, the workers become the reaper's children and are killed.

    python -I -S watchdog_script.py COOKIE FOLDER

Where processes have no subreapers (macOS), one process waits for the end of its standard input, a
pipe that the pool holds. It finds the pool's processes by the cookie in their environment.

Messages on the socket are a length of four bytes and a tuple in the form of `marshal`, which both
ends can read because they run the same interpreter.
"""

import _signal  # type: ignore[import-not-found]  # `signal` costs half a MiB more
import marshal
import os
import select
import sys
import time

COOKIE_VARIABLE = "AGENT_POOL_COOKIE"
GOODBYE = b"."
PARENT_CHECK_SECONDS = 1.0
SCAN_SECONDS = 0.05
QUIET_SCANS = 20
"""Scans in a row that must find no process: one between fork and exec has no cookie yet."""
# Half a minute: a process that the kernel does not let go must not keep the watchdog for ever.
MOST_SCANS = 600
END_SECONDS = 30.0
ROUND_SECONDS = 0.005
"""Seconds between two rounds of killing; the end of a child cuts it short."""
STARTER_SECONDS = 2.0
"""Seconds that the starter has to end everything after the end of the pool, before the reaper
takes over."""
POOL_END_SECONDS = 0.5
SET_CHILD_SUBREAPER = 36
"""`PR_SET_CHILD_SUBREAPER` of Linux; the attribute survives `exec`."""
MOST_DESCRIPTORS = 16
SESSIONS_ENDING = ".sessions"
"""The ending of the files that name the sessions of a worker; see `remove_outputs_of`."""
_EINVAL = 22
INTEGER_BYTES = 4


# Reading /proc


def read_stat(pid: int) -> list[bytes]:
    """Return the fields of ``/proc/PID/stat`` from the state on; empty if it has ended.

    Field 0 is the state, 1 the parent, 3 the session, 19 the start time in clock ticks.
    """
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        # The name before it can hold spaces and brackets, but no bracket comes after it.
        return os.read(file, 4096).rpartition(b")")[2].split()
    except OSError:  # ESRCH: it ended between the two calls
        return []
    finally:
        os.close(file)


def has_children_lists() -> bool:
    """Check whether this kernel lists the children of a thread (``CONFIG_PROC_CHILDREN``)."""
    return os.access(f"/proc/self/task/{os.getpid()}/children", os.R_OK)


def listed_children(pid: int) -> list[int]:
    """Return the children of a process by the kernel's own lists, which every thread has."""
    found = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - pathlib costs 3 MB here
    except OSError:
        return []
    for thread in threads:
        try:
            file = os.open(f"/proc/{pid}/task/{thread}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            while part := os.read(file, 65536):
                found.append(part)
        except OSError:
            continue
        finally:
            os.close(file)
    return list(map(int, b" ".join(found).split()))


def scanned_children() -> dict[int, list[int]]:
    """Return the children of all processes, by their parents, from a scan of /proc."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and (fields := read_stat(int(name))):
            found.setdefault(int(fields[1]), []).append(int(name))
    return found


def descendants(pid: int, skip: frozenset[int] = frozenset()) -> list[tuple[int, int]]:
    """Return pid and start time of the living descendants of a process.

    Args:
        pid: the process, which is no part of the answer.
        skip: children that are left out with everything below them.
    """
    table = None if has_children_lists() else scanned_children()
    found = []
    pending = [pid]
    while pending:
        parent = pending.pop()
        children = listed_children(parent) if table is None else table.get(parent, [])
        for child in children:
            if parent == pid and child in skip:
                continue
            fields = read_stat(child)
            if not fields:
                continue
            pending.append(child)
            if fields[0] not in (b"Z", b"X"):  # an ended process whose parent does not reap it
                found.append((child, int(fields[19])))
    return found


def kill_exactly(pid: int, start: int, number: int = 9) -> None:
    """Send a signal to the process with this pid and start time, and to no other.

    The kernel can give the pid to another process at any time. A pidfd stays with the process for
    which it was opened, so the start time is compared after that.
    """
    try:
        handle = os.pidfd_open(pid)
    except (OSError, AttributeError) as error:
        # Linux before 5.3, or a filter of system calls that does not know it.
        if not isinstance(error, ProcessLookupError) and _started(pid) == start:
            _kill(pid, number)
        return
    try:
        if _started(pid) == start:
            _signal.pidfd_send_signal(handle, number)
    except OSError:  # it has ended, or belongs to another user
        pass
    finally:
        os.close(handle)


def _started(pid: int) -> int:
    fields = read_stat(pid)
    return int(fields[19]) if fields else -1


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:  # it has ended, or belongs to another user
        pass


def end_descendants(on_exit=lambda pid, status: None, wait=time.sleep) -> None:  # type: ignore[no-untyped-def]
    """Kill everything that descends from this process, until there is nothing left.

    A killed process hands its children to this one, so no descendant is lost between two rounds.

    Args:
        on_exit: called with pid and wait status of each child that has ended.
        wait: waits at most so many seconds for the end of a child.
    """
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline and reap(on_exit):
        for pid, start in descendants(os.getpid()):
            kill_exactly(pid, start)
        wait(ROUND_SECONDS)


def reap(on_exit) -> bool:  # type: ignore[no-untyped-def]
    """Take the ends of all children that have ended; return whether there are other children."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        on_exit(pid, status)


# The pool's folders


def folder_prefix(cookie: str) -> str:
    """Return the beginning of the names of a pool's temporary folders."""
    return f"agent-pool-{cookie.partition('/')[0]}-"


def remove_folders(place: str, cookie: str) -> None:
    """Remove the pool's folders in `place`, which can hold secrets, and what they tell of."""
    for name in os.listdir(place):  # noqa: PTH208
        whole = os.path.join(place, name)  # noqa: PTH118
        # Others can make folders and links in this place, too. The pool makes private ones.
        if name.startswith(folder_prefix(cookie)) and is_own_folder(whole, 0o077):
            remove_outputs(whole)
            remove_tree(os.fsencode(whole))


def is_own_folder(path: "str | bytes", forbidden: int = 0) -> bool:
    """Check whether a path is a folder of this user, no link, and without these permissions."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    is_folder = status.st_mode & 0o170000 == 0o040000
    return is_folder and status.st_uid == os.geteuid() and not status.st_mode & forbidden


def remove_tree(path: bytes) -> None:
    """Remove a folder and everything in it; links are removed and not followed."""
    # Bottom up, because a folder must be empty to be removed.
    for folder, folders, files in os.walk(path, topdown=False):
        for entry in (*files, *folders):
            _remove(os.path.join(folder, entry))  # noqa: PTH118
    _remove(path)


def remove_outputs(folder: str) -> None:
    """Remove the outputs of commands that the CLI has kept for the workers of a pool's folder.

    It keeps large ones in ``projects/PROJECT/SESSION/tool-results`` of its own folder, and removes
    them only if it ends in order (2.1.332).
    """
    for name in os.listdir(folder):  # noqa: PTH208
        if name.endswith(SESSIONS_ENDING):
            remove_outputs_of(os.path.join(folder, name))  # noqa: PTH118


def remove_outputs_of(path: str) -> None:
    """Remove the kept outputs of one worker.

    Args:
        path: a file whose first line is the folder of all projects, and each other line
            ``PROJECT/SESSION``.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            place, *sessions = file.read().splitlines()
    except (OSError, ValueError):  # there is no such file, or it is empty
        return
    for session in sessions:
        whole = os.path.join(place, session)  # noqa: PTH118
        outputs = os.path.join(whole, b"tool-results")  # noqa: PTH118
        if is_own_folder(whole) and is_own_folder(outputs):
            remove_tree(outputs)
            _remove(whole)  # unless something else is in it


def remove_groups(path: str) -> None:
    """Remove the control groups of the pool's workers, in which nothing is left."""
    for folder, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(folder)  # noqa: PTH106
        except OSError:  # a process that the kernel does not let go
            pass


def _remove(path: "str | bytes") -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except OSError:  # a folder, which is empty by now
        try:
            os.rmdir(path)  # noqa: PTH106
        except OSError:
            pass


# The starter


class PoolEndedError(Exception):
    """The reason why the starter has to end everything."""


class Starter:
    """Forks processes for the pool, and tells it about their ends.

    Args:
        connection: the socket to the pool.
        poller: has this socket, the pool's pidfd and the pipe to the reaper already.
        reaper: the reading end of a pipe whose other end only the reaper has.
        pool: what tells whether the pool lives.
    """

    def __init__(self, connection, reaper: int, pool) -> None:  # type: ignore[no-untyped-def]
        self._connection = connection
        self._reaper = reaper
        self._pool = pool
        self._in = b""
        self._descriptors: list[int] = []
        self._out: list[tuple[bytes, list[int]]] = []
        self._requests: dict[int, int] = {}  # by the pid of the process that was started for it
        self._errors: dict[int, int] = {}  # pids by the pipe on which a failed `exec` is reported
        self._handles: dict[int, list[int]] = {}  # pidfds of these, for the pool
        self._failed: set[int] = set()
        self._unswept: list[int] = []  # requests whose process left others behind, perhaps
        self._sweeps = 0
        self._woken, wakes = os.pipe()
        for end in (self._woken, wakes):
            os.set_blocking(end, False)
        # A handler of Python's, because only then the signal writes into the pipe.
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.set_wakeup_fd(wakes)
        self._poller = select.poll()
        for end in (connection, self._woken, reaper, *pool.descriptors):
            self._poller.register(end, select.POLLIN)

    def serve(self) -> None:
        """Serve the pool until it says goodbye or ends.

        Raises:
            PoolEndedError: the pool, or the reaper, has ended.
        """
        while True:
            if not self._pool.lives():
                raise PoolEndedError
            ready = {number for number, _ in self._poller.poll(self._timeout())}
            if self._reaper in ready:
                raise PoolEndedError
            for number in ready & set(self._errors):
                self._finish_start(number)
            if self._woken in ready:
                os.read(self._woken, 4096)
            reap(self._note_exit)
            self._flush()
            if self._connection.fileno() in ready and self._receive():
                return
            if self._unswept:
                self._sweep()

    def end_all(self) -> None:
        """Kill everything that was started and everything below it; report the ends."""
        end_descendants(self._note_exit, self._wait_for_end)
        self._flush()

    def _timeout(self) -> float:
        seconds = self._pool.check_seconds
        if self._unswept:
            # Slower and slower: what the kernel does not let go must not cost processor time.
            seconds = min(seconds, ROUND_SECONDS * 2 ** min(self._sweeps // 20, 8))
        return float(seconds * 1000)

    def _wait_for_end(self, seconds: float) -> None:
        if select.select([self._woken], [], [], seconds)[0]:
            os.read(self._woken, 4096)

    def _receive(self) -> bool:
        """Read what the pool has sent; return whether it was the goodbye."""
        try:
            data, ancillary, _, _ = self._connection.recvmsg(
                65536,
                16 + INTEGER_BYTES * MOST_DESCRIPTORS,
                0x40000000,  # MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:  # ECONNRESET: the pool ended with messages of ours unread
            raise PoolEndedError from None
        for _, _, packed in ancillary:
            self._descriptors += [
                int.from_bytes(packed[at : at + INTEGER_BYTES], sys.byteorder)
                for at in range(0, len(packed), INTEGER_BYTES)
            ]
        if not data:
            raise PoolEndedError
        self._in += data
        while (message := self._next_message()) is not None:
            if not message:
                return True
            # The kernel delivers descriptors not later than the bytes with which they were sent.
            given, self._descriptors = self._descriptors[:3], self._descriptors[3:]
            try:
                self._start(given, *message)
            except OSError as error:  # no more processes or descriptors are allowed
                self._send(("failed", message[0], error.errno or 0, False))
            for number in given:
                os.close(number)
        return False

    def _next_message(self) -> "tuple | None":  # type: ignore[type-arg]
        size = int.from_bytes(self._in[:INTEGER_BYTES], "big")
        end = INTEGER_BYTES + size
        if len(self._in) < INTEGER_BYTES or len(self._in) < end:
            return None
        message, self._in = self._in[INTEGER_BYTES:end], self._in[end:]
        return marshal.loads(message)  # type: ignore[no-any-return]

    def _start(
        self,
        given: list[int],
        request: int,
        argv: list[bytes],
        environment: dict[bytes, bytes],
        folder: bytes,
        group: bytes,
    ) -> None:
        error, reports = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(error)
            os.close(reports)
            raise
        if pid == 0:
            become(argv, environment, folder, group, given, reports)
        os.close(reports)
        self._requests[pid] = request
        try:
            # Not reaped yet, so the number is still that of this process.
            self._handles[pid] = [os.pidfd_open(pid)]
        except (OSError, AttributeError):
            self._handles[pid] = []
        self._errors[error] = pid
        self._poller.register(error, select.POLLIN)

    def _finish_start(self, error: int) -> None:
        self._poller.unregister(error)
        pid = self._errors.pop(error)
        # `exec` closes the other end, so nothing to read means success.
        report = os.read(error, 64)
        os.close(error)
        request, handle = self._requests[pid], self._handles.pop(pid)
        if report:
            self._failed.add(pid)
            for opened in handle:
                os.close(opened)
            number, _, place = report.partition(b" ")
            self._send(("failed", request, int(number), place == b"folder"))
        else:
            self._send(("started", request, pid), handle)

    def _note_exit(self, pid: int, status: int) -> None:
        for error, starting in list(self._errors.items()):
            if starting == pid:  # it ended before its start was noticed
                self._finish_start(error)
        request = self._requests.pop(pid, None)
        if request is None:  # what a worker left behind
            return
        if pid in self._failed:
            self._failed.discard(pid)
            return
        self._send(("exited", request, os.waitstatus_to_exitcode(status)))
        self._unswept.append(request)
        self._sweeps = 0

    def _sweep(self) -> None:
        """Kill what ended workers left behind; report it when there is nothing left."""
        left = descendants(os.getpid(), frozenset(self._requests))
        for pid, start in left:
            kill_exactly(pid, start)
        self._sweeps += 1
        if not left:
            swept, self._unswept = self._unswept, []
            for request in swept:
                self._send(("swept", request))

    def _send(
        self, message: "tuple[str | int, ...]", descriptors: "list[int] | None" = None
    ) -> None:
        data = marshal.dumps(message)
        self._out.append((len(data).to_bytes(INTEGER_BYTES, "big") + data, descriptors or []))
        self._flush()

    def _flush(self) -> None:
        # Never waits: a pool that is stopped (SIGSTOP) must not keep this process from its work.
        while self._out:
            data, descriptors = self._out[0]
            ancillary = [(1, 1, pack(descriptors))] if descriptors else []  # SOL_SOCKET, SCM_RIGHTS
            try:
                sent = self._connection.sendmsg([data], ancillary)
            except BlockingIOError:
                self._poller.modify(self._connection, select.POLLIN | select.POLLOUT)
                return
            except OSError:  # EPIPE: the pool has ended, which `_receive` finds out
                sent = len(data)
            for number in descriptors:
                os.close(number)
            self._out[:1] = [(data[sent:], [])] if sent < len(data) else []
        self._poller.modify(self._connection, select.POLLIN)

    def greet(self, pids: "tuple[int, int]", descriptors: "list[int]") -> None:
        """Tell the pool that the watchdog stands.

        Args:
            pids: of the starter and of the reaper.
            descriptors: the pidfds of both; empty on a kernel without them.
        """
        self._send(("ready", *pids), descriptors)


def pack(descriptors: "list[int]") -> bytes:
    """Return numbers of descriptors as the kernel wants them."""
    return b"".join(number.to_bytes(INTEGER_BYTES, sys.byteorder) for number in descriptors)


def become(
    argv: "list[bytes]",
    environment: "dict[bytes, bytes]",
    folder: bytes,
    group: bytes,
    given: "list[int]",
    reports: int,
) -> None:
    """Turn this forked child into the program that the pool asked for; never return.

    Args:
        argv: the command; its first word is a path.
        environment: the whole environment.
        folder: where it works.
        group: the file by which a process enters its cgroup; empty without one.
        given: the descriptors that become its stdin, stdout and stderr.
        reports: the pipe for the error number of a failure. Every other descriptor of this process
            is closed by `exec`.
    """
    place = b"program"
    try:
        os.setsid()
        become_subreaper()
        if group:
            _enter(group)
        for number, descriptor in enumerate(given):
            os.dup2(descriptor, number)
        # Ignored signals and a signal mask would outlive `exec`.
        for number in range(1, _signal.NSIG):
            reset_signal(number)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        place = b"folder"
        os.chdir(folder)
        place = b"program"
        os.execve(argv[0], argv, environment)
    except BaseException as error:  # it must not return into the starter's loop
        code = error.errno if isinstance(error, OSError) else None
        os.write(reports, b"%d %s" % (code or _EINVAL, place))
    finally:
        os._exit(127)


def _enter(group: bytes) -> None:
    try:
        file = os.open(group, os.O_WRONLY | os.O_CLOEXEC)
        os.write(file, b"0")
        os.close(file)
    except OSError:  # removed or forbidden meanwhile: the process is found by its parents too
        pass


def reset_signal(number: int) -> None:
    """Give a signal its default effect."""
    try:
        _signal.signal(number, _signal.SIG_DFL)
    except (OSError, ValueError):  # SIGKILL, SIGSTOP, and numbers that libc keeps for itself
        pass


def become_subreaper() -> None:
    """Let the kernel make this process the new parent of descendants whose parent has ended."""
    _prctl(SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    # `ctypes` itself costs half a MiB more, in each of the two processes.
    import _ctypes

    itself = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
    function = _ctypes.dlsym(itself, "prctl")
    if _ctypes.call_function(function, (option, value, 0, 0, 0)) != 0:
        raise OSError("prctl was refused")


class PoolProcess:
    """The pool's process, watched from a process that is not its child.

    The end of the socket is not enough: a child that the pool's process forked can hold it open.

    Attributes:
        descriptors: to be polled; readable when the pool has ended.
        check_seconds: the seconds after which `lives` must be asked again.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._start = _started(pid)
        try:
            self.descriptors = [os.pidfd_open(pid)]
        except (OSError, AttributeError):
            self.descriptors = []
        self.check_seconds = 3600.0 if self.descriptors else PARENT_CHECK_SECONDS

    def lives(self, seconds: float = 0) -> bool:
        """Check whether it has not ended; wait so many seconds for its end."""
        if self.descriptors:
            return not select.select(self.descriptors, [], [], seconds)[0]
        return self._start == _started(self._pid)


def watch(cookie: str, place: str, pid: int, number: int, groups: str) -> None:
    """Become the reaper and the starter; return in neither.

    Args:
        cookie: the pool's cookie, which its folders have in their names.
        place: the folder for temporary files.
        pid: the pool's process.
        number: the socket.
        groups: the folder of the pool's control group; empty without one.
    """
    import _socket

    def clean_up() -> None:
        remove_folders(place, cookie)
        if groups:
            remove_groups(groups)

    os.set_inheritable(number, False)
    pool = PoolProcess(pid)
    # Asked after the pidfd was opened: as long as it is the parent, the pid is that of the pool.
    if os.getppid() != pid:  # the pool was killed meanwhile
        clean_up()
        os._exit(0)
    if os.fork():
        os._exit(0)
    become_subreaper()
    own = os.getpid()
    reaper, held = os.pipe()
    starter = os.fork()
    if starter == 0:
        os.close(held)
        connection = _socket.socket(fileno=number)
        connection.setblocking(False)
        start_for_pool(connection, reaper, pool, own, clean_up)
        os._exit(0)
    os.close(reaper)
    os.close(number)
    was_killed = wait_for_starter(starter, pool) != 0
    end_descendants()
    # Otherwise the starter has done it. Not if it was killed alone: the pool goes on with another
    # watchdog. A large process takes some time to end.
    if was_killed and not pool.lives(POOL_END_SECONDS):
        clean_up()
    os._exit(0)


def start_for_pool(connection, reaper: int, pool: PoolProcess, parent: int, clean_up) -> None:  # type: ignore[no-untyped-def]
    """Start processes until the pool or the reaper ends, then end all of them."""
    become_subreaper()
    starter = Starter(connection, reaper, pool)
    try:
        handles = [os.pidfd_open(os.getpid()), os.pidfd_open(parent)]
    except (OSError, AttributeError):
        handles = []
    starter.greet((os.getpid(), parent), handles)
    try:
        starter.serve()
    except PoolEndedError:
        starter.end_all()
        # Not if the reaper was killed alone: the pool goes on with another watchdog.
        if os.getppid() == parent or not pool.lives():
            clean_up()
        return
    starter.end_all()


def wait_for_starter(starter: int, pool: PoolProcess) -> int:
    """Wait until the starter has ended, and return its status; kill it if it outlives the pool.

    A starter that was stopped (SIGSTOP) does not.
    """
    try:
        handle = os.pidfd_open(starter)
    except (OSError, AttributeError):
        return os.waitpid(starter, 0)[1]
    has_ended = handle in select.select([handle, *pool.descriptors], [], [])[0]
    if not has_ended and not select.select([handle], [], [], STARTER_SECONDS)[0]:
        _kill(starter, 9)
    os.close(handle)
    return os.waitpid(starter, 0)[1]


# Without subreapers


def with_cookie(cookie: str) -> list[int]:
    """Return the pids of the processes whose cookie begins with `cookie` and a slash."""
    if os.path.isdir("/proc/self"):  # noqa: PTH112 - importing pathlib costs 3 MB here
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))  # noqa: PTH208
        return [pid for pid in pids if _has_cookie(pid, cookie)]
    return _with_cookie_by_ps(cookie)


def _has_cookie(pid: int, cookie: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            environ = b"\0" + file.read()
    except OSError:  # it has ended, or belongs to another user
        return False
    return b"\0%s=%s/" % (COOKIE_VARIABLE.encode(), cookie.encode()) in environ


def _with_cookie_by_ps(cookie: str) -> list[int]:
    import subprocess  # costs 3 MB, and only macOS needs it: there is no /proc

    output = subprocess.run(
        ["/bin/ps", "-axwwE", "-o", "pid=,command="], capture_output=True, text=True, check=False
    ).stdout
    mark = f" {COOKIE_VARIABLE}={cookie}/"
    return [int(line.split(None, 1)[0]) for line in output.splitlines() if mark in line]


def kill_all(cookie: str) -> None:
    """Kill every process with the cookie, and scan again until no process is found."""
    quiet = 0
    for _ in range(MOST_SCANS):
        found = with_cookie(cookie)
        for pid in found:
            _kill(pid, 9)
        quiet = 0 if found else quiet + 1
        if quiet >= QUIET_SCANS:
            return
        time.sleep(SCAN_SECONDS)


def wait_for_end() -> bool:
    """Wait until the pool ends; return whether it ended without a goodbye."""
    parent = os.getppid()
    while not select.select([0], [], [], PARENT_CHECK_SECONDS)[0]:
        # A child that the pool's process forked can hold the pipe open after the pool's death;
        # the kernel then gives us another parent.
        if os.getppid() != parent:
            return True
    # The end of the pipe reads as no bytes at all.
    return os.read(0, 1) != GOODBYE


def watch_by_cookie(cookie: str, place: str) -> None:
    """Wait for the end of the pool, then clean up if it was killed."""
    if wait_for_end():
        kill_all(cookie)
        remove_folders(place, cookie)


def main(cookie: str, place: str, *more: str) -> None:
    """Watch the pool in the way that the arguments name."""
    # Ctrl-C and a closed terminal reach the whole process group: the pool ends by them, and the
    # watchdog must outlive it.
    for ignored in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(ignored, _signal.SIG_IGN)
    if more:
        pid, number, groups = more
        watch(cookie, place, int(pid), int(number), groups)
    else:
        watch_by_cookie(cookie, place)


if __name__ == "__main__":
    main(*sys.argv[1:])
