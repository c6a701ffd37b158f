"""What one server has seen and billed, and who waits for it to see more."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from agent_pool.loopback.books import Books, Line
from agent_pool.loopback.cache import Prompt, PromptCache, Usage
from agent_pool.loopback.request import Request


@dataclass(frozen=True, slots=True)
class OtherRequest:
    """A request that was not a well-formed call of `/v1/messages`, and the status it got."""

    method: str
    path: str
    status: int


class Record:
    """Requests, books and the prompt cache; every change wakes the watchers."""

    def __init__(self, cache: PromptCache, keep: int) -> None:
        self.requests: deque[Request] = deque(maxlen=keep)
        self.others: deque[OtherRequest] = deque(maxlen=keep)
        self.books = Books(keep)
        self.received = 0
        self.script_error: BaseException | None = None
        self._cache = cache
        self._lock = threading.Lock()
        self._watchers: list[tuple[Callable[[], bool], Future[None]]] = []

    def add(self, request: Request) -> None:
        """A call of `/v1/messages` has arrived."""
        self.received += 1
        self.requests.append(request)
        self.changed()

    def add_other(self, request: OtherRequest) -> None:
        """Something else was asked for, and answered."""
        self.others.append(request)
        self.changed()

    def charge(self, request: Request, prompt: Prompt) -> Usage:
        """The price of the request's prompt, its output still to come."""
        return self._cache.charge(prompt, request.received_at)

    def begin(self, request: Request, prompt: Prompt, usage: Usage) -> None:
        """The reply begins: its prompt is cached and billed from now on."""
        self._cache.commit(prompt, request.received_at)
        request.usage = usage
        self.books.enter(Line(request.index, request.model, request.is_side, usage))
        self.changed()

    def watch(self, condition: Callable[[], bool]) -> Future[None]:
        """A future for the moment when `condition()` holds; any thread may call this."""
        future: Future[None] = Future()
        with self._lock:
            self._watchers.append((condition, future))
        self.changed()
        return future

    def changed(self) -> None:
        """Complete every future whose condition holds now."""
        with self._lock:
            self._watchers = [(c, f) for c, f in self._watchers if not _settle(c, f)]


def _settle(condition: Callable[[], bool], future: Future[None]) -> bool:
    """Whether the future needs no further looks."""
    if future.cancelled():
        return True
    error: Exception | None = None
    try:
        if not condition():
            return False
    except Exception as raised:
        error = raised
    if future.set_running_or_notify_cancel():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
    return True
