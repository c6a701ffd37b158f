"""The events of one pool: numbered, dated, and passed to every subscriber."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from agent_pool.events import Event

log = logging.getLogger("agent_pool")

EventListener = Callable[[Event], None]
E = TypeVar("E", bound=Event)


class EventBus:
    """Number events and pass them on, on the event loop and in order."""

    def __init__(self) -> None:
        self._number = 0
        # By a key for each subscription: one listener can be subscribed twice.
        self._listeners: dict[object, EventListener] = {}

    def publish(self, event: E, **labels: Any) -> E:
        """Give an event its number, the time and these fields, and pass it to all subscribers.

        An exception of a subscriber is logged: it must not end a task or a worker.
        """
        self._number += 1
        numbered = replace(event, number=self._number, time=time.time(), **labels)
        for listener in tuple(self._listeners.values()):  # one can unsubscribe while it is called
            call_listener(listener, numbered)
        return numbered

    def subscribe(self, listener: EventListener) -> Callable[[], None]:
        """Pass all later events to `listener`; return a function that ends this."""
        subscription = object()
        self._listeners[subscription] = listener

        def unsubscribe() -> None:
            self._listeners.pop(subscription, None)

        return unsubscribe


def call_listener(listener: Callable[[E], None], event: E) -> None:
    """Pass an event to a listener of a user; log the exception if it raises one."""
    try:
        listener(event)
    except Exception:
        log.exception("a listener failed for the event %s", event.type)
