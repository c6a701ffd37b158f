"""The account's limits are shown before they are reached, and hold the queue at one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent_pool import (
    AgentPool,
    Ended,
    Event,
    Paused,
    Queued,
    RateLimits,
    RateLimitsChanged,
    RateWindow,
    Started,
    Submitted,
    TaskEvent,
    Text,
)
from agent_pool.cli.pools import limits_text
from agent_pool.loopback import (
    ErrorResponse,
    LoopbackAPI,
    ModelReply,
    ModelRequest,
    ToolUseBlock,
)
from agent_pool.mcp.progress import progress_line
from agent_pool.pool.rate_limits import BELIEVED_SECONDS, ends_hold
from agent_pool.views.activity import describe_activity
from support.model_scripts import echo_task
from support.pool_observers import AdjustableClock
from support.pools import PLAIN, PoolProject, wait_until_idle
from support.waiting import run

HOUR = 3600


def limit_headers(status: str, used: float, resets_at: int) -> dict[str, str]:
    """Return the headers by which the API reports an account's limits."""
    start = "anthropic-ratelimit-unified"
    return {
        f"{start}-status": status,
        f"{start}-reset": str(resets_at),
        f"{start}-representative-claim": "five_hour",
        f"{start}-5h-status": status,
        f"{start}-5h-utilization": str(used),
        f"{start}-5h-reset": str(resets_at),
        f"{start}-5h-surpassed-threshold": "0.9",
        f"{start}-7d-status": "allowed",
        f"{start}-7d-utilization": "0.25",
        f"{start}-7d-reset": str(resets_at + 24 * HOUR),
    }


class Limited:
    """A model whose account is near its limit, reaches it at the task `last`, and is then free.

    Attributes:
        is_reset: the limit does not refuse requests any more.
        is_running: the request of the task `running` has come.
        released: it is answered.
    """

    def __init__(self) -> None:
        self.resets_at = int(time.time()) + HOUR
        self.is_reset = False
        self.is_running = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self, request: ModelRequest) -> Any:
        task = request.last_user_text.strip()
        has_used_tool = bool(request.tool_results)
        if task == "near":
            return ModelReply("near", headers=self._headers("allowed_warning", 0.92))
        if (task == "last" or has_used_tool) and not self.is_reset:
            rejected = self._headers("rejected", 1.0)
            return ErrorResponse(429, message="limit", headers=rejected)
        if task == "half":
            return ToolUseBlock("Bash", {"command": "true"})
        if task == "running":
            self.is_running.set()
            await self.released.wait()
            later = limit_headers("allowed", 0.01, self.resets_at + 5 * HOUR)
            return ModelReply("running", headers=later)
        return echo_task(request)

    def _headers(self, status: str, used: float) -> dict[str, str]:
        return limit_headers(status, used, self.resets_at)


class Watched:
    """A task and its events; a test can wait for one of them."""

    def __init__(self, pool: AgentPool, task: str) -> None:
        self.events: list[TaskEvent] = []
        self._more = asyncio.Event()
        invoked = pool.invoke("tester", task, on_event=self._listen)
        self.answer = asyncio.ensure_future(invoked)

    def _listen(self, event: TaskEvent) -> None:
        self.events.append(event)
        self._more.set()

    async def until_held(self, waited: float = 0.0) -> Queued:
        """Wait until it reports that it waits for the reset, for so many seconds at least."""
        while True:
            self._more.clear()
            last = self.events[-1] if self.events else None
            if isinstance(last, Queued) and last.reason and last.waited >= waited:
                return last
            await self._more.wait()


REASON = "the account's five-hour limit is used up; it is reset "


def test_a_limit_holds_the_queue_until_its_reset(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main(pool: AgentPool, api: LoopbackAPI, model: Limited) -> None:
        seen: list[Event] = []
        pool.subscribe(seen.append)
        await pool.warmup("tester")
        await pool.invoke("tester", "near")
        limits = (await pool.stats()).rate_limits
        assert limits is not None
        assert (limits.status, limits.kind, limits.utilization) == (
            "allowed_warning",
            "five_hour",
            0.92,
        )
        assert limits.resets_at == model.resets_at
        assert limits.seven_day is not None
        assert limits_text(limits) == (
            "used of the account's limits: 92% of five hours, 25% of seven days"
        )
        (worker,) = await pool.workers()
        assert worker.note.startswith("the account's five-hour limit is used to 92%; it is reset ")
        assert [one.limits for one in seen if isinstance(one, RateLimitsChanged)] == [limits]
        await wait_until_idle(pool)
        await hold(pool, clock, model, seen)
        asked = [request.last_user_text.strip() for request in api.requests]
        assert asked == ["near", "last", "last", "held"]

    async def hold(
        pool: AgentPool, clock: AdjustableClock, model: Limited, seen: list[Event]
    ) -> None:
        """Let a task meet the limit, which is reset after more than acquire_timeout."""
        last = Watched(pool, "last")
        first_report = await last.until_held()
        (paused, *_) = [one for one in seen if isinstance(one, Paused)]
        assert HOUR - 60 < paused.seconds < HOUR + 60
        assert first_report.reason.startswith(REASON)
        assert REASON in (describe_activity(first_report) or "")
        assert REASON in str(progress_line(first_report))
        held = Watched(pool, "held")
        await held.until_held(waited=6.5)
        assert not last.answer.done()
        assert not held.answer.done()
        assert (await pool.stats()).pause_reason.startswith(REASON)
        model.is_reset = True
        clock.skip(HOUR + 60)
        assert [(await one.answer).text for one in (last, held)] == ["echo: last", "echo: held"]
        kinds = [type(event) for event in last.events if not isinstance(event, (Queued, Text))]
        assert kinds == [Submitted, Started, Started, Ended]
        assert (await pool.stats()).total.failed == {}

    run(with_limits(pool_project, main))


def test_a_task_that_did_something_fails_at_a_limit(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main(pool: AgentPool, api: LoopbackAPI, model: Limited) -> None:
        result = await pool.invoke("tester", "half")
        assert (result.code, result.retryable) == ("usage_limit", True)

    run(with_limits(pool_project, main))


def test_a_task_waits_once_for_each_reset(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main(pool: AgentPool, api: LoopbackAPI, model: Limited) -> None:
        last = Watched(pool, "last")
        await last.until_held()
        # A process reports its limits only when they have changed; a new one reports them again.
        await pool.reset("tester")
        clock.skip(HOUR + 60)
        result = await last.answer
        assert (result.code, len(api.requests)) == ("usage_limit", 2)

    run(with_limits(pool_project, main))


def test_a_report_of_the_next_window_ends_the_hold(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main(pool: AgentPool, api: LoopbackAPI, model: Limited) -> None:
        seen: list[Event] = []
        pool.subscribe(seen.append)
        running = Watched(pool, "running")
        await model.is_running.wait()
        last = Watched(pool, "last")
        await last.until_held()
        model.is_reset = True
        model.released.set()
        assert [(await one.answer).text for one in (running, last)] == ["running", "echo: last"]
        pauses = [one.seconds for one in seen if isinstance(one, Paused)]
        assert (pauses[0] > HOUR - 60, pauses[-1]) == (True, 0)
        assert (await pool.stats()).paused == 0

    run(with_limits(pool_project, main, max_size=2))


@given(st.floats(0, 600), st.sampled_from(["allowed", "allowed_warning", "rejected"]))
def test_an_old_report_does_not_end_a_hold(seconds: float, status: str) -> None:
    now = 1_000_000.0
    hold = RateLimits("rejected", "five_hour", 1.0, now, RateWindow(1.0, now), RateWindow(0.1, 2e6))
    # It can name the other limit, whose reset is later.
    later = RateLimits(status, "seven_day", 0.1, 2e6, RateWindow(0.9, now), RateWindow(0.1, 2e6))
    is_lifted = status != "rejected"
    assert ends_hold(hold, later, seconds) == (is_lifted and seconds >= BELIEVED_SECONDS)
    next_window = replace(later, five_hour=RateWindow(0.0, now + HOUR))
    paid = replace(later, is_using_overage=True)
    assert ends_hold(hold, next_window, seconds) == is_lifted
    assert ends_hold(hold, paid, seconds) == (is_lifted or status == "rejected")


async def with_limits(
    project: PoolProject,
    main: Callable[[AgentPool, LoopbackAPI, Limited], Awaitable[None]],
    **settings: Any,
) -> None:
    """Run a test with an account that has limits: one with a subscription."""
    model = Limited()
    async with LoopbackAPI(model) as api:
        environ = project.environment(
            api.url, ANTHROPIC_API_KEY="", CLAUDE_CODE_OAUTH_TOKEN="sk-ant-oat01-dummy"
        )
        settings = {**PLAIN, "acquire_timeout": 6.0, "max_size": 1, **settings}
        async with AgentPool(environ=environ, **settings) as pool:
            await main(pool, api, model)
