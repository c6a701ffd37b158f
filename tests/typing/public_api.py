"""Types of the public Python API, as a type checker of a user sees them.

Nothing runs this file: mypy checks it with all other files, and fails if a type changes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, assert_never, assert_type

from agent_pool import (
    AgentInfo,
    AgentList,
    AgentPool,
    AgentPoolError,
    AgentStats,
    Denied,
    Ended,
    Event,
    LaunchSpec,
    Outcome,
    Paused,
    PermissionAnswered,
    PermissionAsked,
    PermissionRequest,
    PoolAPI,
    PoolStats,
    PoolStatus,
    PoolTimeout,
    PromptSize,
    Queued,
    RateLimits,
    RateLimitsChanged,
    RemotePool,
    ResetVerdict,
    Retry,
    ReuseStats,
    Settings,
    SilentPool,
    Snapshot,
    Spent,
    Started,
    StrayResult,
    Submitted,
    TaskAPI,
    TaskEvent,
    TaskFailed,
    TaskFilter,
    TaskHandle,
    TaskRecord,
    TaskRequest,
    TaskResult,
    Text,
    ToolOutput,
    ToolUse,
    TurnEnded,
    Usage,
    Withdrawn,
    WorkerAssigned,
    WorkerDied,
    WorkerInfo,
    WorkerReady,
    WorkerReset,
    WorkerRetired,
    WorkerStateChanged,
    connect,
    error_from_json,
    event_from_json,
    load_settings,
    running_pools,
    sync,
)
from agent_pool.mcp.unusable_pool import UnusablePool
from agent_pool.tasks.service import DurablePool


def check_clients_of_the_daemon(pool: RemotePool, blocking: sync.BlockingRemotePool) -> TaskAPI:
    """Check that a client is a `TaskAPI`, and the types of the blocking face."""
    assert_type(connect("/srv/shop", environ={}, start=False), RemotePool)
    assert_type(connect(url="http://127.0.0.1:1", token="t"), RemotePool)
    with sync.connect() as opened, sync.AgentPool(max_size=2) as local:
        assert_type(opened, sync.BlockingRemotePool)
        assert_type(opened.invoke("a", "task"), TaskResult)
        assert_type(opened.tasks(TaskFilter(limit=5)), list[TaskRecord])
        assert_type(opened.attach("id").result(timeout=5), TaskResult)
        assert_type(local, sync.AgentPool)
        assert_type(local.settings, Settings)
        assert_type(local.map([("a", "task")]), list[Outcome])
        for event in local.stream("a", "task", on_permission=lambda request: Denied("no")):
            check_task_event(event)
    return pool


def check_pools_implement_the_interface(pool: AgentPool, unusable: UnusablePool) -> list[PoolAPI]:
    """Check that each pool can be used where a `PoolAPI` is expected."""
    return [pool, unusable]


async def check_construction(settings: Settings) -> None:
    """Check the arguments of `AgentPool` and the type of an open pool."""
    async with AgentPool(settings, environ={"HOME": "/home"}, max_size=2) as pool:
        assert_type(pool, AgentPool)
        assert_type(pool.settings, Settings)
    assert_type(load_settings(max_size=2), Settings)


async def check_tasks(pool: PoolAPI, request: TaskRequest) -> None:
    """Check the calls that run tasks."""
    schema = {"type": "object"}
    async with pool as opened:
        assert_type(opened, PoolAPI)
    result = await pool.invoke(
        "a",
        "task",
        project="/srv/shop",
        timeout=1.5,
        conversation="c",
        schema=schema,
        model="opus",
        effort="low",
        permission_mode="plan",
        env={"A": "b"},
        isolation="worktree",
        on_event=on_event,
        on_permission=on_permission,
    )
    assert_type(result, TaskResult)
    assert_type(result.worktree, str | None)
    assert_type(result.branch, str | None)
    handle = await pool.submit(request, on_event=on_event, on_permission=on_permission)
    assert_type(handle, TaskHandle)
    assert_type(handle.id, str)
    assert_type(handle.request, TaskRequest)
    assert_type(await handle.result(), TaskResult)
    assert_type(handle.cancel(), bool)
    assert_type(await pool.cancel(handle.id), bool)
    events = pool.stream("a", "task", conversation="c", on_permission=on_permission)
    assert_type(events, AsyncGenerator[TaskEvent, None])
    async for event in events:
        check_task_event(event)


async def check_handle_of_a_local_pool(pool: AgentPool, request: TaskRequest) -> TaskHandle:
    """Check that the handle of an `AgentPool` is a `TaskHandle`."""
    handle = await pool.submit(request)
    assert_type(await handle.result(), TaskResult)
    return handle


async def check_batches(pool: PoolAPI, request: TaskRequest) -> None:
    """Check the three forms of a request, and the callbacks of `map`."""
    outcomes = await pool.map(
        [request, ("a", "one"), {"agent": "a", "task": "two", "timeout": 2.0}],
        timeout=60.0,
        on_event=on_batch_event,
        on_permission=on_batch_permission,
        on_end=on_end,
    )
    assert_type(outcomes, list[TaskResult | AgentPoolError])
    assert_type(outcomes, list[Outcome])


async def check_other_calls(pool: PoolAPI, request: TaskRequest) -> None:
    """Check the calls that run no task."""
    await pool.open()
    await pool.check(request)
    assert_type(await pool.end_conversation("a", "c", project="/srv/shop"), bool)
    assert_type(await pool.agents(project="/srv/shop"), AgentList)
    assert_type(await pool.agents_version(), str)
    assert_type(await pool.launch_spec("a"), LaunchSpec)
    assert_type(await pool.prompt_size("a"), PromptSize)
    assert_type(await pool.reset_verdict("a", refresh=True), ResetVerdict | None)
    assert_type(await pool.warmup("a"), WorkerInfo)
    assert_type(await pool.workers(), list[WorkerInfo])
    assert_type(await pool.stats(), PoolStats)
    assert_type(await pool.reset("a"), int)
    assert_type(pool.subscribe(on_any_event), Callable[[], None])
    assert_type(await running_pools(), list[PoolStatus | SilentPool])
    await pool.close()
    pool.kill()


def on_event(event: TaskEvent) -> None:
    """Accept an event of a task."""


def on_batch_event(index: int, event: TaskEvent) -> None:
    """Accept an event of a task of a batch."""


def on_end(index: int, outcome: Outcome) -> None:
    """Accept the outcome of a task of a batch."""


def on_any_event(event: Event) -> None:
    """Accept an event of a pool."""


async def on_permission(request: PermissionRequest) -> bool | Denied:
    """Decide a permission request."""
    assert_type(request.tool, str)
    assert_type(request.input, Mapping[str, Any])
    return Denied("not here") if request.tool == "Bash" else True


async def on_batch_permission(index: int, request: PermissionRequest) -> bool:
    """Decide a permission request of a batch."""
    return False


def check_result(result: TaskResult) -> None:
    """Check the types of a result's fields."""
    assert_type(result.text, str)
    assert_type(result.is_error, bool)
    assert_type(result.usage, Usage)
    assert_type(result.usage.input_tokens, int)
    assert_type(result.usage.cache_hit_rate, float)
    assert_type(result.cost_usd, float)
    assert_type(result.duration, float)
    assert_type(result.worker, str)
    assert_type(result.pid, int)
    assert_type(result.conversation, str | None)
    assert_type(result.place, int)
    assert_type(result.task_id, str)
    assert_type(result.as_json(), dict[str, Any])
    assert_type(TaskResult.from_json(result.as_json()), TaskResult)


def check_figures(stats: PoolStats, agents: AgentList) -> None:
    """Check the types of figures and of agents."""
    assert_type(stats.agents, tuple[AgentStats, ...])
    assert_type(stats.total, AgentStats)
    assert_type(stats.total.failed, Mapping[str, int])
    assert_type(stats.reuse, ReuseStats)
    assert_type(stats.reuse.seconds_saved, float | None)
    assert_type(agents.usable, tuple[AgentInfo, ...])
    assert_type(agents.usable[0].tools, tuple[str, ...] | None)
    assert_type(agents.broken[0].error, str | None)


def check_task_event(event: TaskEvent) -> None:  # noqa: C901 - one branch for each class
    """Check that an event of a task is one of these classes, and the types of their fields."""
    assert_type(event.number, int)
    assert_type(event.agent, str)
    assert_type(event.task_id, str)
    match event:
        case Submitted():
            assert_type(event.request, TaskRequest)
        case Queued():
            assert_type(event.position, int)
        case Started():
            assert_type(event.pid, int)
        case Text():
            assert_type(event.text, str)
        case Withdrawn():
            assert_type(event.text, str)
        case ToolUse():
            assert_type(event.name, str)
        case ToolOutput():
            assert_type(event.is_error, bool)
        case Retry():
            assert_type(event.attempt, int)
        case Spent():
            assert_type(event.cost_usd, float)
        case PermissionAsked():
            assert_type(event.request, PermissionRequest)
        case PermissionAnswered():
            assert_type(event.allowed, bool)
        case Ended():
            assert_type(event.result, TaskResult | None)
            assert_type(event.error, AgentPoolError | None)
        case _:
            assert_never(event)


def check_event(event: Event) -> None:
    """Check that an event is one of these classes, and the types of their fields."""
    assert_type(event_from_json(event.as_json()), Event)
    match event:
        case WorkerStateChanged():
            assert_type(event.state, str)
        case WorkerReady():
            assert_type(event.seconds, float | None)
        case WorkerAssigned() | WorkerReset() | StrayResult():
            assert_type(event.worker, str)
        case WorkerRetired():
            assert_type(event.taints, tuple[str, ...])
        case TurnEnded():
            assert_type(event.usage, Usage)
        case Paused():
            assert_type(event.seconds, float)
        case RateLimitsChanged():
            assert_type(event.limits, RateLimits)
        case Snapshot():
            assert_type(event.stats, PoolStats)
        case _:
            check_task_event(event)


def check_durable_pool(pool: DurablePool) -> TaskAPI:
    """Check that a pool with a store has the whole interface."""
    return pool


async def check_errors(pool: PoolAPI) -> None:
    """Check that errors can be caught by their common class, and their attributes."""
    try:
        await pool.invoke("a", "task")
    except PoolTimeout as error:
        common: AgentPoolError = error
        assert_type(common.code, str)
        assert_type(common.retryable, bool)
        assert_type(common.message, str)
        assert_type(common.as_json(), dict[str, Any])
    except WorkerDied as error:
        assert_type(error.pid, int | None)
    except TaskFailed as error:
        assert_type(error.result, TaskResult | None)
    assert_type(error_from_json({"code": "pool_timeout"}), AgentPoolError)
