import asyncio

import pytest

from agent_pool import TaskResult
from agent_pool.api import OnEvent
from agent_pool.mcp.calls import Caller
from agent_pool.mcp.tools import call_tool
from support.fake_pool import FakePool, make_result
from support.mcp_client import ignore_progress, text_of
from support.waiting import run


@pytest.mark.parametrize("name", ["invoke", "list"])
def test_tool_call_leaves_no_asyncio_task_running(name: str) -> None:
    async def main() -> None:
        arguments = {"agent": "x", "task": "y"} if name == "invoke" else {}
        await call_tool(FakePool(), name, arguments, Caller(ignore_progress))
        await asyncio.sleep(0)  # the cancelled task ends
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_client_that_ignores_progress_does_not_block_its_call() -> None:
    async def main() -> None:
        stuck = asyncio.Event()

        async def never_read(number: int, line: str) -> None:
            stuck.set()
            await asyncio.get_running_loop().create_future()

        async def working(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            await stuck.wait()
            return make_result()

        arguments = {"agent": "x", "task": "y"}
        answer = await call_tool(FakePool(working), "invoke", arguments, Caller(never_read))
        assert text_of(answer) == "done"

    run(main())
