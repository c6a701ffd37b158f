"""Warm Claude Code agents: a process pool behind MCP, a command line and a Python API.

    from agent_pool import AgentPool

    async with AgentPool() as pool:
        result = await pool.invoke("code-reviewer", "Review src/app.py")

A name is loaded when it is first used, so that importing the package costs almost no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_pool.api import PoolAPI as PoolAPI
    from agent_pool.api import TaskAPI as TaskAPI
    from agent_pool.api import TaskHandle as TaskHandle
    from agent_pool.claude.binary import cli_version as cli_version
    from agent_pool.claude.binary import find_cli as find_cli
    from agent_pool.claude.cli_options import unknown_options as unknown_options
    from agent_pool.claude.sign_in import read_sign_in as read_sign_in
    from agent_pool.claude.watchdog import describe_process_search as describe_process_search
    from agent_pool.client.connect import connect as connect
    from agent_pool.client.remote_pool import RemotePool as RemotePool
    from agent_pool.errors import AgentNotFound as AgentNotFound
    from agent_pool.errors import AgentPoolError as AgentPoolError
    from agent_pool.errors import AnswerUnfinished as AnswerUnfinished
    from agent_pool.errors import ApiFailed as ApiFailed
    from agent_pool.errors import ApiOverloaded as ApiOverloaded
    from agent_pool.errors import BudgetReached as BudgetReached
    from agent_pool.errors import ConfigError as ConfigError
    from agent_pool.errors import ContextLimitReached as ContextLimitReached
    from agent_pool.errors import ContextLost as ContextLost
    from agent_pool.errors import DaemonUnavailable as DaemonUnavailable
    from agent_pool.errors import DeadlinePassed as DeadlinePassed
    from agent_pool.errors import InternalError as InternalError
    from agent_pool.errors import LocalProtocolError as LocalProtocolError
    from agent_pool.errors import ModelRefused as ModelRefused
    from agent_pool.errors import ModelUnavailable as ModelUnavailable
    from agent_pool.errors import NestingRefused as NestingRefused
    from agent_pool.errors import NoCredit as NoCredit
    from agent_pool.errors import OutputLimitReached as OutputLimitReached
    from agent_pool.errors import PoolClosed as PoolClosed
    from agent_pool.errors import PoolError as PoolError
    from agent_pool.errors import PoolTimeout as PoolTimeout
    from agent_pool.errors import PromptBlocked as PromptBlocked
    from agent_pool.errors import PromptTooLong as PromptTooLong
    from agent_pool.errors import ProtocolError as ProtocolError
    from agent_pool.errors import RateLimited as RateLimited
    from agent_pool.errors import RemoteProtocolError as RemoteProtocolError
    from agent_pool.errors import RequestTooLarge as RequestTooLarge
    from agent_pool.errors import SchemaMismatch as SchemaMismatch
    from agent_pool.errors import SignInRefused as SignInRefused
    from agent_pool.errors import SpawnError as SpawnError
    from agent_pool.errors import StoppedByHook as StoppedByHook
    from agent_pool.errors import StoreFailed as StoreFailed
    from agent_pool.errors import StructureMissing as StructureMissing
    from agent_pool.errors import TaskCancelled as TaskCancelled
    from agent_pool.errors import TaskError as TaskError
    from agent_pool.errors import TaskFailed as TaskFailed
    from agent_pool.errors import TaskInterrupted as TaskInterrupted
    from agent_pool.errors import TaskNotEnded as TaskNotEnded
    from agent_pool.errors import TaskNotFound as TaskNotFound
    from agent_pool.errors import TaskTimeout as TaskTimeout
    from agent_pool.errors import TooManyRequests as TooManyRequests
    from agent_pool.errors import TurnLimitReached as TurnLimitReached
    from agent_pool.errors import UsageLimitReached as UsageLimitReached
    from agent_pool.errors import WorkerDied as WorkerDied
    from agent_pool.errors import WorkerError as WorkerError
    from agent_pool.events import Ended as Ended
    from agent_pool.events import Event as Event
    from agent_pool.events import Paused as Paused
    from agent_pool.events import PermissionAnswered as PermissionAnswered
    from agent_pool.events import PermissionAsked as PermissionAsked
    from agent_pool.events import PoolEvent as PoolEvent
    from agent_pool.events import Queued as Queued
    from agent_pool.events import RateLimitsChanged as RateLimitsChanged
    from agent_pool.events import Retry as Retry
    from agent_pool.events import Snapshot as Snapshot
    from agent_pool.events import Spent as Spent
    from agent_pool.events import Started as Started
    from agent_pool.events import StrayResult as StrayResult
    from agent_pool.events import Submitted as Submitted
    from agent_pool.events import TaskEvent as TaskEvent
    from agent_pool.events import Text as Text
    from agent_pool.events import ToolOutput as ToolOutput
    from agent_pool.events import ToolUse as ToolUse
    from agent_pool.events import TurnEnded as TurnEnded
    from agent_pool.events import Withdrawn as Withdrawn
    from agent_pool.events import WorkerAssigned as WorkerAssigned
    from agent_pool.events import WorkerReady as WorkerReady
    from agent_pool.events import WorkerReset as WorkerReset
    from agent_pool.events import WorkerRetired as WorkerRetired
    from agent_pool.events import WorkerStateChanged as WorkerStateChanged
    from agent_pool.events import event_from_json as event_from_json
    from agent_pool.models import ENDED_STATES as ENDED_STATES
    from agent_pool.models import OPEN_STATES as OPEN_STATES
    from agent_pool.models import AgentInfo as AgentInfo
    from agent_pool.models import AgentList as AgentList
    from agent_pool.models import AgentStats as AgentStats
    from agent_pool.models import Attachment as Attachment
    from agent_pool.models import DayTotal as DayTotal
    from agent_pool.models import Denied as Denied
    from agent_pool.models import DeniedTool as DeniedTool
    from agent_pool.models import LaunchSpec as LaunchSpec
    from agent_pool.models import ModelFallback as ModelFallback
    from agent_pool.models import NodeInfo as NodeInfo
    from agent_pool.models import Outcome as Outcome
    from agent_pool.models import PermissionRequest as PermissionRequest
    from agent_pool.models import PoolStats as PoolStats
    from agent_pool.models import PoolStatus as PoolStatus
    from agent_pool.models import PromptSize as PromptSize
    from agent_pool.models import RateLimits as RateLimits
    from agent_pool.models import RateWindow as RateWindow
    from agent_pool.models import ResetVerdict as ResetVerdict
    from agent_pool.models import ReuseStats as ReuseStats
    from agent_pool.models import TaskFilter as TaskFilter
    from agent_pool.models import TaskQuestion as TaskQuestion
    from agent_pool.models import TaskRecord as TaskRecord
    from agent_pool.models import TaskRequest as TaskRequest
    from agent_pool.models import TaskResult as TaskResult
    from agent_pool.models import TaskState as TaskState
    from agent_pool.models import Usage as Usage
    from agent_pool.models import WorkerInfo as WorkerInfo
    from agent_pool.models import error_from_json as error_from_json
    from agent_pool.pool.pool import AgentPool as AgentPool
    from agent_pool.pool.status_server import SilentPool as SilentPool
    from agent_pool.pool.status_server import running_pools as running_pools
    from agent_pool.settings import Settings as Settings
    from agent_pool.settings import load_settings as load_settings

_MODULES = {
    "agent_pool.api": "PoolAPI TaskAPI TaskHandle",
    "agent_pool.claude.binary": "cli_version find_cli",
    "agent_pool.claude.cli_options": "unknown_options",
    "agent_pool.claude.sign_in": "read_sign_in",
    "agent_pool.claude.watchdog": "describe_process_search",
    "agent_pool.client.connect": "connect",
    "agent_pool.client.remote_pool": "RemotePool",
    "agent_pool.errors": (
        "AgentNotFound AgentPoolError AnswerUnfinished ApiFailed ApiOverloaded BudgetReached "
        "ConfigError ContextLimitReached ContextLost DaemonUnavailable DeadlinePassed "
        "InternalError LocalProtocolError ModelRefused ModelUnavailable NestingRefused NoCredit "
        "OutputLimitReached PoolClosed PoolError PoolTimeout PromptBlocked PromptTooLong "
        "ProtocolError RateLimited RemoteProtocolError RequestTooLarge SchemaMismatch "
        "SignInRefused SpawnError StoppedByHook StoreFailed StructureMissing TaskCancelled "
        "TaskError TaskFailed TaskInterrupted TaskNotEnded TaskNotFound TaskTimeout "
        "TooManyRequests TurnLimitReached UsageLimitReached WorkerDied WorkerError"
    ),
    "agent_pool.events": (
        "Ended Event Paused PermissionAnswered PermissionAsked PoolEvent Queued "
        "RateLimitsChanged Retry Snapshot Spent Started StrayResult Submitted TaskEvent Text "
        "ToolOutput ToolUse TurnEnded Withdrawn WorkerAssigned WorkerReady WorkerReset "
        "WorkerRetired WorkerStateChanged event_from_json"
    ),
    "agent_pool.models": (
        "ENDED_STATES OPEN_STATES AgentInfo AgentList AgentStats Attachment DayTotal Denied "
        "DeniedTool LaunchSpec ModelFallback NodeInfo Outcome PermissionRequest PoolStats "
        "PoolStatus PromptSize RateLimits RateWindow ResetVerdict ReuseStats TaskFilter "
        "TaskQuestion TaskRecord TaskRequest TaskResult TaskState Usage WorkerInfo error_from_json"
    ),
    "agent_pool.pool.pool": "AgentPool",
    "agent_pool.pool.status_server": "SilentPool running_pools",
    "agent_pool.settings": "Settings load_settings",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("claude-agent-pool")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
