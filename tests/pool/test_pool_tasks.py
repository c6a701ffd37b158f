"""What may be a task: any text is data; anything else is refused before a process is started."""

from __future__ import annotations

from typing import Any

import pytest

from agent_pool import (
    AgentNotFound,
    ConfigError,
    TaskFailed,
)
from agent_pool.loopback import ErrorResponse, ModelRequest
from support.model_scripts import echo_task
from support.pools import PoolProject
from support.waiting import run


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("", "task: it is empty"),
        (" \n\t", "task: it is empty"),
        ("half \ud83d", "half a surrogate pair at character 5"),
        (b"bytes", "task: expected text, found bytes"),
    ],
)
def test_an_invalid_task_is_refused_before_any_start(
    pool_project: PoolProject, task: str, said: str
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            with pytest.raises(ConfigError, match=said):
                await pool.invoke("tester", task)
            assert await pool.workers() == []

    run(main())


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 10**400, "5"])
def test_an_invalid_timeout_is_refused_before_any_start(
    pool_project: PoolProject, timeout: float
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            with pytest.raises(ConfigError, match="timeout"):
                await pool.invoke("tester", "one", timeout=timeout)
            assert pool_project.journal("start") == []

    run(main())


def test_an_invalid_agent_name_is_refused(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            for name in ("", "../tester", "a/b", "\0", None, 7):
                with pytest.raises(AgentNotFound):
                    await pool.invoke(name, "one")  # type: ignore[arg-type]

    run(main())


@pytest.mark.parametrize("calls", [[("tester",)], ["tester"], [("tester", "one", "two")], 7])
def test_an_invalid_list_of_calls_is_refused_before_any_start(
    pool_project: PoolProject, calls: Any
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            with pytest.raises(ConfigError):
                await pool.map(calls)
            assert pool_project.journal("start") == []

    run(main())


def test_any_task_text_reaches_the_model_unchanged(pool_project: PoolProject) -> None:
    odd = "a\u2028b\u0085c\x1bd\0e \U0001f600"
    tasks = ["/clear", "/cost now", "--help", "@README.md", odd, "x" * 1_000_000]

    async def main() -> None:
        async with pool_project.real(lambda request: "seen") as (pool, api):
            first = await pool.invoke("tester", "first")
            for task in tasks:
                assert (await pool.invoke("tester", task)).text == "seen"
            assert [request.last_user_text.lstrip() for request in api.requests][1:] == tasks
            too_long = await pool.invoke("tester", "x" * 3_000_000)
            assert (too_long.text, too_long.is_error) == ("Prompt is too long", True)
            last = await pool.invoke("tester", "last")
            assert (last.text, last.pid) == ("seen", first.pid)

    run(main())


def test_an_api_error_is_a_result_and_the_worker_stays(
    pool_project: PoolProject,
) -> None:
    def script(request: ModelRequest) -> object:
        refused = "bad" in request.last_user_text
        return ErrorResponse(400, message="refused by the test") if refused else echo_task(request)

    async def main() -> None:
        async with pool_project.real(script) as (pool, _):
            bad = await pool.invoke("tester", "bad")
            assert bad.is_error
            assert "refused by the test" in bad.text
            with pytest.raises(TaskFailed, match="refused by the test") as failure:
                bad.raise_for_error()
            assert failure.value.result == bad
            good = await pool.invoke("tester", "good")
            assert (good.text, good.pid) == ("echo: good", bad.pid)
            good.raise_for_error()

    run(main())
