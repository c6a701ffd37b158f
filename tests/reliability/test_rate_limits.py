"""The account's limits are shown before they are reached, and hold the queue at one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from agent_pool import (
    AgentPool,
    Event,
    Paused,
    Queued,
    RateLimitsChanged,
    TaskEvent,
)
from agent_pool.cli.progress import describe_activity
from agent_pool.cli.stats import limits_text
from agent_pool.loopback import ErrorResponse, LoopbackAPI, ModelReply, ModelRequest
from agent_pool.mcp.progress import progress_line
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
    """A model whose account is near its limit, reaches it at the task `last`, and is then free."""

    def __init__(self) -> None:
        self.resets_at = int(time.time()) + HOUR

    def __call__(self, request: ModelRequest) -> Any:
        task = request.last_user_text.strip()
        if task == "near":
            return ModelReply(
                "near", headers=limit_headers("allowed_warning", 0.92, self.resets_at)
            )
        if task == "last":
            rejected = limit_headers("rejected", 1.0, self.resets_at)
            return ErrorResponse(429, message="limit", headers=rejected)
        return echo_task(request)


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
        result = await pool.invoke("tester", "last")
        assert (result.code, result.retryable) == ("usage_limit", True)
        (paused, *_) = [one for one in seen if isinstance(one, Paused)]
        assert HOUR - 60 < paused.seconds < HOUR + 60
        await held(pool, clock)
        asked = [request.last_user_text.strip() for request in api.requests]
        assert asked == ["near", "last", "held"]

    async def held(pool: AgentPool, clock: AdjustableClock) -> None:
        """Give the pool a task, and let the limit be reset after more than acquire_timeout."""
        reports: list[Queued] = []
        waited_long = asyncio.Event()

        def listen(event: TaskEvent) -> None:
            if isinstance(event, Queued):
                reports.append(event)
                if event.waited > 2.2:
                    waited_long.set()

        waiting = asyncio.create_task(pool.invoke("tester", "held", on_event=listen))
        await waited_long.wait()
        assert not waiting.done()
        reason = "the account's five-hour limit is used up; it is reset "
        assert reports[0].reason.startswith(reason)
        assert reason in (describe_activity(reports[0]) or "")
        assert reason in str(progress_line(reports[0]))
        stats = await pool.stats()
        assert stats.pause_reason.startswith(reason)
        clock.skip(HOUR + 60)
        assert (await waiting).text == "echo: held"

    async def with_subscription() -> None:
        model = Limited()
        async with LoopbackAPI(model) as api:
            # An account with an API key has no such limits.
            environ = pool_project.environment(
                api.url, ANTHROPIC_API_KEY="", CLAUDE_CODE_OAUTH_TOKEN="sk-ant-oat01-dummy"
            )
            settings = {**PLAIN, "acquire_timeout": 2.0, "max_size": 1}
            async with AgentPool(environ=environ, **settings) as pool:
                await main(pool, api, model)

    run(with_subscription())
