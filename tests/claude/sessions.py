"""Sessions in the states that tests begin with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from agent_pool.claude.events import Event
from agent_pool.claude.session import Session
from claude import frames
from claude.frames import Recording

MAX_LINE = 10_000


def new_session() -> Session:
    return Session(max_line=MAX_LINE)


def ready() -> Session:
    session = new_session()
    session.initialize(frames.INITIALIZED.stamp, {})
    session.receive(frames.INITIALIZED.data)
    return session


def in_turn(recording: Recording) -> Session:
    session = ready()
    session.prompt(recording.stamp, "do it")
    return session


def used(recording: Recording = frames.HELLO) -> Session:
    session = in_turn(recording)
    session.receive(recording.data)
    return session


def clearing(recording: Recording = frames.HELLO, *, expects_frame: bool = False) -> Session:
    session = used(recording)
    session.clear(frames.CLEAR.stamp, expects_frame=expects_frame)
    return session


def with_fields(frame: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A frame with some fields changed; those that become None are left out."""
    changed = {**copy.deepcopy(dict(frame)), **fields}
    return {name: value for name, value in changed.items() if value is not None}


def unstamped(frame: Mapping[str, Any]) -> dict[str, Any]:
    return with_fields(frame, user_message_uuid=None, user_message_uuids=None)


def kinds(events: list[Event]) -> list[type]:
    return [type(event) for event in events]
