"""Sessions in the states that tests begin with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent_pool.claude.protocol.results import Spend, read_result, running_totals
from agent_pool.claude.protocol.session import Session
from agent_pool.claude.protocol.signals import Signal, TurnFinished
from support import recorded_frames as frames
from support.recorded_frames import Recording

MAX_LINE = 10_000


def new_session() -> Session:
    """Return a session before its first frame."""
    return Session(max_line=MAX_LINE)


def ready() -> Session:
    """Return a session that is initialized."""
    session = new_session()
    session.initialize(frames.INITIALIZED.stamp, prompt=None)
    session.receive(frames.INITIALIZED.data)
    return session


def in_turn(recording: Recording) -> Session:
    """Return a session that has sent the prompt of a recording."""
    session = ready()
    session.prompt(recording.stamp, "do it")
    return session


def used(recording: Recording = frames.HELLO) -> Session:
    """Return a session that has received the frames of a recording."""
    session = in_turn(recording)
    session.receive(recording.data)
    return session


def clearing(recording: Recording = frames.HELLO, *, needs_announcement: bool = False) -> Session:
    """Return a used session that has sent /clear."""
    session = used(recording)
    session.clear(frames.CLEAR.stamp, needs_announcement=needs_announcement)
    return session


def finished(
    frame: Mapping[str, Any],
    after: Mapping[str, Any] | None = None,
    begun: Recording | None = None,
) -> TurnFinished:
    """Return the signal for a turn that ended with the result `frame`.

    Args:
        frame: the turn's result.
        after: the result of the turn before it in the same conversation; None for the first turn.
        begun: the recording of the turn's beginning, if it is another one than that of its end.
    """
    earlier = running_totals(after) if after else Spend()
    result = read_result(frame, running_totals(frame).since(earlier))
    models, requests = _answered(frame, [begun] if begun else [])
    return TurnFinished(replace(result, models=models, requests=requests))


def _answered(last: Mapping[str, Any], begun: list[Recording]) -> tuple[tuple[str, ...], int]:
    """Return the models and the number of messages of the turn that ends with a frame."""
    ends = [one for one in frames.ALL.values() if one.last == last]
    messages = [
        frame["message"]
        for recording in [*begun, *ends]
        for frame in recording.frames
        if frame["type"] == "assistant"
    ]
    models = dict.fromkeys(message["model"] for message in messages)
    return tuple(models), len({message.get("id", "") for message in messages})


def with_fields(frame: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Change some fields of a frame; leave out those that become None."""
    changed = {**copy.deepcopy(dict(frame)), **fields}
    return {name: value for name, value in changed.items() if value is not None}


def unstamped(frame: Mapping[str, Any]) -> dict[str, Any]:
    """Return a frame without its stamps."""
    return with_fields(frame, user_message_uuid=None, user_message_uuids=None)


def kinds(signals: list[Signal]) -> list[type]:
    """Return the classes of signals."""
    return [type(signal) for signal in signals]
