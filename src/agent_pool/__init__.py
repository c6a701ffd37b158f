"""Warm Claude Code agents: a process pool behind MCP, a command line and a Python API.

    from agent_pool import AgentPool

    async with AgentPool() as pool:
        result = await pool.invoke("code-reviewer", "Review src/app.py")

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_pool.agents import Agent as Agent
    from agent_pool.agents import Broken as Broken
    from agent_pool.agents import Catalog as Catalog
    from agent_pool.claude.accounts import Usage as Usage
    from agent_pool.claude.binary import cli_version as cli_version
    from agent_pool.claude.binary import find_cli as find_cli
    from agent_pool.claude.honoured import not_honoured as not_honoured
    from agent_pool.claude.launch import Launch as Launch
    from agent_pool.claude.questions import Denied as Denied
    from agent_pool.claude.sizes import PromptSize as PromptSize
    from agent_pool.claude.sizes import measure_prompt as measure_prompt
    from agent_pool.claude.verdicts import Verdict as Verdict
    from agent_pool.errors import AgentNotFound as AgentNotFound
    from agent_pool.errors import AgentPoolError as AgentPoolError
    from agent_pool.errors import ConfigError as ConfigError
    from agent_pool.errors import ContextLost as ContextLost
    from agent_pool.errors import LocalProtocolError as LocalProtocolError
    from agent_pool.errors import PoolClosed as PoolClosed
    from agent_pool.errors import PoolError as PoolError
    from agent_pool.errors import PoolTimeout as PoolTimeout
    from agent_pool.errors import ProtocolError as ProtocolError
    from agent_pool.errors import RemoteProtocolError as RemoteProtocolError
    from agent_pool.errors import SpawnError as SpawnError
    from agent_pool.errors import TaskError as TaskError
    from agent_pool.errors import TaskFailed as TaskFailed
    from agent_pool.errors import TaskTimeout as TaskTimeout
    from agent_pool.errors import TooManyRequests as TooManyRequests
    from agent_pool.errors import WorkerDied as WorkerDied
    from agent_pool.errors import WorkerError as WorkerError
    from agent_pool.pool.books import AgentStats as AgentStats
    from agent_pool.pool.books import PoolStats as PoolStats
    from agent_pool.pool.pool import AgentPool as AgentPool
    from agent_pool.pool.result import PermissionRequest as PermissionRequest
    from agent_pool.pool.result import Queued as Queued
    from agent_pool.pool.result import Retry as Retry
    from agent_pool.pool.result import Started as Started
    from agent_pool.pool.result import TaskEvent as TaskEvent
    from agent_pool.pool.result import TaskResult as TaskResult
    from agent_pool.pool.result import Text as Text
    from agent_pool.pool.result import ToolOutput as ToolOutput
    from agent_pool.pool.result import ToolUse as ToolUse
    from agent_pool.pool.result import WorkerInfo as WorkerInfo
    from agent_pool.pool.status import PoolStatus as PoolStatus
    from agent_pool.pool.window import SilentPool as SilentPool
    from agent_pool.pool.window import running_pools as running_pools
    from agent_pool.settings import Settings as Settings
    from agent_pool.settings import load_settings as load_settings

_HOMES = {
    "agent_pool.agents": "Agent Broken Catalog",
    "agent_pool.claude.accounts": "Usage",
    "agent_pool.claude.binary": "cli_version find_cli",
    "agent_pool.claude.honoured": "not_honoured",
    "agent_pool.claude.launch": "Launch",
    "agent_pool.claude.questions": "Denied",
    "agent_pool.claude.verdicts": "Verdict",
    "agent_pool.claude.sizes": "PromptSize measure_prompt",
    "agent_pool.errors": (
        "AgentNotFound AgentPoolError ConfigError ContextLost LocalProtocolError PoolClosed"
        " PoolError PoolTimeout ProtocolError RemoteProtocolError SpawnError TaskError TaskFailed"
        " TaskTimeout TooManyRequests WorkerDied WorkerError"
    ),
    "agent_pool.pool.books": "AgentStats PoolStats",
    "agent_pool.pool.pool": "AgentPool",
    "agent_pool.pool.result": (
        "PermissionRequest Queued Retry Started TaskEvent TaskResult Text ToolOutput ToolUse"
        " WorkerInfo"
    ),
    "agent_pool.pool.status": "PoolStatus",
    "agent_pool.pool.window": "SilentPool running_pools",
    "agent_pool.settings": "Settings load_settings",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("claude-agent-pool")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
