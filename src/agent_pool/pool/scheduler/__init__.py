"""The scheduler: which caller gets which worker, and when a worker must go. Without any IO."""

from agent_pool.pool.scheduler.model import (
    Action,
    AgentSpec,
    Assign,
    Grant,
    Limits,
    Refuse,
    Reset,
    RetireReason,
    Spawn,
    StateChange,
    Stop,
    Ticket,
    TicketState,
    WorkerRecord,
    WorkerState,
)
from agent_pool.pool.scheduler.scheduler import Scheduler

__all__ = [
    "Action",
    "AgentSpec",
    "Assign",
    "Grant",
    "Limits",
    "Refuse",
    "Reset",
    "RetireReason",
    "Scheduler",
    "Spawn",
    "StateChange",
    "Stop",
    "Ticket",
    "TicketState",
    "WorkerRecord",
    "WorkerState",
]
