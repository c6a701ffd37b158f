import asyncio

import pytest

from agent_pool import TaskResult
from agent_pool.mcp.interfaces import Caller
from agent_pool.mcp.tools import call_tool
from mcp_fakes import FakePool, OnEvent, a_result, text_of
from support import run


async def unheard(number: int, line: str) -> None:
    pass


@pytest.mark.parametrize("name", ["invoke", "list"])
def test_a_call_leaves_no_task_behind(name: str) -> None:
    async def main() -> None:
        arguments = {"agent": "x", "task": "y"} if name == "invoke" else {}
        await call_tool(FakePool(), name, arguments, Caller(unheard))
        await asyncio.sleep(0)  # for what was cancelled to end
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_a_client_that_does_not_read_its_progress_holds_nothing_up() -> None:
    async def main() -> None:
        stuck = asyncio.Event()

        async def never_read(number: int, line: str) -> None:
            stuck.set()
            await asyncio.get_running_loop().create_future()

        async def working(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            await stuck.wait()
            return a_result()

        arguments = {"agent": "x", "task": "y"}
        answer = await call_tool(FakePool(working), "invoke", arguments, Caller(never_read))
        assert text_of(answer) == "done"

    run(main())
