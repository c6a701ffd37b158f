"""The exchange between driver and node, and the fence, without Ray."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable
from typing import Any, cast

import pytest

from agent_pool.cluster import node, node_link
from agent_pool.cluster.node import FENCE_SECONDS, Message, Outbox
from agent_pool.cluster.node_link import LOSS_SECONDS, NodeLink
from agent_pool.cluster.ray_api import RayCluster, RayNode
from agent_pool.settings import Settings
from support.process_checks import is_alive
from support.waiting import WAIT_TIMEOUT, blocking_wait, run, wait_until

NODE = RayNode("id", "blue", {"CPU": 2.0})
ENDED = {"event": {"type": "task.ended", "task_id": "t1"}}


class StillNode:
    """An actor that opens, and answers no later question until a test lets it."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[tuple[int, list[tuple[int, Message]]]] = asyncio.Queue()
        self.questions: list[tuple[object, ...]] = []
        self.kills = 0

    def start_actor(self, node: RayNode, kind: type, *arguments: object) -> StillNode:
        return self

    def call(self, method: str, *arguments: object) -> Awaitable[Any]:
        return self._call(method, *arguments)

    async def _call(self, method: str, *arguments: object) -> Any:
        if method == "open":
            return {"version": "2.1.332", "sign_in": "", "resets": None, "problem": ""}
        self.questions.append(arguments)
        return await self.answers.get()

    def kill(self) -> None:
        self.kills += 1


class Notes:
    """A listener that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.losses: list[str] = []

    def heard(self, node: str, message: Message) -> None:
        self.messages.append(message)

    def doubted(self, node: str, reason: str) -> None:
        raise AssertionError(reason)

    def lost(self, node: str, reason: str) -> None:
        self.losses.append(reason)


def test_a_late_answer_of_a_lost_node_is_dropped_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(node_link, "LOSS_SECONDS", 0.2)

    async def main() -> None:
        actor, notes = StillNode(), Notes()
        link = NodeLink(cast(RayCluster, actor), NODE, "1", notes)
        await link.open(Settings(), 2, {}, None)
        actor.answers.put_nowait((1, [(1, {"first": 1})]))
        await wait_until(lambda: notes.losses)
        assert notes.losses[0].startswith("it was not heard for 0.2")
        assert actor.kills == 1
        actor.answers.put_nowait((2, [(2, ENDED)]))
        await wait_until(lambda: "t1" in caplog.text)
        assert notes.messages == [{"first": 1}]
        assert "node blue was given up, and answers task t1 only now" in caplog.text
        link.kill()
        await asyncio.sleep(0)

    with caplog.at_level(logging.WARNING, logger="agent_pool"):
        run(main())


def test_a_question_says_what_the_driver_has_and_no_message_comes_twice() -> None:
    async def main() -> None:
        actor, notes = StillNode(), Notes()
        link = NodeLink(cast(RayCluster, actor), NODE, "1", notes)
        await link.open(Settings(), 2, {}, None)
        actor.answers.put_nowait((1, [(1, {"a": 1}), (2, {"b": 2})]))
        actor.answers.put_nowait((2, [(2, {"b": 2}), (3, {"c": 3})]))
        await wait_until(lambda: len(actor.questions) == 3)
        assert actor.questions == [(0, 0), (1, 2), (2, 3)]
        assert notes.messages == [{"a": 1}, {"b": 2}, {"c": 3}]
        link.kill()
        await asyncio.sleep(0)

    run(main())


def test_a_node_lives_by_answers_that_came_and_not_by_questions() -> None:
    async def main() -> None:
        outbox = Outbox()
        outbox.begin()
        first = outbox.came(0, 0)
        assert first is not None
        outbox.put({"a": 1})
        assert await outbox.next(0, 1.0) == (1, [(1, {"a": 1})])
        # The driver asks again, but has not got the answer: the time counts from the older one.
        assert outbox.came(0, 0) == first
        assert await outbox.next(0, 1.0) == (2, [(1, {"a": 1})])
        second = outbox.came(2, 1)
        assert second is not None
        assert second > first
        # A question that was held up in the network proves nothing new.
        assert outbox.came(0, 0) is None
        assert await outbox.next(1, 0.01) == (3, [])

    run(main())


def test_events_travel_together_and_the_end_of_a_task_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node, "BATCH_SECONDS", 60.0)

    async def main() -> None:
        outbox = Outbox()
        outbox.begin()
        answer = asyncio.create_task(outbox.next(0, 60.0))
        for number in (1, 2):
            outbox.put({"event": number}, can_wait=True)
            await asyncio.sleep(0.01)
            assert not answer.done()
        outbox.put({"event": 3})
        assert await answer == (1, [(1, {"event": 1}), (2, {"event": 2}), (3, {"event": 3})])
        # Those that came between two questions wait for no others either.
        outbox.put({"event": 4}, can_wait=True)
        outbox.put({"event": 5})
        assert [number for number, _ in (await outbox.next(3, 60.0))[1]] == [4, 5]
        monkeypatch.setattr(node, "BATCH_SECONDS", 0.01)
        outbox.put({"event": 6}, can_wait=True)
        assert await outbox.next(5, 60.0) == (3, [(6, {"event": 6})])

    run(main())


def test_a_task_ends_on_its_node_before_it_is_taken_for_ended() -> None:
    # A kill by the fence and the sweep of the watchdog take some tens of milliseconds.
    assert FENCE_SECONDS + 1.0 <= LOSS_SECONDS <= 5.0


FENCED = """
import sys, time
from agent_pool.cluster.fence import Fence, now
fence = Fence()
fence.live_until(now() + 60)
fence.live_until(now() + 0.2)  # a later time counts, whatever comes after it
if sys.argv[1] == "closed":
    fence.close()
else:
    fence = Fence()
    fence.live_until(now() + 0.5)
print("fenced", flush=True)
time.sleep(1000)
"""


def _fenced(way: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", FENCED, way]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "fenced\n"
    return process


def test_the_fence_kills_a_process_that_is_not_heard_of() -> None:
    began = time.monotonic()
    with _fenced("lives") as process:
        # Also one that is stopped, and can do nothing itself.
        process.send_signal(signal.SIGSTOP)
        try:
            assert process.wait(WAIT_TIMEOUT) == -signal.SIGKILL
            assert time.monotonic() - began > 0.4
        finally:
            process.kill()


def test_a_closed_fence_lets_its_process_live() -> None:
    with _fenced("closed") as process:
        blocking_wait(lambda: not _has_fence(process.pid))
        assert is_alive(process.pid)
        process.kill()


def _has_fence(pid: int) -> bool:
    found = subprocess.run(["pgrep", "-f", f"fence_script.py {pid}$"], capture_output=True)
    return found.returncode == 0
