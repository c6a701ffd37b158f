"""Store one task for the real CLI, print its id, and wait for its end.

python durable_real_host.py FILE ENVIRONMENT SETTINGS
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agent_pool import AgentPool, TaskRequest
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store


async def main(path: Path, environ: dict[str, str], settings: dict[str, Any]) -> None:
    """Open the pool and run the task."""
    inner = AgentPool(environ=environ, **settings)
    async with DurablePool(inner, Store(path), inner.settings) as pool:
        handle = await pool.submit(TaskRequest("tester", "long"))
        sys.stdout.write(f"{handle.id}\n")
        sys.stdout.flush()
        await handle.result()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])))
