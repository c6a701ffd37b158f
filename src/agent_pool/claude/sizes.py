"""How large the part of the prompt is that every task of an agent sends, and what makes it."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent_pool.claude.launch import Launch
from agent_pool.claude.offline import offline_environment
from agent_pool.claude.worker import Worker
from agent_pool.errors import SpawnError
from agent_pool.settings import Settings, claude_home

TIMEOUT: Final = 60.0
"""Seconds for a whole measurement; one takes about a second on an idle machine."""
CHARACTERS_OF_A_TOKEN: Final = 4
_READ_BY_CLAUDE: Final = ("CLAUDE.md", "agents", "skills")


@dataclass(frozen=True, slots=True)
class PromptSize:
    """The fixed part of an agent's prompt, in characters of JSON as the API gets them.

    Attributes:
        tools: each tool's description, the largest first.
        system: the system prompt, with what Claude Code puts before it.
        messages: what Claude Code says besides the task: the environment, CLAUDE.md, listings.
    """

    tools: Mapping[str, int]
    system: int
    messages: int

    @property
    def total(self) -> int:
        """All of it, in characters."""
        return sum(self.tools.values()) + self.system + self.messages

    @property
    def tokens(self) -> int:
        """All of it, in tokens, roughly."""
        return self.total // CHARACTERS_OF_A_TOKEN


async def measure_prompt(launch: Launch, settings: Settings) -> PromptSize:
    """Start a worker of an agent against the offline model, and look at what it sends.

    It takes about a second, no tokens and no network. The worker has a home of its own, with the
    CLAUDE.md, agents and skills of the project and the user. MCP servers are not started, so
    their tools come on top.

    Args:
        launch: how the agent's workers are started, see `AgentPool.launch`.
        settings: the bounds of the worker's waits.

    Raises:
        SpawnError, WorkerDied: the worker could not be started, or did not ask the model.
    """
    from agent_pool.loopback import LoopbackAPI

    with tempfile.TemporaryDirectory(prefix="agent-pool-measure-") as folder:
        async with LoopbackAPI() as api:
            worker = _worker(launch, settings, Path(folder), api.url)
            try:
                async with asyncio.timeout(TIMEOUT):
                    await worker.start()
                    await worker.turn(".")
            except TimeoutError:
                raise SpawnError(f"{launch.argv[0]} did not ask within {TIMEOUT:g} s") from None
            finally:
                await worker.stop()
            asked = [request for request in api.requests if not request.is_side]
    if not asked:
        raise SpawnError(f"{launch.argv[0]} did not ask the model at all")
    return _size(asked[0].body)


def _worker(launch: Launch, settings: Settings, folder: Path, url: str) -> Worker:
    home, project = folder / "home", folder / "project"
    user = claude_home(launch.env)
    _link(home / ".claude", (user / name for name in _READ_BY_CLAUDE))
    _link(project / ".claude", (launch.cwd / ".claude" / name for name in _READ_BY_CLAUDE))
    _link(project, [launch.cwd / "CLAUDE.md"])
    env = offline_environment(launch, home, url)
    measured = replace(launch, env=env, cwd=project, servers="", schema="")
    cookie = f"measure-{secrets.token_hex(8)}"
    return Worker("measured", measured, settings, cookie=cookie, run_dir=folder)


def _link(folder: Path, targets: Iterable[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for target in targets:
        if target.exists():
            (folder / target.name).symlink_to(target.resolve())


def _size(body: Mapping[str, Any]) -> PromptSize:
    tools = {str(tool.get("name")): _length(tool) for tool in body.get("tools") or ()}
    return PromptSize(
        tools=dict(sorted(tools.items(), key=lambda item: -item[1])),
        system=_length(body.get("system") or ""),
        messages=_length(body["messages"]),
    )


def _length(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
