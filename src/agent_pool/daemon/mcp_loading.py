"""The SDK of MCP, which the daemon loads when its first client of MCP comes.

It takes a third of the processor time of a daemon's start, and the programs, commands and pages
that use a daemon do not need it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent_pool.mcp.stored_tasks import SharedTasks

_NEEDED: Final = (
    "mcp.server.stdio",
    "mcp.server.streamable_http_manager",
    "agent_pool.mcp.stored_tasks",
    "agent_pool.mcp.server",
)

MakeShared = Callable[[], "SharedTasks"]
"""Returns the same object with each call; the first call needs the SDK."""


async def load_mcp() -> None:
    """Load what serves MCP, in a thread: other clients are served in the meantime."""
    if any(name not in sys.modules for name in _NEEDED):
        await asyncio.to_thread(lambda: [import_module(name) for name in _NEEDED])
