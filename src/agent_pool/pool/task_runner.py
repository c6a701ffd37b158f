"""One task from the request to the result: resolved, given to a worker, bounded, and reported."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import replace
from typing import Final

from agent_pool.agents import Agent
from agent_pool.api import OnEvent, OnPermission
from agent_pool.claude.failures import sign_in_text
from agent_pool.claude.permissions import Decider
from agent_pool.claude.protocol.results import Spend, TurnResult
from agent_pool.claude.protocol.signals import CanUseTool, TurnEvent
from agent_pool.claude.worker import Worker
from agent_pool.errors import (
    AgentPoolError,
    BudgetReached,
    InternalError,
    PromptTooLong,
    RequestTooLarge,
    SignInRefused,
    TaskError,
    TaskTimeout,
    UsageLimitReached,
    WorkerDied,
)
from agent_pool.events import Ended, Retry, Spent, Started, Submitted, TaskEvent
from agent_pool.models import Denied, PermissionRequest, TaskRequest, TaskResult
from agent_pool.pool.agent_registry import AgentRegistry
from agent_pool.pool.answer_schema import check_answer
from agent_pool.pool.budgets import TaskBudget, budget_of
from agent_pool.pool.call_options import read_options
from agent_pool.pool.conversations import Conversations
from agent_pool.pool.event_bus import EventBus, call_listener
from agent_pool.pool.isolated_tasks import IsolatedTasks
from agent_pool.pool.request_checks import check_request
from agent_pool.pool.scheduler import AgentSpec
from agent_pool.pool.supervisor import OVERLOADED, Supervisor
from agent_pool.settings import Settings

log = logging.getLogger("agent_pool")

OVERLOAD_PAUSE: Final = 5.0
"""Seconds without new work after the API refused a task for load without saying for how long."""


class RunningTask:
    """One task of the pool, and the place where all of its events are published.

    Args:
        request: the task.
        bus: the pool's events.
        on_event: called with each event of the task, in order; `Ended` is the last.
        on_permission: decides permission requests; without it every request is denied.
        task_id: the id to use; None for a new one.

    Attributes:
        id: the pool's id of the task.
        has_ended: its end is published, or just being published; it cannot be cancelled any more.
        definition: the agent's definition; None before it is known.
        unfinished: what the agent had said and used when the task was cancelled; None without.
    """

    def __init__(
        self,
        request: TaskRequest,
        bus: EventBus,
        on_event: OnEvent | None,
        on_permission: OnPermission | None,
        task_id: str | None = None,
    ) -> None:
        self.id = task_id or f"task-{secrets.token_hex(8)}"
        self.request = request
        self.on_permission = on_permission
        self.has_ended = False
        self.definition: Agent | None = None
        self.unfinished: TaskResult | None = None
        self._bus = bus
        self._on_event = on_event
        self._agent = str(request.agent)
        self._project = ""
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._worker = ""
        self._reused = False
        self.emit(Submitted(request.without_secrets()))

    def emit(self, event: TaskEvent) -> None:
        """Publish an event of this task, and pass it to `on_event`."""
        labels = {"task_id": self.id, "agent": self._agent, "project": self._project}
        published = self._bus.publish(event, **labels)
        if self._on_event is not None:
            call_listener(self._on_event, published)

    def resolved(self, spec: AgentSpec, definition: Agent | None) -> None:
        """Note the agent that the request means: a request can use the name of its file."""
        self._agent, self._project = spec.key.name, spec.key.project
        self.definition = definition

    def started(self, worker: Worker) -> None:
        """Note that a worker has the task from now on."""
        self._started = time.monotonic()
        self._worker, self._reused = worker.name, worker.turns > 0
        self.emit(Started(worker.name, worker.pid or 0, self.waited, self._reused))

    def requeued(self) -> None:
        """Note that it waits for a worker again."""
        self._started = None
        self._worker, self._reused = "", False

    def end(self, *, result: TaskResult | None = None, error: AgentPoolError | None = None) -> None:
        """Publish the end of the task."""
        # Before the event: a listener of it can try to cancel the task, which must have no effect.
        self.has_ended = True
        self.emit(
            Ended(
                result=result,
                error=error,
                worker=self._worker,
                waited=self.waited,
                running=self.running,
                reused=self._reused,
            )
        )

    @property
    def has_started(self) -> bool:
        """Return whether a worker has, or had, it."""
        return self._started is not None

    @property
    def waited(self) -> float:
        """Return the seconds from the request to the worker, or to now."""
        until = time.monotonic() if self._started is None else self._started
        return until - self._submitted

    @property
    def running(self) -> float:
        """Return the seconds since a worker has it; 0 before."""
        return 0.0 if self._started is None else time.monotonic() - self._started


class TaskRunner:
    """Runs tasks on the workers of a pool."""

    def __init__(
        self,
        registry: AgentRegistry,
        supervisor: Supervisor,
        conversations: Conversations,
        settings: Settings,
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._conversations = conversations
        self._settings = settings
        self._isolated = IsolatedTasks(registry, supervisor, settings, self.run_on)

    async def close(self) -> None:
        """Wait until the worktrees of ended tasks are removed or kept."""
        await self._isolated.close()

    async def run(self, task: RunningTask) -> TaskResult:
        """Run a task to its end, and publish `Ended` unless the task is cancelled.

        Raises:
            AgentPoolError: see `PoolAPI.invoke`; `InternalError` for an unexpected exception.
        """
        try:
            result = await self._run(task)
        except AgentPoolError as error:
            task.end(error=error)
            raise
        except Exception as error:
            log.exception("a task of agent %r failed because of a bug", task.request.agent)
            bug = InternalError(
                f"a bug in agent-pool stopped the task of agent {task.request.agent!r}: "
                f"{type(error).__name__}: {error}; the log has the traceback, please report it"
            )
            task.end(error=bug)
            raise bug from error
        task.end(result=result)
        return result

    async def _run(self, task: RunningTask) -> TaskResult:
        request = task.request
        # First: a wrong request must cost neither a process nor a place in the queue.
        schema = check_request(request)
        options = read_options(request)
        if project := self._registry.isolates(request.agent, request.project, options):
            return await self._isolated.run(task, project, schema, options)
        spec = await self._registry.resolve(request.agent, request.project, schema, options)
        task.resolved(spec, self._registry.agent(spec))
        if request.conversation is not None:
            return await self._run_in_conversation(task, spec, request.conversation)
        return await self._run_alone(task, spec)

    async def _run_alone(self, task: RunningTask, spec: AgentSpec) -> TaskResult:
        """Run a task that belongs to no conversation, again if the first worker did nothing.

        A process can end after it was granted, and the account's limit can be met at the first
        request. The task has done and cost nothing then: it gets another worker, once, or waits for
        the reset, once for each. It keeps its place in the queue.
        """
        place = self._supervisor.new_place()
        holds: set[float | None] = set()
        has_lost_worker = False
        while True:
            worker = await self._supervisor.acquire(spec, task.emit, place)
            try:
                result = await self.run_on(task, worker)
                hold = self._supervisor.hold
                if not _met_limit_at_once(result) or hold is None or hold.resets_at in holds:
                    return result
                holds.add(hold.resets_at)
            except WorkerDied as error:
                if has_lost_worker or not worker.ended_before_turn or self._supervisor.is_closed:
                    raise
                has_lost_worker = True
                log.warning("%s; its task is given to another worker", error)
            finally:
                # A plain call: a cancelled caller can neither lose a worker nor hand a used one on.
                self._supervisor.release(worker)
            task.requeued()

    async def _run_in_conversation(
        self, task: RunningTask, spec: AgentSpec, name: str
    ) -> TaskResult:
        conversation = await self._conversations.acquire(spec, name, task.emit)
        assert conversation.worker is not None, "acquire() brings a worker"
        is_intact = False
        try:
            result = await self.run_on(task, conversation.worker)
            # After an error the content of its context is unknown.
            is_intact = not result.is_error
        finally:
            # Also after a failure: the caller has asked for its end.
            if task.request.ends_conversation:
                conversation.has_ended = True
            self._conversations.release(conversation, is_intact=is_intact)
        return replace(result, conversation=name, place=conversation.tasks)

    async def run_on(self, task: RunningTask, worker: Worker) -> TaskResult:
        """Run a task on a worker that the caller holds.

        Raises:
            AgentPoolError: see `PoolAPI.invoke`.
        """
        request = task.request
        task.started(worker)
        try:
            turn = await self._turn(task, worker, self._budget(task, worker))
        except (TaskTimeout, BudgetReached) as error:
            error.result = _partial_result(task, worker, error)
            raise
        except asyncio.CancelledError:
            # Now: the worker forgets its words when it is given back.
            task.unfinished = _partial_result(task, worker)
            raise
        result = TaskResult(
            text=_text_of(turn, request.task),
            is_error=turn.is_error,
            subtype=turn.subtype,
            agent=request.agent,
            duration=task.running,
            waited=task.waited,
            turns=turn.turns,
            usage=turn.spend.usage,
            cost_usd=turn.spend.cost_usd,
            session_id=turn.session_id,
            worker=worker.name,
            pid=worker.pid or 0,
            structured=turn.structured,
            task_id=task.id,
            code=turn.code,
            partial=turn.partial,
            stop_reason=turn.stop_reason,
            terminal_reason=turn.terminal_reason,
            models=turn.models,
            requests=turn.requests,
            fallback=turn.fallback,
            denied=turn.denied,
        )
        # An error of the CLI has no structure; the caller gets it as it is.
        if request.schema is not None and not result.is_error:
            check_answer(request.schema, result)
        return result

    def _budget(self, task: RunningTask, worker: Worker) -> TaskBudget:
        """Return the limits of a task on this worker.

        Raises:
            ConfigError: there are some, and this CLI cannot watch them.
        """
        session = worker.session
        budget = budget_of(
            task.request,
            task.definition,
            self._settings,
            has_subscription=session.has_subscription,
        )
        if not session.usage.is_possible:
            budget.refuse_unwatched(worker.launch.version)
        return budget

    async def _turn(self, task: RunningTask, worker: Worker, budget: TaskBudget) -> TurnResult:
        """Give the task to the worker, and wait for its result within its time and its budget.

        Raises:
            TaskTimeout: the time passed.
            BudgetReached: the budget is used up, and the CLI does not end the turn.
        """
        reached = ""  # the limit that ended the turn
        seconds = float(task.request.timeout or self._settings.task_timeout)

        def listen(event: TurnEvent) -> None:
            nonlocal reached
            if isinstance(event, Retry):
                self._supervisor.report_retry(worker, event)
            task.emit(event)
            if isinstance(event, Spent) and not reached:
                reached = budget.problem(event.usage, event.cost_usd)
                if reached:
                    worker.interrupt(BudgetReached(_over_budget(task.request, worker, reached)))

        try:
            async with asyncio.timeout(seconds) as bound:
                clock = PausableTimeout(bound)
                try:
                    turn = await worker.turn(
                        task.request.task,
                        listen,
                        self._decider(task, clock),
                        task.request.attachments,
                    )
                finally:
                    # `Timeout.reschedule` raises after the end of its block.
                    clock.end()
        except TimeoutError as error:
            if isinstance(error, AgentPoolError):  # a stall, which the supervisor raised here
                raise
            raise _timed_out(task.request, worker, seconds) from None
        # The CLI has used up its own tries, and the API still refuses work.
        if turn.api_status in OVERLOADED:
            self._supervisor.pause(OVERLOAD_PAUSE)
        # An answer that was complete before the interrupt is not cut.
        if reached and turn.is_error:
            # With the numbers of the whole turn, which an interrupted answer has raised.
            problem = budget.problem(turn.spend.usage, turn.spend.cost_usd) or reached
            text = f"the task was interrupted: {problem}"
            return replace(turn, text=text, code=BudgetReached.code)
        return turn

    def _decider(self, task: RunningTask, clock: PausableTimeout) -> Decider | None:
        """Return a decider that asks `on_permission`, at most `permission_timeout` seconds each."""
        on_permission = task.on_permission
        if on_permission is None:
            return None
        patience = self._settings.permission_timeout

        async def decide(asked: CanUseTool) -> bool | Denied:
            request = PermissionRequest(
                task.request.agent, asked.tool, asked.input, asked.description
            )
            pause = object()
            clock.pause(pause)
            # An `on_permission` that ignores its cancellation must not stop the task's time for
            # ever: it runs on at the latest after `patience` seconds.
            resume = asyncio.get_running_loop().call_later(patience, clock.resume, pause)
            try:
                async with asyncio.timeout(patience) as bound:
                    return await on_permission(request)
            except TimeoutError:
                # A TimeoutError of `on_permission` itself is a failure and not the end of the time.
                if not bound.expired():
                    raise
                return Denied(
                    f"This is not permitted: there was no answer within {patience:g} s "
                    "(setting permission_timeout)."
                )
            finally:
                resume.cancel()
                clock.resume(pause)

        return decide


class PausableTimeout:
    """The bound of a task's time, which does not run while a person decides.

    Args:
        bound: the timeout to move.
    """

    def __init__(self, bound: asyncio.Timeout) -> None:
        self._bound = bound
        self._pauses: set[object] = set()
        self._left = 0.0
        self._has_ended = False

    def pause(self, pause: object) -> None:
        """Stop the time until `resume` is called with the same object."""
        now = asyncio.get_running_loop().time()
        if not self._pauses and self._can_move and (when := self._bound.when()) is not None:
            self._left = when - now
            self._bound.reschedule(None)
        # Several requests can be open at once; the time runs again after the last of them.
        self._pauses.add(pause)

    def resume(self, pause: object) -> None:
        """End a pause; the time runs again when no other pause is left. Can be called twice."""
        # Both the decision and its time limit end a pause, in any order.
        was_open = pause in self._pauses
        self._pauses.discard(pause)
        if was_open and not self._pauses and self._can_move:
            self._bound.reschedule(asyncio.get_running_loop().time() + self._left)

    def end(self) -> None:
        """Leave the timeout alone from now on: the task has ended, decisions can end later."""
        self._has_ended = True

    @property
    def _can_move(self) -> bool:
        return not self._has_ended and not self._bound.expired()


def _partial_result(
    task: RunningTask, worker: Worker, error: TaskError | None = None
) -> TaskResult | None:
    """Return what the agent had said and used when its task was stopped; None if that is nothing.

    Its tokens and cost are those of the answers that the API had completed; the turn itself
    reports the rest when it has been interrupted.
    """
    if not worker.words and worker.spent == Spend():
        return None
    return TaskResult(
        text=error.message if error else "",
        is_error=True,
        subtype="",
        agent=task.request.agent,
        duration=task.running,
        waited=task.waited,
        turns=0,
        usage=worker.spent.usage,
        cost_usd=worker.spent.cost_usd,
        session_id="",
        worker=worker.name,
        pid=worker.pid or 0,
        task_id=task.id,
        code=error.code if error else "",
        partial=worker.words,
    )


def _met_limit_at_once(result: TaskResult) -> bool:
    """Check whether a turn met the account's limit at its first request, so it did nothing."""
    is_unanswered = not (result.requests or result.partial or result.denied)
    return result.code == UsageLimitReached.code and is_unanswered


def _text_of(turn: TurnResult, task: str) -> str:
    """Return the text of a turn, with what only the pool knows about its failure."""
    if turn.code == SignInRefused.code:
        return sign_in_text(turn.text)
    if turn.code not in (PromptTooLong.code, RequestTooLarge.code):
        return turn.text
    return f"{turn.text} (The task itself has {len(task):,} characters.)"


def _over_budget(request: TaskRequest, worker: Worker, problem: str) -> str:
    return (
        f"the task of agent {request.agent!r} on worker {worker.name} was stopped: {problem}; give "
        "it a smaller task, or raise its budget"
    )


def _timed_out(request: TaskRequest, worker: Worker, seconds: float) -> TaskTimeout:
    advice = worker.note or "; ".join(worker.taints) or "give it more time or a smaller task"
    return TaskTimeout(
        f"the task of agent {request.agent!r} on worker {worker.name} was stopped after "
        f"{seconds:g} s (its timeout, by default the setting task_timeout); {advice}"
    )
