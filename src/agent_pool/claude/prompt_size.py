"""The size of the prompt that every task of an agent sends, measured on the real CLI."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from agent_pool.claude.launch import LaunchConfig
from agent_pool.claude.offline import offline_environment
from agent_pool.claude.watchdog import Watchdog
from agent_pool.claude.worker import Worker
from agent_pool.errors import SpawnError
from agent_pool.models import PromptSize
from agent_pool.settings import Settings, claude_home

MEASURE_TIMEOUT: Final = 60.0
"""Seconds for a whole measurement; one takes about a second on an idle machine."""
_READ_BY_CLAUDE: Final = ("CLAUDE.md", "agents", "skills")


async def measure_prompt(launch: LaunchConfig, settings: Settings) -> PromptSize:
    """Start a worker of an agent against the offline model, and measure its first request.

    It takes about a second, no tokens and no network. The worker has its own home, with the
    CLAUDE.md, agents and skills of the project and of the user. MCP servers are not started, so
    their tools are not counted.

    Args:
        launch: how the agent's workers are started.
        settings: the bounds of the worker's waits.

    Raises:
        SpawnError, WorkerDied: the worker could not be started, or did not ask the model.
    """
    # Imported here: the model's web server takes 0.2 s to load, and few callers need it.
    from agent_pool.loopback import LoopbackAPI

    with tempfile.TemporaryDirectory(prefix="agent-pool-measure-") as folder:
        async with LoopbackAPI() as api:
            watchdog = Watchdog(secrets.token_hex(8))
            worker = _offline_worker(launch, settings, watchdog, Path(folder), api.url)
            try:
                async with asyncio.timeout(MEASURE_TIMEOUT):
                    await worker.start()
                    await worker.turn(".")
            except TimeoutError:
                raise SpawnError(
                    f"{launch.argv[0]} sent no request within {MEASURE_TIMEOUT:g} s"
                ) from None
            finally:
                await worker.stop()
                watchdog.dismiss(settings.kill_grace)
            main = [request for request in api.requests if not request.is_side]
    # The CLI can answer by itself, for example when it is not signed in; then there is no size.
    if not main:
        raise SpawnError(f"{launch.argv[0]} sent no request to the model")
    return _size_of(main[0].body)


def _offline_worker(
    launch: LaunchConfig, settings: Settings, watchdog: Watchdog, folder: Path, url: str
) -> Worker:
    home, project = folder / "home", folder / "project"
    user = claude_home(launch.env)
    _link(home / ".claude", (user / name for name in _READ_BY_CLAUDE))
    _link(project / ".claude", (launch.cwd / ".claude" / name for name in _READ_BY_CLAUDE))
    _link(project, [launch.cwd / "CLAUDE.md"])
    env = offline_environment(launch, home, url)
    role = launch.role and replace(launch.role, servers={})
    measured = replace(launch, env=env, cwd=project, mcp_config="", role=role, schema="")
    cookie = f"{watchdog.cookie}/measured"
    return Worker("measured", measured, settings, cookie=cookie, watchdog=watchdog, run_dir=folder)


def _link(folder: Path, targets: Iterable[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for target in targets:
        if target.exists():
            (folder / target.name).symlink_to(target.resolve())


def _size_of(body: Mapping[str, Any]) -> PromptSize:
    tools = {str(tool.get("name")): _length(tool) for tool in body.get("tools") or ()}
    return PromptSize(
        tools=dict(sorted(tools.items(), key=lambda item: -item[1])),
        system=_length(body.get("system") or ""),
        messages=_length(body["messages"]),
    )


def _length(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
