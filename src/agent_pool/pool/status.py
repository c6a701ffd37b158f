"""What a pool tells of itself: its workers as they are, and what has happened so far."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agent_pool.claude import tree
from agent_pool.claude.worker import Worker
from agent_pool.pool.books import PoolStats
from agent_pool.pool.result import WorkerInfo
from agent_pool.pool.supervisor import Supervisor
from agent_pool.settings import Settings


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool as it is now.

    Attributes:
        pid: the process that it belongs to.
        program: what that is called: the file or the module that it runs, without its arguments.
        project: the folder that it works in.
        version: of agent-pool.
        workers: as `AgentPool.list` says.
        stats: as `AgentPool.stats` says.
    """

    pid: int
    program: str
    project: str
    version: str
    workers: tuple[WorkerInfo, ...]
    stats: PoolStats

    def as_json(self) -> dict[str, Any]:
        """All of it as plain JSON values, totals and rates included."""
        return {
            "pid": self.pid,
            "program": self.program,
            "project": self.project,
            "version": self.version,
            "workers": [asdict(worker) for worker in self.workers],
            "stats": self.stats.as_json(),
        }


async def describe(supervisor: Supervisor, names: Iterable[str]) -> list[WorkerInfo]:
    """These workers, their memory measured now; those that are gone are left out."""
    shown = [supervisor.workers[name] for name in names if name in supervisor.workers]
    trees = await asyncio.to_thread(supervisor.census)
    infos = (_info(supervisor, worker, tree.rss(trees.get(worker.name, ()))) for worker in shown)
    return [info for info in infos if info is not None]


def _info(supervisor: Supervisor, worker: Worker, size: int) -> WorkerInfo | None:
    record = supervisor.core.workers.get(worker.name)
    if record is None:
        return None
    agent = supervisor.definitions.agent(record.ref)
    return WorkerInfo(
        worker=worker.name,
        agent=agent.name if agent else "",
        description=agent.description if agent else "",
        state=str(record.state),
        pid=worker.pid,
        tasks=worker.turns - worker.is_in_turn,
        rss=size,
        uptime=time.monotonic() - worker.started_at,
        usage=worker.account.usage,
        cost_usd=worker.account.cost_usd,
        note=worker.note,
    )


def pool_stats(supervisor: Supervisor, in_conversations: int, opened: float) -> PoolStats:
    """What happened since the pool was opened, a time of the monotonic clock."""
    core, books = supervisor.core, supervisor.books
    now = time.monotonic()
    living = sum(worker.session.strays for worker in supervisor.workers.values())
    return PoolStats(
        uptime=now - opened,
        waiting=core.waiting + in_conversations,
        paused=max(0.0, core.paused_until - now),
        workers=Counter(str(record.state) for record in core.workers.values()),
        spawned=books.spawned,
        resets=books.resets,
        strays=books.strays + living,
        retired={str(reason): count for reason, count in core.retired.items()},
        agents=books.agents(),
        reuse=books.reuse,
    )


def pool_status(workers: Sequence[WorkerInfo], stats: PoolStats, settings: Settings) -> PoolStatus:
    """A pool of this process, as others may see it."""
    return PoolStatus(
        pid=os.getpid(),
        program=_program(),
        project=str(settings.project_dir.absolute()),
        version=_version(),
        workers=tuple(workers),
        stats=stats,
    )


def _program() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    name = Path(sys.argv[0]).name if sys.argv else ""
    return name if name and not name.startswith("-") else "python"


def _version() -> str:
    try:
        return version("claude-agent-pool")
    except PackageNotFoundError:
        return "unknown"
