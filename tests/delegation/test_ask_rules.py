"""Rules and policies of the user that ask or deny, for agents that may do everything."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent_pool import DeniedTool, PermissionRequest
from agent_pool.loopback import ModelRequest, get_result_text
from support.model_scripts import bash
from support.pools import PoolProject
from support.waiting import run

RULES: dict[str, dict[str, Any]] = {
    "ask rule": {"ask": ["Bash(touch:*)"]},
    "policy against bypassing": {"disableBypassPermissionsMode": "disable"},
}


def push(request: ModelRequest) -> Any:
    """Run the command that the task names, and answer with its output."""
    if request.tool_results:
        return f"end: {get_result_text(request.tool_results[0])}"
    return bash(f"touch {request.last_user_text.strip()}")


@pytest.mark.parametrize("rules", RULES.values(), ids=list(RULES))
def test_an_agent_that_must_ask_by_rule_asks_the_caller(
    pool_project: PoolProject, rules: dict[str, Any]
) -> None:
    settings = pool_project.home / ".claude/settings.json"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(json.dumps({"permissions": rules}))
    asked: list[str] = []

    async def permit(request: PermissionRequest) -> bool:
        asked.append(request.input["command"])
        return True

    async def main() -> None:
        async with pool_project.real(push) as (pool, _):
            permitted = await pool.invoke("tester", "pushed.txt", on_permission=permit)
            assert asked == ["touch pushed.txt"]
            assert (pool_project.root / "pushed.txt").exists()
            assert permitted.denied == ()
            refused = await pool.invoke("tester", "other.txt")
            assert not (pool_project.root / "other.txt").exists()
            (denied,) = refused.denied
            assert denied.tool == "Bash"
            assert denied.input["command"] == "touch other.txt"
            assert "no person here to ask" in denied.reason
            assert refused.text == f"end: {denied.reason}"

    run(main())


def test_a_command_that_a_rule_or_a_hook_denies_is_in_the_result(
    pool_project: PoolProject,
) -> None:
    settings = pool_project.home / ".claude/settings.json"
    settings.parent.mkdir(exist_ok=True)
    hook = {
        "type": "command",
        "command": "if grep -q hooked; then echo 'a hook says no' >&2; exit 2; fi",
    }
    content = {
        "permissions": {"deny": ["Bash(touch ruled*)"]},
        "hooks": {"PreToolUse": [{"hooks": [hook]}]},
    }
    settings.write_text(json.dumps(content))

    async def main() -> None:
        async with pool_project.real(push, max_size=1) as (pool, _):
            free = await pool.invoke("tester", "free")
            ruled = await pool.invoke("tester", "ruled")
            hooked = await pool.invoke("tester", "hooked")
            assert free.denied == ()
            found = [(one.denied[0].tool, one.denied[0].reason) for one in (ruled, hooked)]
            assert [tool for tool, _ in found] == ["Bash", "Bash"]
            assert "has been denied" in found[0][1]
            assert "a hook says no" in found[1][1]
            # Only those of the task itself: one process served all three.
            assert {len(one.denied) for one in (ruled, hooked)} == {1}
            assert isinstance(ruled.denied[0], DeniedTool)

    run(main())
