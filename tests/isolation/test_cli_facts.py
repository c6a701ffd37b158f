"""What the product leans on in the current CLI; each is a line of docs/cli-facts.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import Failure, LoopbackAPI, Reply, Request, ToolUse
from isolation.raw_cli import of_type, raw_cli
from pool_world import say_task
from support import run


def bash(**given: Any) -> Reply:
    return Reply([ToolUse("Bash", {"description": "Tests.", **given})])


def told_once(reply: Reply) -> Callable[[Request], Any]:
    """A script: this first, later what the tools have answered."""

    def script(request: Request) -> Any:
        is_new = not any(message["role"] == "assistant" for message in request.messages)
        return reply if is_new and "task" in request.last_user_text else say_task(request)

    return script


def test_initialize_takes_the_system_prompt_and_a_prompt_comes_back_stamped(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(say_task) as api, raw_cli(tmp_path, api.url) as cli:
            await cli.initialize(systemPrompt=["You speak in riddles."])
            stamp, frames = await cli.say("\n/clear")
            (init,) = of_type(frames, "system", "init")
            assert init["user_message_uuids"] == [stamp]
            assert {"session_id", "model", "permissionMode", "cwd", "tools"} <= set(init)
            assert frames[-1]["user_message_uuid"] == stamp
            assert frames[-1]["user_message_uuids"] == [stamp]
            assert frames[-1]["result"] == "echo: /clear"
            (request,) = api.requests
            assert "You speak in riddles." in request.system_text

    run(main())


def test_clear_is_announced_stamped_and_gives_a_new_session(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(say_task) as api, raw_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            _, before = await cli.say("the canary sings")
            stamp, frames = await cli.say("/clear")
            (reset,) = of_type(frames, "conversation_reset")
            (init,) = of_type(frames, "system", "init")
            result = frames[-1]
            assert reset["user_message_uuid"] == stamp
            assert init["user_message_uuids"] == [stamp]
            assert result["user_message_uuid"] == stamp
            assert (result["local_command"], result["result"]) == ("clear", "")
            assert init["session_id"] == result["session_id"] != before[-1]["session_id"]
            await cli.say("two")
            first, second = api.requests
            assert "canary" not in str(second.messages)
            heads = [request.system_text.split("\n")[0] for request in (first, second)]
            assert all(head.startswith("x-anthropic-billing-header") for head in heads)
            assert heads[0] != heads[1]

    run(main())


def test_a_model_that_was_switched_to_outlives_a_clear(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(say_task) as api, raw_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            await cli.say("one")
            await cli.control(subtype="set_model", model="haiku")
            await cli.say("/clear")
            _, frames = await cli.say("two")
            first, second = api.requests
            assert first.model != second.model
            (init,) = of_type(frames, "system", "init")
            assert init["model"] == second.model

    run(main())


def test_a_background_shell_is_told_of_and_its_end_starts_a_turn_without_a_stamp(
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"
    shell = bash(command=f"while [ ! -e {go} ]; do sleep 0.02; done", run_in_background=True)

    async def main() -> None:
        async with LoopbackAPI(told_once(shell)) as api, raw_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            _, frames = await cli.say("task")
            running = of_type(frames, "system", "background_tasks_changed")[-1]["tasks"]
            assert len(running) == 1
            assert of_type(frames, "system", "task_started") != []
            stamp, cleared = await cli.say("/clear")
            assert cleared[-1]["user_message_uuid"] == stamp
            go.touch()
            frames = await cli.until(lambda frame: frame["type"] == "result")
            (init,) = of_type(frames, "system", "init")
            assert "user_message_uuids" not in init
            assert "user_message_uuids" not in frames[-1]
            assert of_type(frames, "system", "background_tasks_changed")[-1]["tasks"] == []

    run(main())


def test_one_variable_keeps_work_from_going_on_in_the_background(tmp_path: Path) -> None:
    sub = ToolUse(
        "Agent", {"description": "Look.", "prompt": "look", "subagent_type": "general-purpose"}
    )
    off = {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1"}

    async def main() -> None:
        for environ, is_waited_for in (({}, False), (off, True)):
            async with (
                LoopbackAPI(told_once(Reply([sub]))) as api,
                raw_cli(tmp_path, api.url, **environ) as cli,
            ):
                await cli.initialize()
                _, frames = await cli.say("task")
                assert ("echo: look" in frames[-1]["result"]) == is_waited_for

    run(main())


@pytest.mark.parametrize("variable", ["CLAUDE_CODE_DISABLE_FILE_MENTIONS", "HARMLESS"])
def test_mentioned_files_are_read_unless_a_variable_forbids_it(
    tmp_path: Path, variable: str
) -> None:
    (tmp_path / "notes.md").write_text("of the file\n")

    async def main() -> None:
        async with (
            LoopbackAPI(say_task) as api,
            raw_cli(tmp_path, api.url, **{variable: "1"}) as cli,
        ):
            await cli.initialize()
            await cli.say("\nsee @notes.md")
            assert ("of the file" in str(api.requests[0].messages)) == (variable == "HARMLESS")

    run(main())


def test_a_refused_request_is_told_with_its_status_and_tried_again(tmp_path: Path) -> None:
    answers = [Failure(529), Failure(429), "at last"]

    async def main() -> None:
        async with LoopbackAPI(lambda _: answers.pop(0)) as api, raw_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            _, frames = await cli.say("one")
            retries = of_type(frames, "system", "api_retry")
            assert [retry["error_status"] for retry in retries] == [529, 429]
            assert [retry["attempt"] for retry in retries] == [1, 2]
            assert all(retry["retry_delay_ms"] > 0 for retry in retries)
            assert all(retry["max_retries"] == 10 and retry["error"] for retry in retries)
            assert frames[-1]["result"] == "at last"
            await cli.say("/clear")

    run(main())


def test_an_error_of_the_api_is_a_result_that_carries_its_status_and_the_stamp(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with LoopbackAPI(lambda _: Failure(400)) as api, raw_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            stamp, frames = await cli.say("one")
            assert frames[-1]["is_error"] is True
            assert frames[-1]["api_error_status"] == 400
            assert frames[-1]["user_message_uuid"] == stamp

    run(main())


def test_a_blank_prompt_is_answered_by_the_cli_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(say_task) as api, raw_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            _, frames = await cli.say("\n\ufeff ")
            assert frames[-1]["is_error"] is False
            assert "Blank prompt" in frames[-1]["result"]
            assert api.requests == []

    run(main())
