"""The process that is connected to Ray for a pool; the only module that imports Ray.

Ray aborts the process that uses it when another cluster answers at the address of its own, and some
of its calls wait without a bound for a head that has ended (2.60). In a process of its own neither
can hurt the pool, which starts another one for the next cluster.

    python -P -m agent_pool.cluster.ray_driver FD ADDRESS [WORKING_DIR]

FD is a socket to the pool; the end of it is the end of this process. Frames are the length of a
pickle in four bytes, and the pickle. The first one to the pool is `(0, "made", None)`, or
`(0, "refused", JSON of the error)`. The pool sends:

    (number, "nodes")                           list the nodes, and those that Ray drains
    (number, "start", key, node, class, args)   start an actor on a node
    (number, "call", key, method, args)         call a method of an actor
    (number, "kill", key)                       kill an actor

Each one is answered, in any order: `(number, "made", value)`; `(number, "failed", words)`; or
`(number, "refused", words)` if Ray has not passed a call on, so that the actor does not have it.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal

from agent_pool.errors import AgentPoolError, ConfigError, DaemonUnavailable

HEADER: Final = struct.Struct("!I")
LEAVE_SECONDS: Final = 5.0
"""Seconds for killing the last actors and leaving the cluster when the pool has ended."""
ADVICE: Final = "start a node of it on this machine with `ray start`, or correct the setting ray"

Kind = Literal["made", "failed", "refused"]


def frame(content: object) -> bytes:
    """Return a frame with this content."""
    data = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(data)) + data


class _Driver:
    """The connection to the pool, and the one to Ray."""

    def __init__(self, pool: socket.socket) -> None:
        self._pool = pool
        self._writing = threading.Lock()
        self._ray: Any = None
        self._actors: dict[int, Any] = {}
        self._problems: dict[int, str] = {}
        # What can wait for a head that is away; calls of actors need no head.
        self._slow: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(self, address: str, working_dir: str | None) -> None:
        """Serve the pool until it ends the connection."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the pool that decides
        threading.Thread(target=self._end_with_pool, daemon=True).start()
        try:
            self._ray = _connect(address, working_dir)
        except AgentPoolError as error:
            self._send(0, "refused", error.as_json())
            return
        self._send(0, "made", None)
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        self._serve()
        self._slow.put(self._ray.shutdown)
        self._slow.put(None)
        worker.join(LEAVE_SECONDS)

    def _end_with_pool(self) -> None:
        """End this process some time after the pool, also if another thread waits for Ray."""
        poll = select.poll()
        poll.register(self._pool, getattr(select, "POLLRDHUP", 0))
        poll.poll()
        time.sleep(LEAVE_SECONDS + 1.0)
        os._exit(1)

    def _serve(self) -> None:
        with self._pool.makefile("rb") as incoming:
            while len(header := incoming.read(HEADER.size)) == HEADER.size:
                data = incoming.read(HEADER.unpack(header)[0])
                try:
                    number, method, *arguments = pickle.loads(data)
                except EOFError:  # the pool was killed within a frame
                    return
                getattr(self, f"_do_{method}")(number, *arguments)

    def _work(self) -> None:
        while (step := self._slow.get()) is not None:
            step()

    # What the pool asks for

    def _do_nodes(self, number: int) -> None:
        self._slow.put(partial(self._try, number, partial(_list_nodes, self._ray)))

    def _do_start(
        self, number: int, key: int, node: str, kind: type, arguments: tuple[object, ...]
    ) -> None:
        def start() -> None:
            try:
                self._actors[key] = _start_actor(self._ray, node, kind, arguments)
            except Exception as error:
                self._problems[key] = _words(error)
                raise

        self._slow.put(partial(self._try, number, start))

    def _do_kill(self, number: int, key: int) -> None:
        def kill() -> None:
            self._ray.kill(self._actors.pop(key), no_restart=True)

        self._slow.put(partial(self._try, number, kill))

    def _do_call(self, number: int, key: int, method: str, arguments: tuple[object, ...]) -> None:
        call = partial(self._call, number, key, method, arguments)
        if key in self._actors:
            call()
        else:  # it is being started; or it was killed, which is an error there
            self._slow.put(call)

    def _call(self, number: int, key: int, method: str, arguments: tuple[object, ...]) -> None:
        try:
            answer = getattr(self._actors[key], method).remote(*arguments).future()
        except KeyError:
            self._send(number, "refused", self._problems.get(key, "its actor was killed"))
        except Exception as error:  # an argument cannot be sent
            self._send(number, "refused", _words(error))
        else:
            # Called in a thread of Ray's: a task of asyncio for each call costs more.
            answer.add_done_callback(lambda done: self._try(number, done.result))

    def _try(self, number: int, function: Callable[[], Any]) -> None:
        try:
            value = function()
        except Exception as error:  # Ray raises errors of its own
            self._send(number, "failed", _words(error))
        else:
            self._send(number, "made", value)

    def _send(self, number: int, kind: Kind, value: object) -> None:
        data = frame((number, kind, value))
        try:
            with self._writing:
                self._pool.sendall(data)
        except OSError:  # the pool has ended
            pass


def _words(error: BaseException) -> str:
    return str(error).strip() or repr(error)


def _connect(address: str, working_dir: str | None) -> Any:
    """Join the cluster; return the module of Ray.

    Raises:
        ConfigError: Ray is not installed.
        DaemonUnavailable: there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"the setting ray names the cluster {address}, and Ray cannot be imported "
            f"({error}); run: pip install 'claude-agent-pool[ray]'"
        ) from None
    try:
        ray.init(
            address=address,
            configure_logging=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"working_dir": working_dir} if working_dir else None,
        )
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and more
        raise DaemonUnavailable(
            f"the Ray cluster {address} cannot be reached: {error}; {ADVICE}"
        ) from None
    return ray


def _list_nodes(ray: Any) -> tuple[list[Any], list[str]]:
    """Return the nodes, and the ids of those that Ray drains: `ray drain-node`, its autoscaler."""
    # Not in `ray.nodes`, and in no public function that needs no dashboard (2.60).
    state = getattr(getattr(ray, "_private", None), "state", None)
    find = getattr(getattr(state, "state", None), "get_draining_nodes", dict)
    return ray.nodes(), list(find())


def _start_actor(ray: Any, node: str, kind: type, arguments: tuple[object, ...]) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options = {
        "num_cpus": 0,  # a node can have declared none, and what fits is counted by the pool
        "max_restarts": 0,  # a new one could work beside the old one, see `node_link`
        "max_task_retries": 0,  # no task is given twice
        "max_concurrency": 10_000,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        "name": None,
    }
    return ray.remote(kind).options(**options).remote(*arguments)


def main() -> None:
    """Serve the pool at the other end of the socket until it ends."""
    descriptor, address, *more = sys.argv[1:]
    pool = socket.socket(fileno=int(descriptor))
    try:
        _Driver(pool).run(address, more[0] if more else None)
    finally:
        # Ray's own end waits for a head that is away, and so would the threads.
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
