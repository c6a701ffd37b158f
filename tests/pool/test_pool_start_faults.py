"""Processes that do not start: each fault has its own error, and the pool goes on.

The real CLI will not do these on request, so `fake_cli` does them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from agent_pool import (
    RemoteProtocolError,
    SpawnError,
    WorkerDied,
)
from support.fake_cli import Act
from support.pools import PoolProject, assert_serves
from support.process_checks import temporary_files
from support.waiting import run, wait_until

# Binaries that are none


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("#!/bin/sh\necho something else\n", "did not answer as Claude Code does: 'something else"),
        (
            "#!/bin/sh\necho '1.0.128 (Claude Code)'\n",
            r"is Claude Code 1\.0\.128; .* 2\.0 or newer",
        ),
        ("#!/bin/sh\nexit 3\n", "did not answer as Claude Code does: ''"),
        ("#!/no/such/interpreter\n", "cannot be run: No such file or directory"),
        ("\x7fELF broken", "cannot be run: Exec format error"),
        (None, "CLAUDE_CLI names .* which does not exist"),
    ],
    ids=["other", "old", "silent", "orphan-script", "broken", "missing"],
)
def test_a_binary_that_is_not_claude_code_is_refused(
    pool_project: PoolProject, tmp_path: Path, content: str | None, said: str
) -> None:
    binary = tmp_path / "binary"
    if content is not None:
        binary.write_text(content, encoding="latin-1")
        binary.chmod(0o755)

    async def main() -> None:
        async with pool_project.faulty(claude_cli=str(binary)) as pool:
            with pytest.raises(SpawnError, match=said):
                await pool.invoke("tester", "one")
            assert await pool.workers() == []

    run(main())


def test_a_file_that_is_not_executable_is_refused(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    binary = tmp_path / "binary"
    binary.write_text("text")

    async def main() -> None:
        async with pool_project.faulty(claude_cli=str(binary)) as pool:
            with pytest.raises(SpawnError, match="is not an executable file; correct it"):
                await pool.invoke("tester", "one")

    run(main())


def test_a_binary_that_never_reports_its_version_is_refused(
    pool_project: PoolProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_pool.claude.binary.VERSION_TIMEOUT", 0.5)

    async def main() -> None:
        async with pool_project.faulty({"at": "version", "do": "deaf"}) as pool:
            with pytest.raises(SpawnError, match=r"--version did not answer in 0\.5 s"):
                await pool.invoke("tester", "one")
        assert pool_project.fakes() == []

    run(main())


def test_a_repaired_binary_serves_the_next_task(pool_project: PoolProject, tmp_path: Path) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            binary = pool_project.fake / "claude"
            good = binary.read_text()
            binary.write_text("#!/bin/sh\nexit 1\n")
            with pytest.raises(SpawnError):
                await pool.invoke("tester", "one")
            binary.write_text(good)
            await assert_serves(pool)

    run(main())


# Starts


@pytest.mark.parametrize(
    ("stderr", "advice"),
    [
        (
            "--dangerously-skip-permissions cannot be used with root/sudo privileges",
            "set IS_SANDBOX=1",
        ),
        ("error: unknown option '--strict-mcp-config'", "update Claude Code"),
        ("ENOSPC: no space left on device, write", "the disk is full"),
    ],
)
def test_a_permanent_start_failure_is_reported_at_once_with_advice(
    pool_project: PoolProject, stderr: str, advice: str
) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "start", "do": "exit", "stderr": stderr}) as pool:
            with pytest.raises(SpawnError, match=advice) as failure:
                await pool.invoke("tester", "one")
            assert failure.value.stderr_tail == stderr
            assert "exit code 1" in str(failure.value)
            assert len(pool_project.journal("start")) == 1

    run(main())


def test_a_cli_that_ends_at_every_start_fails_all_callers(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        crash = {"at": "start", "do": "exit", "code": 7, "stderr": "no luck"}
        async with pool_project.faulty(crash) as pool:
            results = await pool.map([("tester", str(number)) for number in range(6)])
            for result in results:
                assert isinstance(result, SpawnError)
                assert "exit code 7" in str(result)
                assert "no luck" in str(result)
            assert len(pool_project.journal("start")) <= 8
            await wait_until(lambda: pool_project.processes() == [])

    run(main())


def test_a_start_that_fails_once_is_tried_again(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "start", "do": "exit", "times": 1}) as pool:
            await assert_serves(pool)
            assert len(pool_project.journal("start")) == 2

    run(main())


def test_an_agent_that_cannot_start_does_not_hinder_another(pool_project: PoolProject) -> None:
    pool_project.agent("other", model="broken")
    pool_project.agent("fine", model="sonnet")

    async def main() -> None:
        refuse = {"at": "initialize", "do": "reply", "subtype": "error", "error": "out of order"}
        async with pool_project.faulty({**refuse, "times": 1}) as pool:
            with pytest.raises(SpawnError, match="refused to initialise: out of order"):
                await pool.invoke("other", "one")
            assert (await pool.invoke("fine", "two")).text == "echo: two"

    run(main())


def test_a_worker_not_ready_within_start_timeout_is_given_up(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        hang = {"at": "initialize", "do": "hang"}
        async with pool_project.faulty(hang, start_timeout=0.3) as pool:
            said = r"not ready within 0\.3 s \(setting start_timeout\)"
            with pytest.raises(SpawnError, match=said) as failure:
                await pool.invoke("tester", "one")
            assert failure.value.pid is not None
            await wait_until(lambda: pool_project.processes() == [])

    run(main())


@pytest.mark.parametrize(
    "act",
    [
        {"at": "initialize", "do": "answer_and_exit"},
        {"at": "initialize", "do": "exit", "code": 0},
        {"at": "start", "do": "say", "text": '{"type": "system", \n'},
        {"at": "start", "do": "stream", "size": 100_000},
        {"at": "start", "do": "mute"},
    ],
    ids=["ready-then-gone", "gone", "garbage", "endless-line", "mute"],
)
def test_the_next_start_serves_after_any_fault_at_start(
    pool_project: PoolProject, act: Act
) -> None:
    async def main() -> None:
        settings: dict[str, Any] = {"max_line": 50_000, "start_timeout": 3, "max_size": 1}
        async with pool_project.faulty({**act, "times": 1}, **settings) as pool:
            try:
                await pool.invoke("tester", "one")
            except (WorkerDied, SpawnError, RemoteProtocolError):
                pass
            await assert_serves(pool)

    run(main())


def test_workers_that_end_when_ready_cause_only_expected_errors(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "initialize", "do": "answer_and_exit"}) as pool:
            results = await pool.map([("tester", str(number)) for number in range(12)])
            assert {type(result) for result in results} <= {WorkerDied, SpawnError}

    run(main())


def test_a_pool_still_serves_after_its_folder_was_deleted(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.faulty(version="2.0.77") as pool:
            for folder in temporary_files():
                shutil.rmtree(folder)
            await assert_serves(pool)

    run(main())


def test_the_error_names_a_missing_project_folder(pool_project: PoolProject) -> None:
    async def main() -> None:
        agents = pool_project.root / ".claude" / "agents"
        async with pool_project.faulty(
            project_dir=pool_project.root / "gone", agents_dir=agents
        ) as pool:
            with pytest.raises(SpawnError, match=f"cannot be started in {pool_project.root}/gone"):
                await pool.invoke("tester", "one")

    run(main())


def test_another_version_behind_the_same_command_is_noticed(pool_project: PoolProject) -> None:
    async def main() -> None:
        other = {"at": "initialize", "do": "report_version", "version": "2.1.119", "times": 1}
        async with pool_project.faulty(other) as pool:
            with pytest.raises(
                SpawnError, match=r"is Claude Code 2\.1\.119, .* reported 2\.1\.330"
            ):
                await pool.invoke("tester", "one")
            # The command is asked again, and now tells the truth.
            await assert_serves(pool)

    run(main())
