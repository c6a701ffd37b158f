"""The requests of one server, their usage, and the conditions that callers wait for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from agent_pool.loopback.cache import PromptCache, PromptPrefixes
from agent_pool.loopback.request import ModelRequest
from agent_pool.loopback.usage import ApiUsage, UsageEntry, UsageLog


@dataclass(frozen=True, slots=True)
class OtherRequest:
    """A request that was not a well-formed call of `/v1/messages`, and its response's status."""

    method: str
    path: str
    status: int


class RequestLog:
    """The requests, the usage and the prompt cache of one server.

    Each change checks the conditions of `watch`.

    Args:
        cache: the prompt cache.
        keep: how many requests, other requests and usage entries are kept.

    Attributes:
        requests: the last well-formed calls of `/v1/messages`, oldest first.
        other_requests: the last other requests, oldest first.
        usage: the tokens of all requests.
        received: how many well-formed calls of `/v1/messages` have arrived.
        script_error: the first exception of the script, or of sending its answer.
    """

    def __init__(self, cache: PromptCache, keep: int) -> None:
        self.requests: deque[ModelRequest] = deque(maxlen=keep)
        self.other_requests: deque[OtherRequest] = deque(maxlen=keep)
        self.usage = UsageLog(keep)
        self.received = 0
        self.script_error: BaseException | None = None
        self._cache = cache
        # `watch` runs in the callers' threads, the other methods in the server's thread.
        self._lock = threading.Lock()
        self._watchers: list[tuple[Callable[[], bool], Future[None]]] = []

    def add(self, request: ModelRequest) -> None:
        """Add a call of `/v1/messages` that has arrived."""
        self.received += 1
        self.requests.append(request)
        self.check_conditions()

    def add_other(self, request: OtherRequest) -> None:
        """Add another request."""
        self.other_requests.append(request)
        self.check_conditions()

    def read_cache(self, request: ModelRequest, prompt: PromptPrefixes) -> ApiUsage:
        """Count the tokens of the request's prompt; `output_tokens` is 0."""
        return self._cache.read(prompt, request.received_at)

    def start_reply(self, request: ModelRequest, prompt: PromptPrefixes, usage: ApiUsage) -> None:
        """Cache the prompt and add the usage, now that the reply begins."""
        self._cache.write(prompt, request.received_at)
        request.usage = usage
        self.usage.add(UsageEntry(request.index, request.model, request.is_side, usage))
        self.check_conditions()

    def watch(self, condition: Callable[[], bool]) -> Future[None]:
        """Return a future that ends when `condition()` is true, or has the exception it raised.

        Any thread can call this.
        """
        future: Future[None] = Future()
        with self._lock:
            self._watchers.append((condition, future))
        self.check_conditions()
        return future

    def check_conditions(self) -> None:
        """Check all conditions, and end the futures of those that are true."""
        with self._lock:
            self._watchers = [(c, f) for c, f in self._watchers if not _try_to_end(f, c)]


def _try_to_end(future: Future[None], condition: Callable[[], bool]) -> bool:
    """Check the condition and return whether the future is done."""
    if future.cancelled():
        return True
    error: Exception | None = None
    try:
        if not condition():
            return False
    except Exception as raised:
        error = raised
    # False if the caller cancelled it in the meantime; a result would then raise.
    if future.set_running_or_notify_cancel():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
    return True
