"""Facts about the current CLI that the package depends on; each is in docs/cli-facts.md."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import ErrorResponse, LoopbackAPI, ModelReply, ModelRequest, ToolUseBlock
from agent_pool.loopback.reply import ScriptAnswer
from support.cli_age import is_at_least
from support.environment import UNREACHABLE_URL, cli_environment, real_cli
from support.model_scripts import bash, echo_task
from support.stream_json_cli import of_type, stream_json_cli
from support.waiting import run

pytestmark = pytest.mark.long

AGENT_TOOL = pytest.mark.since("2.1.112", "the tool that delegates is called Agent")
STAMPED_TURNS = pytest.mark.since("2.1.330", "`system/init` is stamped")


def reply_once(reply: ModelReply) -> Callable[[ModelRequest], Any]:
    """Build a script that gives this reply to the task, then echoes the output of the tools."""

    def script(request: ModelRequest) -> Any:
        is_new = not any(message["role"] == "assistant" for message in request.messages)
        return reply if is_new and "task" in request.last_user_text else echo_task(request)

    return script


@STAMPED_TURNS
def test_initialize_sets_the_system_prompt_and_results_carry_the_stamp(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(echo_task) as api, stream_json_cli(tmp_path, api.url) as cli:
            await cli.initialize(systemPrompt=["You speak in riddles."])
            stamp, frames = await cli.prompt("\n/clear")
            (init,) = of_type(frames, "system", "init")
            assert init["user_message_uuids"] == [stamp]
            assert {"session_id", "model", "permissionMode", "cwd", "tools"} <= set(init)
            assert frames[-1]["user_message_uuid"] == stamp
            assert frames[-1]["user_message_uuids"] == [stamp]
            assert frames[-1]["result"] == "echo: /clear"
            (request,) = api.requests
            assert "You speak in riddles." in request.system_text

    run(main())


@STAMPED_TURNS
def test_clear_is_announced_stamped_and_gives_a_new_session(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(echo_task) as api, stream_json_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            _, before = await cli.prompt("the canary sings")
            stamp, frames = await cli.prompt("/clear")
            (reset,) = of_type(frames, "conversation_reset")
            (init,) = of_type(frames, "system", "init")
            result = frames[-1]
            assert reset["user_message_uuid"] == stamp
            assert init["user_message_uuids"] == [stamp]
            assert result["user_message_uuid"] == stamp
            assert (result["local_command"], result["result"]) == ("clear", "")
            assert init["session_id"] == result["session_id"] != before[-1]["session_id"]
            await cli.prompt("two")
            first, second = api.requests
            assert "canary" not in str(second.messages)
            heads = [request.system_text.split("\n")[0] for request in (first, second)]
            assert all(head.startswith("x-anthropic-billing-header") for head in heads)
            assert heads[0] != heads[1]

    run(main())


@pytest.mark.since("2.1.119", "it knows `/clear`")
def test_a_switched_model_stays_after_a_clear(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(echo_task) as api, stream_json_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            await cli.prompt("one")
            await cli.control(subtype="set_model", model="haiku")
            await cli.prompt("/clear")
            _, frames = await cli.prompt("two")
            first, second = api.requests
            assert first.model != second.model
            (init,) = of_type(frames, "system", "init")
            assert init["model"] == second.model

    run(main())


@pytest.mark.since("2.1.294", "the result of `/clear` is stamped")
def test_the_end_of_a_background_shell_starts_an_unstamped_turn(
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"
    shell = bash(command=f"while [ ! -e {go} ]; do sleep 0.02; done", run_in_background=True)

    async def main() -> None:
        async with LoopbackAPI(reply_once(shell)) as api, stream_json_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            _, frames = await cli.prompt("task")
            running = of_type(frames, "system", "background_tasks_changed")[-1]["tasks"]
            assert len(running) == 1
            assert of_type(frames, "system", "task_started") != []
            stamp, cleared = await cli.prompt("/clear")
            assert cleared[-1]["user_message_uuid"] == stamp
            go.touch()
            frames = await cli.until(lambda frame: frame["type"] == "result")
            (init,) = of_type(frames, "system", "init")
            assert "user_message_uuids" not in init
            assert "user_message_uuids" not in frames[-1]
            assert of_type(frames, "system", "background_tasks_changed")[-1]["tasks"] == []

    run(main())


@AGENT_TOOL
def test_a_variable_keeps_work_out_of_the_background(tmp_path: Path) -> None:
    sub = ToolUseBlock(
        "Agent", {"description": "Look.", "prompt": "look", "subagent_type": "general-purpose"}
    )
    off = {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1"}

    async def main() -> None:
        cases: list[tuple[dict[str, Any], bool]] = [(off, True)]
        if is_at_least("2.1.229"):  # older versions also wait without the variable
            cases.append(({}, False))
        for environ, is_waited_for in cases:
            async with (
                LoopbackAPI(reply_once(ModelReply([sub]))) as api,
                stream_json_cli(tmp_path, api.url, **environ) as cli,
            ):
                await cli.initialize()
                _, frames = await cli.prompt("task")
                assert ("echo: look" in frames[-1]["result"]) == is_waited_for

    run(main())


@pytest.mark.parametrize(
    "variable",
    [
        pytest.param(
            "CLAUDE_CODE_DISABLE_FILE_MENTIONS",
            marks=pytest.mark.since("2.1.300", "it has a variable for mentions alone"),
        ),
        "HARMLESS",
    ],
)
def test_mentioned_files_are_read_unless_a_variable_forbids_it(
    tmp_path: Path, variable: str
) -> None:
    (tmp_path / "notes.md").write_text("of the file\n")

    switched_off: dict[str, Any] = {variable: "1"}

    async def main() -> None:
        async with (
            LoopbackAPI(echo_task) as api,
            stream_json_cli(tmp_path, api.url, **switched_off) as cli,
        ):
            await cli.initialize()
            await cli.prompt("\nsee @notes.md")
            # 2.0.77 begins with requests of its own ("Warmup").
            sent = str([request.messages for request in api.requests])
            assert ("of the file" in sent) == (variable == "HARMLESS")

    run(main())


@pytest.mark.since("2.1.119", "refused requests are reported")
def test_a_refused_request_is_reported_with_status_and_retried(tmp_path: Path) -> None:
    answers: list[ScriptAnswer] = [ErrorResponse(529), ErrorResponse(429), "at last"]

    async def main() -> None:
        async with (
            LoopbackAPI(lambda _: answers.pop(0)) as api,
            stream_json_cli(tmp_path, api.url) as cli,
        ):
            await cli.initialize()
            _, frames = await cli.prompt("one")
            retries = of_type(frames, "system", "api_retry")
            assert [retry["error_status"] for retry in retries] == [529, 429]
            assert [retry["attempt"] for retry in retries] == [1, 2]
            assert all(retry["retry_delay_ms"] > 0 for retry in retries)
            assert all(retry["max_retries"] == 10 and retry["error"] for retry in retries)
            assert frames[-1]["result"] == "at last"
            await cli.prompt("/clear")

    run(main())


@pytest.mark.since("2.1.260", "results of turns that failed are stamped")
def test_an_api_error_result_carries_its_status_and_stamp(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with (
            LoopbackAPI(lambda _: ErrorResponse(400)) as api,
            stream_json_cli(tmp_path, api.url) as cli,
        ):
            await cli.initialize()
            stamp, frames = await cli.prompt("one")
            assert frames[-1]["is_error"] is True
            assert frames[-1]["api_error_status"] == 400
            assert frames[-1]["user_message_uuid"] == stamp

    run(main())


@pytest.mark.since("2.1.229", "a blank prompt does not reach the model")
def test_a_blank_prompt_is_answered_by_the_cli_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(echo_task) as api, stream_json_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            _, frames = await cli.prompt("\n\ufeff ")
            assert frames[-1]["is_error"] is False
            assert "Blank prompt" in frames[-1]["result"]
            assert api.requests == []

    run(main())


@pytest.mark.since("2.1.119", "the end of a turn can be reported")
def test_the_end_of_a_turn_is_reported_if_a_variable_asks_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        asked_for: dict[str, Any] = {"CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1"}
        async with (
            LoopbackAPI(echo_task) as api,
            stream_json_cli(tmp_path, api.url, **asked_for) as cli,
        ):
            await cli.initialize()
            await cli.prompt("one")
            read = await cli.until(lambda frame: frame.get("subtype") == "session_state_changed")
            assert read[-1]["state"] == "idle"

    run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs the variable")
def test_root_needs_a_variable_to_skip_permissions(tmp_path: Path) -> None:
    environ = {**cli_environment(tmp_path, UNREACHABLE_URL), "IS_SANDBOX": ""}
    options = ["-p", "x", "--dangerously-skip-permissions"]
    done = subprocess.run(
        [real_cli(), *options], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "cannot be used with root" in done.stderr


@AGENT_TOOL
def test_sub_agents_get_skills_models_and_rules_as_read_here(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    skill = "---\nname: {}\ndescription: d\n{}---\nSKILL {}\n"
    write(".claude/skills/by-folder/SKILL.md", skill.format("other", "", "folder"))
    write(".claude/skills/elsewhere/SKILL.md", skill.format("by-name", "", "name"))
    write(".claude/commands/sub/by-command.md", "---\ndescription: d\n---\nSKILL command\n")
    hidden = "disable-model-invocation: true\n"
    write(".claude/skills/hidden/SKILL.md", skill.format("hidden", hidden, "hidden"))
    agent = "---\nname: {}\ndescription: d\n{}---\nBODY {}\n"
    skills = "skills: by-folder, by-name, sub:by-command, hidden\n"
    write(".claude/agents/skilled.md", agent.format("skilled", skills, "skilled"))
    write(".claude/agents/fixed.md", agent.format("fixed", "model: sonnet\n", "fixed"))
    write(".claude/agents/denied.md", agent.format("denied", "", "denied"))
    write(".claude/settings.json", '{"permissions": {"deny": ["Agent(denied)"]}}')
    subs = [
        ToolUseBlock("Agent", {"description": "d", "prompt": "look", "subagent_type": name})
        for name in ("skilled", "fixed", "denied")
    ]
    model = "claude-haiku-4-5"
    variables: dict[str, Any] = {
        "CLAUDE_CODE_SUBAGENT_MODEL": model,
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    }

    async def main() -> None:
        async with (
            LoopbackAPI(reply_once(ModelReply(subs))) as api,
            stream_json_cli(tmp_path, api.url, **variables) as cli,
        ):
            await cli.initialize()
            await cli.prompt("task")
            sent = {
                name: request
                for request in api.requests
                for name in ("skilled", "fixed", "denied")
                if f"BODY {name}" in request.system_text
            }
            assert sorted(sent) == ["fixed", "skilled"]
            words = str(sent["skilled"].messages)
            found = [
                word for word in ("folder", "name", "command", "hidden") if f"SKILL {word}" in words
            ]
            assert found == ["folder", "name", "command"]
            assert sent["skilled"].model == model
            # In 2.1.229 the variable decides on the model of every sub-agent.
            assert not is_at_least("2.1.260") or "sonnet" in sent["fixed"].model

    run(main())
