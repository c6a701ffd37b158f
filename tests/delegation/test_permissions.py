"""What agents may do, and who is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent_pool import Denied, PermissionRequest, TaskTimeout
from agent_pool.claude.accounts import Account
from agent_pool.claude.questions import Asker, Questions
from agent_pool.loopback import Reply, ToolUse
from agent_pool.pool.asking import Clock
from agent_pool.pool.health import end_stalled_turns
from agent_pool.pool.running import Call
from agent_pool.pool.running import run as carry_out
from isolation.lab import Lab, Said, bash, tool
from support import run

Define = Callable[..., str]


class Person:
    """Somebody who is asked; remembers what, and answers by `allow`."""

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


def act(lab: Lab, agent: str, person: Person | None = None) -> tuple[bool, bool]:
    """Whether an agent may write a file of the project, and run a command that makes one."""
    stem = lab.word("file")
    edited, made = lab.world.root / f"{stem}.edited", lab.world.root / f"{stem}.made"
    steps = write(edited), bash(f"touch {made}"), "done"
    assert lab.run(lab.ask(lab.plan(*steps), agent, on_permission=person)).text == "done"
    return edited.exists(), made.exists()


@pytest.mark.parametrize(
    ("mode", "asked", "done"),
    [
        ("plan", ["Write"], (False, False)),
        ("dontAsk", [], (False, False)),
        ("default", ["Write", "Bash"], (False, False)),
        ("ask", ["Write", "Bash"], (False, False)),
        ("acceptEdits", [], (True, True)),
        ("auto", [], (True, True)),
        ("bypassPermissions", [], (True, True)),
    ],
)
def test_each_permission_mode(
    lab: Lab, define: Define, mode: str, asked: list[str], done: tuple[bool, bool]
) -> None:
    person = Person()
    assert act(lab, define(permissionMode=mode), person) == done
    assert person.asked == asked


def test_no_agent_may_do_more_than_the_ceiling_allows(labs: Callable[..., Lab]) -> None:
    lab = labs(reset="clear", permission_ceiling="dontAsk")
    lab.world.agent("planner", description="Plans.", permissionMode="plan")
    lab.world.agent("free", description="Does.", permissionMode="bypassPermissions")
    modes = {agent: lab.run(lab.pool.launch(agent)).argv for agent in ("planner", "free", "tester")}
    assert "--permission-mode=plan" in modes["planner"]
    for agent in ("free", "tester"):
        assert "--permission-mode=dontAsk" in modes[agent]
        assert "--dangerously-skip-permissions" not in modes[agent]
    assert act(lab, "free") == (False, False)


def test_rules_permit_without_asking(lab: Lab, define: Define) -> None:
    agent = define(permissionMode="ask", tools="Read, Bash(touch *), Write")
    person = Person()
    assert act(lab, agent, person) == (False, True)
    assert person.asked == ["Write"]


@pytest.fixture(scope="module")
def asker(lab: Lab) -> str:
    """An agent that has to ask."""
    lab.world.agent("asker", description="Asks.", permissionMode="ask")
    return "asker"


def test_what_is_permitted_is_done_and_what_is_not_is_not(lab: Lab, asker: str) -> None:
    person = Person(lambda request: request.tool == "Bash")
    assert act(lab, asker, person) == (False, True)


def test_the_request_says_who_wants_what(lab: Lab, asker: str) -> None:
    seen: list[PermissionRequest] = []
    file = lab.world.root / "seen"
    person = Person(lambda request: seen.append(request) or False)  # type: ignore[func-returns-value]
    lab.run(lab.ask(lab.plan(bash(f"touch {file}")), asker, on_permission=person))
    (request,) = seen
    assert (request.agent, request.tool) == (asker, "Bash")
    assert request.input["command"] == f"touch {file}"
    assert request.description == "Tests."


def test_with_nobody_to_ask_it_is_denied_and_the_agent_goes_on(lab: Lab, asker: str) -> None:
    assert act(lab, asker) == (False, False)


def broken(_: PermissionRequest) -> bool:
    raise RuntimeError("the handler is broken")


def test_a_handler_that_fails_denies(
    lab: Lab, asker: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "agent_pool"):
        assert act(lab, asker, Person(broken)) == (False, False)
    assert "the handler is broken" in caplog.text


@pytest.mark.parametrize(
    ("person", "read"),
    [
        (Person(lambda _: Denied("Only on Tuesdays.")), "Only on Tuesdays."),
        (Person(lambda _: Denied()), "The person in charge has not permitted this."),
        (Person(lambda _: False), "The person in charge has not permitted this."),
        (Person(broken), "This is not permitted: asking for permission failed."),
        (None, "This is not permitted: nobody can be asked for permission here."),
    ],
)
def test_the_agent_reads_why_it_may_not(
    lab: Lab, asker: str, person: Person | None, read: str
) -> None:
    file = lab.world.root / lab.word("why")
    said = lab.run(lab.ask(lab.plan(bash(f"touch {file}")), asker, on_permission=person))
    assert said.text == f"tool: {read}"
    assert not file.exists()


def test_a_denial_is_false() -> None:
    assert not Denied("no")
    assert Denied("no") == Denied("no")


def test_two_requests_at_once_are_both_decided(lab: Lab, asker: str) -> None:
    files = [lab.world.root / lab.word("both") for _ in range(2)]
    calls = Reply([ToolUse("Write", {"file_path": str(f), "content": "x"}) for f in files])
    person = Person(lambda request: request.input["file_path"] == str(files[1]))
    lab.run(lab.ask(lab.plan(calls, "done"), asker, on_permission=person))
    assert [file.exists() for file in files] == [False, True]


class Slow:
    """A handler that never answers.

    Attributes:
        asked, left: set when it is called, and when it is given up.
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


async def goes_on(lab: Lab, agent: str) -> Said:
    """The worker whose request was given up serves the next task, with a handler of its own."""
    await lab.settled()
    return await lab.ask(lab.plan("next"), agent)


def test_a_handler_slower_than_permission_timeout_is_given_up(labs: Callable[..., Lab]) -> None:
    lab = labs(reset="clear", permission_timeout=0.2)
    lab.world.agent("slowly", description="Asks.", permissionMode="ask")

    async def main() -> None:
        slow, file = Slow(), lab.world.root / "slow"
        said = await lab.ask(lab.plan(bash(f"touch {file}")), "slowly", on_permission=slow)
        assert said.text == (
            "tool: This is not permitted: nobody answered within 0.2 s (setting "
            "permission_timeout)."
        )
        assert slow.left.is_set()
        assert (await goes_on(lab, "slowly")).text == "next"
        assert not file.exists()

    lab.run(main())


# A task's time, and that of a person


class Asking:
    """A worker whose turn is one function of what asks; its task has `BRIEF` seconds."""

    def __init__(self, turn: Callable[[Asker], Awaitable[None]], permit: Any, **more: Any) -> None:
        self._turn = turn
        self.name, self.note, self.pid, self.last_turn = "worker-1", "", 1, Account()
        self.taints: list[str] = []
        self.call = Call("asker", "x", BRIEF, lambda event: None, permit, **more)

    async def turn(self, task: str, listener: object, ask: Asker) -> Mapping[str, Any]:
        await self._turn(ask)
        return {"subtype": "success", "result": "done"}

    async def carry_out(self) -> str:
        return (await carry_out(self.call, self, SimpleNamespace(), 0.0)).text  # type: ignore[arg-type]


BRIEF = 0.05


async def late(request: PermissionRequest) -> bool:
    """Answers long after the task's time."""
    await asyncio.sleep(4 * BRIEF * (2 if request.tool == "Slow" else 1))
    return True


def test_the_time_in_which_a_person_is_asked_is_not_the_task_s() -> None:
    async def turn(ask: Asker) -> None:
        assert await ask({}) is True
        assert await ask({}) is True

    assert run(Asking(turn, late).carry_out()) == "done"


def test_the_time_stands_still_until_the_last_open_question_is_answered() -> None:
    async def turn(ask: Asker) -> None:
        assert await asyncio.gather(ask({}), ask({"tool_name": "Slow"})) == [True, True]

    assert run(Asking(turn, late).carry_out()) == "done"


def test_after_the_answer_the_task_has_the_rest_of_its_time() -> None:
    async def turn(ask: Asker) -> None:
        assert await ask({}) is True
        await asyncio.Event().wait()

    with pytest.raises(TaskTimeout, match=r"after 0\.05 s"):
        run(Asking(turn, late).carry_out())


def test_what_goes_on_asking_though_given_up_does_not_hold_the_task_for_ever() -> None:
    async def stubborn(request: PermissionRequest) -> bool:
        for _ in range(2):  # when its time is up, and when the task's is
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                given_up.append(request)
        raise AssertionError

    async def turn(ask: Asker) -> None:
        asking = asyncio.ensure_future(ask({}))
        try:
            await asyncio.Event().wait()
        finally:
            asking.cancel()

    given_up: list[PermissionRequest] = []
    with pytest.raises(TaskTimeout):
        run(Asking(turn, stubborn, patience=0.001).carry_out())
    assert len(given_up) >= 1


def test_a_handler_s_own_timeout_is_a_fault_of_it_and_no_missing_answer() -> None:
    async def impatient(request: PermissionRequest) -> bool:
        raise TimeoutError("the phone was engaged")

    async def turn(ask: Asker) -> None:
        with pytest.raises(TimeoutError, match="engaged"):
            await ask({})

    assert run(Asking(turn, impatient).carry_out()) == "done"


def test_a_question_may_begin_and_end_when_the_time_is_up() -> None:
    async def main() -> None:
        async with asyncio.timeout(0) as bound:
            clock = Clock(bound)
            try:
                await asyncio.Event().wait()
            finally:
                clock.stop("late")
                clock.go_on("late")

    with pytest.raises(TimeoutError):
        run(main())


def test_a_question_may_end_after_its_task() -> None:
    async def main() -> None:
        async with asyncio.timeout(60) as bound:
            clock = Clock(bound)
            clock.stop("open")
            await asyncio.sleep(0)
            assert bound.when() is None
            clock.end()
        clock.go_on("open")

    run(main())


def test_a_caller_that_leaves_takes_its_handler_along(lab: Lab, asker: str) -> None:
    async def main() -> None:
        slow, file = Slow(), lab.world.root / lab.word("left")
        before = (await lab.ask(lab.plan("hello"), asker)).pid
        task = lab.plan(bash(f"touch {file}"))
        asking = asyncio.ensure_future(lab.ask(task, asker, on_permission=slow))
        await slow.asked.wait()
        asking.cancel()
        await slow.left.wait()
        said = await goes_on(lab, asker)
        assert (said.text, said.pid) == ("next", before)
        assert not file.exists()

    lab.run(main())


@pytest.mark.parametrize(("is_asking", "stalled"), [(True, 0), (False, 1)])
def test_waiting_for_a_person_is_no_stall(is_asking: bool, stalled: int) -> None:
    failed: list[TaskTimeout] = []
    worker = SimpleNamespace(
        name="worker-1",
        who="worker-1",
        open_tools={"toolu_1": "Bash"},
        is_in_turn=True,
        is_asking=is_asking,
        silence=11.0,
        fail_turn=failed.append,
    )
    end_stalled_turns([worker], {"worker-1": ["itself"]}, bound=10.0)  # type: ignore[list-item]
    assert len(failed) == stalled


def test_a_request_is_open_until_it_is_answered() -> None:
    open_requests: list[bool] = []
    questions = Questions()

    async def main() -> None:
        answered = asyncio.Event()

        async def late(request: Mapping[str, object]) -> bool:
            open_requests.append(questions.are_open)
            return True

        questions.asker = late
        questions.ask({}, lambda reply: answered.set())
        await answered.wait()
        await asyncio.sleep(0)
        open_requests.append(questions.are_open)

    run(main())
    assert open_requests == [True, False]


@pytest.mark.parametrize("said", ["no", "yes", 1, {"behavior": "deny"}, SimpleNamespace()])
def test_nothing_but_true_is_a_yes(said: Any) -> None:
    questions, replies = Questions(), asyncio.Queue[Mapping[str, Any]]()

    async def answer(request: Mapping[str, Any]) -> Any:
        return said

    async def main() -> None:
        questions.asker = answer
        questions.ask({}, replies.put_nowait)
        assert (await replies.get())["behavior"] == "deny"

    run(main())


def test_what_is_said_to_a_question_that_was_withdrawn_is_not_passed_on() -> None:
    questions, replies = Questions(), list[Mapping[str, Any]]()

    async def main() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def stubborn(request: Mapping[str, Any]) -> bool:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.set()
            return True

        questions.asker = stubborn
        questions.ask({}, replies.append)
        await begun.wait()
        questions.withdraw()
        assert not questions.are_open
        await ended.wait()
        await asyncio.sleep(0)

    run(main())
    assert replies == []
