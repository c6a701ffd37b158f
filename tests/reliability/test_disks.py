"""Full and missing disks: agents work as far as possible, and errors name the cause."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_pool import AgentPool, ConfigError, PoolClosed, SpawnError
from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.environment import real_cli
from support.model_scripts import bash, echo_task
from support.pools import PLAIN, PoolProject, assert_serves, wait_until_idle
from support.process_checks import temporary_files
from support.waiting import run


def test_a_missing_temporary_folder_stops_the_pool_from_opening(
    pool_project: PoolProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def main() -> None:
        pool = pool_project.faulty()
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
            with pytest.raises(ConfigError, match=r"no temporary folder .* correct TMPDIR"):
                await pool.open()
        with pytest.raises(PoolClosed, match="not open"):
            await pool.invoke("tester", "one")
        async with pool:
            await assert_serves(pool)

    run(main())


def test_the_error_names_a_file_that_cannot_be_written(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.faulty(
            version="2.0.77"
        ) as pool:  # which gets its prompt from a file
            (folder,) = temporary_files()
            shutil.rmtree(folder)
            folder.write_text("in the way")
            said = r"worker-\d+\.prompt\.md cannot be written: (File exists|Not a directory); free"
            with pytest.raises(SpawnError, match=said):
                await pool.invoke("tester", "one")
            folder.unlink()
            await assert_serves(pool)

    run(main())


def test_a_cli_that_cannot_write_files_fails_with_its_signal(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    launcher = tmp_path / "claude"
    limited = 'case "$*" in *--version*) ;; *) ulimit -f 0;; esac'
    launcher.write_text(f'#!/bin/sh\n{limited}\nexec "{real_cli()}" "$@"\n')
    launcher.chmod(0o755)

    async def main() -> None:
        async with pool_project.real(echo_task, claude_cli=str(launcher)) as (pool, api):
            with pytest.raises(SpawnError, match=r"signal \d+ \(File ?size .*before it was ready"):
                await pool.invoke("tester", "one")
            assert api.requests == []
            assert (await pool.stats()).spawned == 3  # no other try is under way
            launcher.write_text(launcher.read_text().replace("ulimit -f 0", "true"))
            await assert_serves(pool)

    run(main())


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of one full page; return its folder."""
    disk = tmp_path / "tiny"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    (disk / "full").write_bytes(b"x" * 4096)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def enlarge(disk: Path) -> None:
    """Make room on the disk."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


def test_agents_answer_on_a_full_disk_and_recover_with_room(
    pool_project: PoolProject, tiny: Path
) -> None:
    def script(request: ModelRequest) -> Any:
        wanted = "shell" in request.last_user_text and not request.tool_results
        return bash("echo it works") if wanted else echo_task(request)

    async def main() -> None:
        async with LoopbackAPI(script) as api:
            places = {"HOME": str(tiny), "TMPDIR": str(tiny), "CLAUDE_CODE_TMPDIR": str(tiny)}
            environ = {**pool_project.environment(api.url), **places}
            environ["CLAUDE_CONFIG_DIR"] = str(tiny / ".claude")
            async with AgentPool(environ=environ, **PLAIN, max_size=1) as pool:
                first = await pool.invoke("tester", "one")
                assert first.text == "echo: one"
                assert "Disk full" in (await pool.invoke("tester", "shell")).text
                enlarge(tiny)
                result = await pool.invoke("tester", "shell")
                assert (result.text, result.pid) == ("tool: it works", first.pid)
                await wait_until_idle(pool)

    run(main())


def test_the_files_of_a_worker_are_deleted_with_it(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty(version="2.0.77", reset="respawn", max_size=1) as pool:
            (folder,) = temporary_files()
            for _ in range(3):
                await assert_serves(pool)
            await wait_until_idle(pool)
            (worker,) = await pool.workers()
            names = [f"{worker.worker}.prompt.md", f"{worker.worker}.settings.json"]
            assert sorted(file.name for file in folder.iterdir()) == names

    run(main())
