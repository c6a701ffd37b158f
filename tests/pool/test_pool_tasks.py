"""What may be a task: any text is data; anything else is refused before a process is started."""

from __future__ import annotations

from typing import Any

import pytest

from agent_pool import (
    AgentNotFound,
    ConfigError,
    TaskFailed,
)
from agent_pool.loopback import Failure, Request
from pool_world import (
    PoolWorld,
    say_task,
)
from support import run


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("", "the task is empty"),
        (" \n\t", "the task is empty"),
        ("half \ud83d", "half a surrogate pair at character 5"),
        (b"bytes", "a task is text, found bytes"),
    ],
)
def test_what_is_no_task_is_refused_and_nothing_is_started(
    world: PoolWorld, task: str, said: str
) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            with pytest.raises(ConfigError, match=said):
                await pool.invoke("tester", task)
            assert await pool.list() == []

    run(main())


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 10**400, "5"])
def test_what_is_no_time_is_refused_and_nothing_is_started(
    world: PoolWorld, timeout: float
) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            with pytest.raises(ConfigError, match="timeout"):
                await pool.invoke("tester", "one", timeout=timeout)
            assert world.journal("start") == []

    run(main())


def test_what_is_no_name_is_refused(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            for name in ("", "../tester", "a/b", "\0", None, 7):
                with pytest.raises(AgentNotFound):
                    await pool.invoke(name, "one")  # type: ignore[arg-type]

    run(main())


@pytest.mark.parametrize("calls", [[("tester",)], ["tester"], [("tester", "one", "two")], 7])
def test_what_is_no_list_of_calls_is_refused_and_nothing_is_started(
    world: PoolWorld, calls: Any
) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            with pytest.raises(ConfigError):
                await pool.map(calls)
            assert world.journal("start") == []

    run(main())


def test_any_text_reaches_the_model_as_it_is(world: PoolWorld) -> None:
    odd = "a\u2028b\u0085c\x1bd\0e \U0001f600"
    tasks = ["/clear", "/cost now", "--help", "@README.md", odd, "x" * 1_000_000]

    async def main() -> None:
        async with world.real(lambda request: "seen") as (pool, api):
            first = await pool.invoke("tester", "first")
            for task in tasks:
                assert (await pool.invoke("tester", task)).text == "seen"
            assert [request.last_user_text.lstrip() for request in api.requests][1:] == tasks
            too_long = await pool.invoke("tester", "x" * 3_000_000)
            assert (too_long.text, too_long.is_error) == ("Prompt is too long", True)
            last = await pool.invoke("tester", "last")
            assert (last.text, last.pid) == ("seen", first.pid)

    run(main())


def test_an_api_error_is_a_result_that_says_so_and_the_worker_goes_on(world: PoolWorld) -> None:
    def script(request: Request) -> object:
        refused = "bad" in request.last_user_text
        return Failure(400, message="refused by the test") if refused else say_task(request)

    async def main() -> None:
        async with world.real(script) as (pool, _):
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
