"""A worker's process has ended when its stop has returned, however that was left."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agent_pool.claude import termination
from agent_pool.claude.process import ChildProcess
from agent_pool.claude.process_tree import TreeRoot
from agent_pool.claude.watchdog import Watchdog
from agent_pool.settings import Settings
from support.waiting import run


def test_a_cancelled_stop_kills_the_process_and_awaits_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        closed = asyncio.Event()
        watchdog = Watchdog("cookie")
        child = await ChildProcess.spawn(
            ["sh", "-c", "cat >/dev/null; echo closed; exec sleep 321"],
            env={"PATH": os.environ["PATH"]},
            cwd=tmp_path,
            on_data=lambda _: closed.set(),
            on_exit=lambda: None,
            on_end=lambda: None,
            watchdog=watchdog,
        )
        root = TreeRoot(child.pid)
        settings = Settings(stop_grace=60)
        stopping = asyncio.create_task(termination.stop(child, root, settings, gentle=True))
        await closed.wait()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert child.returncode == -signal.SIGKILL
        watchdog.dismiss(5)

    run(main())
