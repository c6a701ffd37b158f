"""Full and missing disks: what can still be done is done, the rest is said."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_pool import AgentPool, ConfigError, PoolClosed, SpawnError
from agent_pool.loopback import LoopbackAPI, Request
from pool_world import MARK, PLAIN, PoolWorld, bash, goes_on, say_task, scratch, until_idle
from support import real_cli, run


def test_without_a_place_for_temporary_files_the_pool_does_not_open_and_says_why(
    world: PoolWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def main() -> None:
        pool = world.faulty()
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
            with pytest.raises(ConfigError, match=r"no temporary folder .* correct TMPDIR"):
                await pool.open()
        with pytest.raises(PoolClosed, match="not open"):
            await pool.invoke("tester", "one")
        async with pool:
            await goes_on(pool)

    run(main())


def test_a_file_that_a_worker_needs_and_that_cannot_be_written_is_named(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty(version="2.0.77") as pool:  # which gets its prompt from a file
            (folder,) = scratch()
            shutil.rmtree(folder)
            folder.write_text("in the way")
            said = r"worker-\d+\.prompt\.md cannot be written: (File exists|Not a directory); make"
            with pytest.raises(SpawnError, match=said):
                await pool.invoke("tester", "one")
            folder.unlink()
            await goes_on(pool)

    run(main())


def test_a_cli_that_may_write_no_file_is_given_up_with_the_reason_of_its_end(
    world: PoolWorld, tmp_path: Path
) -> None:
    launcher = tmp_path / "claude"
    limited = 'case "$*" in *--version*) ;; *) ulimit -f 0;; esac'
    launcher.write_text(f'#!/bin/sh\n{limited}\nexec "{real_cli()}" "$@"\n')
    launcher.chmod(0o755)

    async def main() -> None:
        async with world.real(say_task, claude_cli=str(launcher)) as (pool, api):
            with pytest.raises(SpawnError, match=r"signal \d+ \(File ?size .*before it was ready"):
                await pool.invoke("tester", "one")
            assert api.requests == []
            assert pool.stats().spawned == 3  # no other try is under way
            launcher.write_text(launcher.read_text().replace("ulimit -f 0", "true"))
            await goes_on(pool)

    run(main())


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of one full page."""
    disk = tmp_path / "tiny"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    (disk / "full").write_bytes(b"x" * 4096)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def enlarge(disk: Path) -> None:
    """Make room."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


def test_on_a_full_disk_agents_answer_their_commands_say_so_and_all_is_well_when_there_is_room(
    world: PoolWorld, tiny: Path
) -> None:
    def script(request: Request) -> object:
        wanted = "shell" in request.last_user_text and not request.tool_results
        return bash("echo it works") if wanted else say_task(request)

    async def main() -> None:
        async with LoopbackAPI(script) as api:
            places = {"HOME": str(tiny), "TMPDIR": str(tiny), "CLAUDE_CODE_TMPDIR": str(tiny)}
            environ = {**world.environment(api.url), **places, MARK: world.mark}
            environ["CLAUDE_CONFIG_DIR"] = str(tiny / ".claude")
            async with AgentPool(environ=environ, **PLAIN, max_size=1) as pool:
                first = await pool.invoke("tester", "one")
                assert first.text == "echo: one"
                assert "Disk full" in (await pool.invoke("tester", "shell")).text
                enlarge(tiny)
                result = await pool.invoke("tester", "shell")
                assert (result.text, result.pid) == ("tool: it works", first.pid)
                await until_idle(pool)

    run(main())


def test_the_files_of_a_worker_go_with_it(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty(version="2.0.77", reset="respawn", max_size=1) as pool:
            (folder,) = scratch()
            for _ in range(3):
                await goes_on(pool)
            await until_idle(pool)
            (worker,) = await pool.list()
            assert [file.name for file in folder.iterdir()] == [f"{worker.worker}.prompt.md"]

    run(main())
