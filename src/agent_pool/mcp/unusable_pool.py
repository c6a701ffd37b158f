"""The stand-in for a pool that cannot be made: it raises the reason in every call.

A server that ends at once shows its user "Connection closed" and no reason.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, NoReturn, Self

from agent_pool import (
    AgentList,
    AgentPoolError,
    ConfigError,
    Event,
    LaunchSpec,
    Outcome,
    PoolStats,
    PromptSize,
    ResetVerdict,
    TaskError,
    TaskEvent,
    TaskHandle,
    TaskRequest,
    TaskResult,
    WorkerInfo,
)


class UnusablePool:
    """A `PoolAPI` whose every method raises a `ConfigError` that explains `error`."""

    def __init__(self, error: AgentPoolError) -> None:
        self._problem = (
            f"agent-pool cannot work: {error}\nSettings are read when the server starts: "
            "correct them, then connect to it again (in Claude Code: /mcp)."
        )

    def _refuse(self) -> NoReturn:
        raise ConfigError(self._problem)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def kill(self) -> None: ...

    async def submit(self, request: TaskRequest, **options: Any) -> TaskHandle:
        self._refuse()

    async def invoke(self, agent: str, task: str, **options: Any) -> TaskResult:
        self._refuse()

    async def stream(
        self, agent: str, task: str, **options: Any
    ) -> AsyncGenerator[TaskEvent, None]:
        self._refuse()
        yield  # makes this an asynchronous generator, as the interface has it

    async def map(self, requests: Any, **options: Any) -> list[Outcome]:
        self._refuse()

    async def cancel(self, task_id: str, *, error: TaskError | None = None) -> bool:
        self._refuse()

    async def check(self, request: TaskRequest) -> None:
        self._refuse()

    async def end_conversation(
        self, agent: str, conversation: str, *, project: str | None = None
    ) -> bool:
        self._refuse()

    async def agents(self, *, project: str | None = None) -> AgentList:
        self._refuse()

    async def agents_version(self, *, project: str | None = None) -> str:
        return "unusable"

    async def launch_spec(self, agent: str, *, project: str | None = None) -> LaunchSpec:
        self._refuse()

    async def prompt_size(self, agent: str, *, project: str | None = None) -> PromptSize:
        self._refuse()

    async def reset_verdict(
        self, agent: str, *, project: str | None = None, refresh: bool = False
    ) -> ResetVerdict | None:
        self._refuse()

    async def warmup(self, agent: str, *, project: str | None = None) -> WorkerInfo:
        self._refuse()

    async def workers(self) -> list[WorkerInfo]:
        self._refuse()

    async def stats(self) -> PoolStats:
        self._refuse()

    async def reset(self, agent: str, *, project: str | None = None) -> int:
        self._refuse()

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self._refuse()
