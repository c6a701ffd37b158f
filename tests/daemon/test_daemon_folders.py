"""The folders of the daemon where no variable names them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent_pool import runtime

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the rules of Linux")


def test_every_client_finds_the_same_runtime_folder(tmp_path: Path) -> None:
    private, public = tmp_path / "private", tmp_path / "public"
    private.mkdir(mode=0o700)
    public.mkdir(mode=0o755)
    assert runtime.runtime_folder({"XDG_RUNTIME_DIR": str(private)}) == private / "agent-pool"
    without = runtime.runtime_folder({})
    assert str(without.parent) in (f"/run/user/{os.getuid()}", f"/tmp/runtime-{os.getuid()}")
    for folder in (public, tmp_path / "missing"):
        given = {"XDG_RUNTIME_DIR": str(folder), "TMPDIR": str(tmp_path)}
        assert runtime.runtime_folder(given) == without


def test_the_state_folder_is_where_the_desktop_standard_says() -> None:
    home = {"HOME": "/home/me"}
    default = Path("/home/me/.local/state/agent-pool")
    assert runtime.state_folder(home) == default
    assert runtime.state_folder({**home, "XDG_STATE_HOME": "/state"}) == Path("/state/agent-pool")
    assert runtime.state_folder({**home, "XDG_STATE_HOME": "relative"}) == default


MEASURE = """
import os, agent_pool.relay
from agent_pool import runtime
runtime.runtime_folder(os.environ), runtime.state_folder(os.environ)
print(next(line for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")))
"""


def test_a_relay_without_named_folders_is_small_too(tmp_path: Path) -> None:
    environ = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        env={**environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(done.stdout.split()[1]) * 1024 <= 15_000_000
    assert done.stderr == ""
