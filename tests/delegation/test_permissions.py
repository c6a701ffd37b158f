"""The permissions of agents, and the requests for more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent_pool import Denied, PermissionRequest, Settings, TaskRequest, TaskTimeout
from agent_pool.claude.permissions import Decider, PermissionRequests
from agent_pool.claude.process_tree import ProcessTree
from agent_pool.claude.protocol.results import Spend, TurnResult
from agent_pool.claude.protocol.session import Session
from agent_pool.claude.protocol.signals import CanUseTool
from agent_pool.loopback import ModelReply, ToolUseBlock
from agent_pool.models import AgentKey
from agent_pool.pool.event_bus import EventBus
from agent_pool.pool.scheduler import AgentSpec
from agent_pool.pool.supervisor import Supervisor
from agent_pool.pool.task_runner import PausableTimeout, RunningTask, TaskRunner
from support.model_scripts import bash, tool
from support.pool_harness import PoolHarness, TaskOutcome
from support.variants import later
from support.waiting import run

Define = Callable[..., str]


class RecordingHandler:
    """A permission handler that records the tools and decides by `allow`."""

    def __init__(
        self, allow: Callable[[PermissionRequest], bool | Denied] = lambda _: False
    ) -> None:
        self.asked: list[str] = []
        self._allow = allow

    async def __call__(self, request: PermissionRequest) -> bool | Denied:
        self.asked.append(request.tool)
        return self._allow(request)


def write(path: Path) -> object:
    return tool("Write", file_path=str(path), content="x")


def act(
    harness: PoolHarness, agent: str, person: RecordingHandler | None = None
) -> tuple[bool, bool]:
    """Check whether an agent can write a file of the project, and run a command that makes one."""
    stem = harness.word("file")
    edited, made = harness.project.root / f"{stem}.edited", harness.project.root / f"{stem}.made"
    steps = write(edited), bash(f"touch {made}"), "done"
    assert (
        harness.run(harness.ask(harness.plan(*steps), agent, on_permission=person)).text == "done"
    )
    return edited.exists(), made.exists()


@pytest.mark.parametrize(
    ("mode", "asked", "done"),
    [
        ("plan", ["Write"], (False, False)),
        later("dontAsk", [], (False, False)),
        ("default", ["Write", "Bash"], (False, False)),
        later("ask", ["Write", "Bash"], (False, False)),
        ("acceptEdits", [], (True, True)),
        later("auto", [], (True, True)),
        ("bypassPermissions", [], (True, True)),
    ],
)
def test_each_permission_mode_asks_and_allows_as_expected(
    harness: PoolHarness, define: Define, mode: str, asked: list[str], done: tuple[bool, bool]
) -> None:
    person = RecordingHandler()
    assert act(harness, define(permissionMode=mode), person) == done
    assert person.asked == asked


def test_no_agent_can_do_more_than_the_ceiling_allows(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear", permission_ceiling="dontAsk")
    harness.project.agent("planner", description="Plans.", permissionMode="plan")
    harness.project.agent("free", description="Does.", permissionMode="bypassPermissions")
    modes = {
        agent: harness.run(harness.pool.launch_spec(agent)).argv
        for agent in ("planner", "free", "tester")
    }
    assert "--permission-mode=plan" in modes["planner"]
    for agent in ("free", "tester"):
        assert "--permission-mode=dontAsk" in modes[agent]
        assert "--dangerously-skip-permissions" not in modes[agent]
    assert act(harness, "free") == (False, False)


def test_permission_rules_allow_tools_without_asking(harness: PoolHarness, define: Define) -> None:
    agent = define(permissionMode="ask", tools="Read, Bash(touch *), Write")
    person = RecordingHandler()
    assert act(harness, agent, person) == (False, True)
    assert person.asked == ["Write"]


@pytest.fixture(scope="module")
def asker(harness: PoolHarness) -> str:
    """Define an agent that must ask; return its name."""
    harness.project.agent("asker", description="Asks.", permissionMode="ask")
    return "asker"


def test_only_permitted_tool_calls_are_carried_out(harness: PoolHarness, asker: str) -> None:
    person = RecordingHandler(lambda request: request.tool == "Bash")
    assert act(harness, asker, person) == (False, True)


def test_the_request_names_the_agent_tool_and_input(harness: PoolHarness, asker: str) -> None:
    seen: list[PermissionRequest] = []
    file = harness.project.root / "seen"
    person = RecordingHandler(lambda request: seen.append(request) or False)  # type: ignore[func-returns-value]
    harness.run(harness.ask(harness.plan(bash(f"touch {file}")), asker, on_permission=person))
    (request,) = seen
    assert (request.agent, request.tool) == (asker, "Bash")
    assert request.input["command"] == f"touch {file}"
    assert request.description == "Tests."


def test_requests_without_a_handler_are_denied_and_work_continues(
    harness: PoolHarness, asker: str
) -> None:
    assert act(harness, asker) == (False, False)


def broken(_: PermissionRequest) -> bool:
    raise RuntimeError("the handler is broken")


def test_a_failing_handler_denies_and_is_logged(
    harness: PoolHarness, asker: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "agent_pool"):
        assert act(harness, asker, RecordingHandler(broken)) == (False, False)
    assert "the handler is broken" in caplog.text


@pytest.mark.parametrize(
    ("person", "read"),
    [
        (RecordingHandler(lambda _: Denied("Only on Tuesdays.")), "Only on Tuesdays."),
        (RecordingHandler(lambda _: Denied()), "The person in charge has not permitted this."),
        (RecordingHandler(lambda _: False), "The person in charge has not permitted this."),
        (RecordingHandler(broken), "This is not permitted: asking for permission failed."),
        (None, "This is not permitted: there is no person here to ask for permission."),
    ],
)
def test_the_agent_reads_the_reason_of_a_denial(
    harness: PoolHarness, asker: str, person: RecordingHandler | None, read: str
) -> None:
    file = harness.project.root / harness.word("why")
    said = harness.run(
        harness.ask(harness.plan(bash(f"touch {file}")), asker, on_permission=person)
    )
    assert said.text == f"tool: {read}"
    assert not file.exists()


def test_a_denial_is_false_and_equals_the_same_denial() -> None:
    assert not Denied("no")
    assert Denied("no") == Denied("no")


def test_two_requests_at_once_are_both_decided(harness: PoolHarness, asker: str) -> None:
    files = [harness.project.root / harness.word("both") for _ in range(2)]
    calls = ModelReply(
        [ToolUseBlock("Write", {"file_path": str(f), "content": "x"}) for f in files]
    )
    person = RecordingHandler(lambda request: request.input["file_path"] == str(files[1]))
    harness.run(harness.ask(harness.plan(calls, "done"), asker, on_permission=person))
    assert [file.exists() for file in files] == [False, True]


class Slow:
    """A handler that never answers.

    Attributes:
        asked, left: set when it is called, and when it is cancelled.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, request: PermissionRequest) -> bool:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
        raise AssertionError


async def ask_again(harness: PoolHarness, agent: str) -> TaskOutcome:
    """Give the worker whose request was cancelled another task; return its outcome."""
    await harness.wait_until_idle()
    return await harness.ask(harness.plan("next"), agent)


def test_a_handler_slower_than_permission_timeout_is_cancelled(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear", permission_timeout=0.2)
    harness.project.agent("slowly", description="Asks.", permissionMode="ask")

    async def main() -> None:
        slow, file = Slow(), harness.project.root / "slow"
        said = await harness.ask(harness.plan(bash(f"touch {file}")), "slowly", on_permission=slow)
        assert said.text == (
            "tool: This is not permitted: there was no answer within 0.2 s (setting "
            "permission_timeout)."
        )
        assert slow.left.is_set()
        assert (await ask_again(harness, "slowly")).text == "next"
        assert not file.exists()

    harness.run(main())


# The time of a task, and the time of a person

TASK_SECONDS = 0.05
SPEC = AgentSpec(AgentKey("/project", "asker"), "1", "profile")
Turn = Callable[[Decider], Awaitable[None]]


class AskingWorker:
    """A worker whose turn is one function that asks for permissions."""

    def __init__(self, turn: Turn) -> None:
        self.name, self.note, self.pid, self.turns = "worker-1", "", 1, 0
        self.taints: list[str] = []
        self.words, self.spent = "", Spend()
        self.session = Session(max_line=1000)
        self.launch = SimpleNamespace(version="")
        self._turn = turn

    async def turn(
        self, text: str, listener: object, decider: Decider, attachments: object
    ) -> TurnResult:
        await self._turn(decider)
        return TurnResult("done", False, "success", 1, Spend(), "session")


async def run_task(turn: Turn, handler: Any, **settings: float) -> str:
    """Run a task of `TASK_SECONDS` on such a worker; return its answer."""
    released: list[object] = []

    async def resolve(*request: object) -> AgentSpec:
        return SPEC

    async def acquire(*request: object) -> AskingWorker:
        return AskingWorker(turn)

    runner = TaskRunner(
        cast(
            Any,
            SimpleNamespace(resolve=resolve, isolates=lambda *_: None, agent=lambda _: None),
        ),
        cast(
            Any,
            SimpleNamespace(
                acquire=acquire, release=released.append, new_place=lambda: None, hold=None
            ),
        ),
        cast(Any, None),
        Settings(**cast(Any, settings)),
    )
    request = TaskRequest("asker", "x", timeout=TASK_SECONDS)
    try:
        return (await runner.run(RunningTask(request, EventBus(), None, handler))).text
    finally:
        assert len(released) == 1


def asked(tool: str = "Bash") -> CanUseTool:
    return CanUseTool("request-1", tool, {}, "")


async def late(request: PermissionRequest) -> bool:
    """Permit the call, long after the time of the task."""
    await asyncio.sleep(4 * TASK_SECONDS * (2 if request.tool == "Slow" else 1))
    return True


def test_waiting_for_a_person_does_not_use_task_time() -> None:
    async def turn(decide: Decider) -> None:
        assert await decide(asked()) is True
        assert await decide(asked()) is True

    assert run(run_task(turn, late)) == "done"


def test_task_time_stops_until_every_question_is_answered() -> None:
    async def turn(decide: Decider) -> None:
        answers = await asyncio.gather(decide(asked()), decide(asked("Slow")))
        assert list(answers) == [True, True]

    assert run(run_task(turn, late)) == "done"


def test_the_task_time_continues_after_the_answer() -> None:
    async def turn(decide: Decider) -> None:
        assert await decide(asked()) is True
        await asyncio.Event().wait()

    with pytest.raises(TaskTimeout, match=r"after 0\.05 s"):
        run(run_task(turn, late))


def test_a_handler_that_ignores_cancellation_cannot_block_the_task() -> None:
    async def stubborn(request: PermissionRequest) -> bool:
        for _ in range(2):  # at the end of its own time, and at the end of the task's
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(request)
        raise AssertionError

    async def turn(decide: Decider) -> None:
        deciding = asyncio.ensure_future(decide(asked()))
        try:
            await asyncio.Event().wait()
        finally:
            deciding.cancel()

    cancelled: list[PermissionRequest] = []
    with pytest.raises(TaskTimeout):
        run(run_task(turn, stubborn, permission_timeout=0.001))
    assert len(cancelled) >= 1


def test_a_timeout_error_raised_by_a_handler_is_passed_on() -> None:
    async def impatient(request: PermissionRequest) -> bool:
        raise TimeoutError("the phone was engaged")

    async def turn(decide: Decider) -> None:
        with pytest.raises(TimeoutError, match="engaged"):
            await decide(asked())

    assert run(run_task(turn, impatient)) == "done"


def test_a_question_can_begin_and_end_after_the_timeout() -> None:
    async def main() -> None:
        async with asyncio.timeout(0) as bound:
            clock = PausableTimeout(bound)
            try:
                await asyncio.Event().wait()
            finally:
                clock.pause("late")
                clock.resume("late")

    with pytest.raises(TimeoutError):
        run(main())


def test_a_question_can_end_after_its_task() -> None:
    async def main() -> None:
        async with asyncio.timeout(60) as bound:
            clock = PausableTimeout(bound)
            clock.pause("open")
            await asyncio.sleep(0)
            assert bound.when() is None
            clock.end()
        clock.resume("open")

    run(main())


def test_a_caller_that_leaves_cancels_its_permission_handler(
    harness: PoolHarness, asker: str
) -> None:
    async def main() -> None:
        slow, file = Slow(), harness.project.root / harness.word("left")
        before = (await harness.ask(harness.plan("hello"), asker)).pid
        task = harness.plan(bash(f"touch {file}"))
        asking = asyncio.ensure_future(harness.ask(task, asker, on_permission=slow))
        await slow.asked.wait()
        asking.cancel()
        await slow.left.wait()
        said = await ask_again(harness, asker)
        assert (said.text, said.pid) == ("next", before)
        assert not file.exists()

    harness.run(main())


@pytest.mark.parametrize(("awaits_permission", "stalled"), [(True, 0), (False, 1)])
def test_waiting_for_a_person_is_not_a_stall(awaits_permission: bool, stalled: int) -> None:
    failed: list[TaskTimeout] = []
    nothing = cast(Any, None)
    supervisor = Supervisor(Settings(stall_timeout=10), nothing, nothing, EventBus(), nothing)
    worker = SimpleNamespace(
        name="worker-1",
        label="worker-1",
        open_tools={"toolu_1": "Bash"},
        is_in_turn=True,
        awaits_permission=awaits_permission,
        silence=11.0,
        fail_turn=failed.append,
    )
    supervisor.workers["worker-1"] = cast(Any, worker)
    supervisor._end_stalled_turns({"worker-1": ProcessTree((cast(Any, "itself"),))})
    assert len(failed) == stalled


Replies = list[tuple[CanUseTool, Denied | None]]
"""The replies to the CLI; without `Denied` the call is permitted."""


async def ask(requests: PermissionRequests) -> Denied | None:
    """Ask for a permission; return the denial, None if it is permitted."""
    replies: asyncio.Queue[Denied | None] = asyncio.Queue()
    requests.add(asked(), lambda _, denied: replies.put_nowait(denied))
    return await replies.get()


def test_a_request_is_open_until_it_is_answered() -> None:
    open_requests: list[bool] = []
    requests = PermissionRequests()

    async def decide(_: CanUseTool) -> bool:
        open_requests.append(requests.are_open)
        return True

    async def main() -> None:
        requests.decider = decide
        assert await ask(requests) is None
        await asyncio.sleep(0)
        open_requests.append(requests.are_open)

    run(main())
    assert open_requests == [True, False]


@pytest.mark.parametrize("answer", ["no", "yes", 1, {"behavior": "deny"}, SimpleNamespace()])
def test_only_true_counts_as_a_permission(answer: Any) -> None:
    requests = PermissionRequests()

    async def decide(_: CanUseTool) -> Any:
        return answer

    async def main() -> None:
        requests.decider = decide
        assert isinstance(await ask(requests), Denied)

    run(main())


def test_the_answer_to_a_withdrawn_question_is_not_passed_on() -> None:
    requests = PermissionRequests()
    replies: Replies = []

    async def main() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def stubborn(_: CanUseTool) -> bool:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.set()
            return True

        requests.decider = stubborn
        requests.add(asked(), lambda question, denied: replies.append((question, denied)))
        await began.wait()
        requests.withdraw()
        assert not requests.are_open
        await ended.wait()
        await asyncio.sleep(0)

    run(main())
    assert replies == []
