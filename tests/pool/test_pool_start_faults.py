"""Processes that do not start: each fault has its own error, and the pool goes on.

The real CLI will not do these on request, so `fake_cli` does them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent_pool import (
    RemoteProtocolError,
    SpawnError,
    WorkerDied,
)
from pool_world import (
    Act,
    PoolWorld,
    goes_on,
    scratch,
    until,
)
from support import run

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
    world: PoolWorld, tmp_path: Path, content: str | None, said: str
) -> None:
    binary = tmp_path / "binary"
    if content is not None:
        binary.write_text(content, encoding="latin-1")
        binary.chmod(0o755)

    async def main() -> None:
        async with world.faulty(claude_cli=str(binary)) as pool:
            with pytest.raises(SpawnError, match=said):
                await pool.invoke("tester", "one")
            assert await pool.list() == []

    run(main())


def test_a_binary_that_is_no_executable_is_refused(world: PoolWorld, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_text("text")

    async def main() -> None:
        async with world.faulty(claude_cli=str(binary)) as pool:
            with pytest.raises(SpawnError, match="is not an executable file; correct it"):
                await pool.invoke("tester", "one")

    run(main())


def test_a_binary_that_never_says_its_version_is_given_up(
    world: PoolWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_pool.claude.binary.VERSION_TIMEOUT", 0.5)

    async def main() -> None:
        async with world.faulty({"at": "version", "do": "deaf"}) as pool:
            with pytest.raises(SpawnError, match=r"--version did not answer in 0\.5 s"):
                await pool.invoke("tester", "one")
        assert world.fakes() == []

    run(main())


def test_a_binary_that_is_corrected_serves_the_next_task(world: PoolWorld, tmp_path: Path) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            binary = world.fake / "claude"
            good = binary.read_text()
            binary.write_text("#!/bin/sh\nexit 1\n")
            with pytest.raises(SpawnError):
                await pool.invoke("tester", "one")
            binary.write_text(good)
            await goes_on(pool)

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
def test_a_refusal_to_start_that_will_not_change_fails_at_once_and_says_what_to_do(
    world: PoolWorld, stderr: str, advice: str
) -> None:
    async def main() -> None:
        async with world.faulty({"at": "start", "do": "exit", "stderr": stderr}) as pool:
            with pytest.raises(SpawnError, match=advice) as failure:
                await pool.invoke("tester", "one")
            assert failure.value.stderr_tail == stderr
            assert "exit code 1" in str(failure.value)
            assert len(world.journal("start")) == 1

    run(main())


def test_a_cli_that_ends_at_every_start_fails_all_who_wait_instead_of_looping(
    world: PoolWorld,
) -> None:
    async def main() -> None:
        crash = {"at": "start", "do": "exit", "code": 7, "stderr": "no luck"}
        async with world.faulty(crash) as pool:
            results = await pool.map([("tester", str(number)) for number in range(6)])
            for result in results:
                assert isinstance(result, SpawnError)
                assert "exit code 7" in str(result)
                assert "no luck" in str(result)
            assert len(world.journal("start")) <= 8
            await until(lambda: world.processes() == [])

    run(main())


def test_a_start_that_fails_once_is_tried_again_for_the_same_caller(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty({"at": "start", "do": "exit", "times": 1}) as pool:
            await goes_on(pool)
            assert len(world.journal("start")) == 2

    run(main())


def test_an_agent_that_cannot_start_does_not_hinder_another(world: PoolWorld) -> None:
    world.agent("other", model="broken")
    world.agent("fine", model="sonnet")

    async def main() -> None:
        refuse = {"at": "initialize", "do": "reply", "subtype": "error", "error": "out of order"}
        async with world.faulty({**refuse, "times": 1}) as pool:
            with pytest.raises(SpawnError, match="refused to initialise: out of order"):
                await pool.invoke("other", "one")
            assert (await pool.invoke("fine", "two")).text == "echo: two"

    run(main())


def test_a_process_that_never_gets_ready_is_given_up_after_start_timeout(
    world: PoolWorld,
) -> None:
    async def main() -> None:
        hang = {"at": "initialize", "do": "hang"}
        async with world.faulty(hang, start_timeout=0.3) as pool:
            said = r"not ready within 0\.3 s \(setting start_timeout\)"
            with pytest.raises(SpawnError, match=said) as failure:
                await pool.invoke("tester", "one")
            assert failure.value.pid is not None
            await until(lambda: world.processes() == [])

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
def test_whatever_happens_at_a_start_the_next_start_serves(world: PoolWorld, act: Act) -> None:
    async def main() -> None:
        settings = {"max_line": 50_000, "start_timeout": 3, "max_size": 1}
        async with world.faulty({**act, "times": 1}, **settings) as pool:
            try:
                await pool.invoke("tester", "one")
            except (WorkerDied, SpawnError, RemoteProtocolError):
                pass
            await goes_on(pool)

    run(main())


def test_workers_that_end_when_they_are_ready_never_look_like_a_bug_of_the_pool(
    world: PoolWorld,
) -> None:
    async def main() -> None:
        async with world.faulty({"at": "initialize", "do": "answer_and_exit"}) as pool:
            results = await pool.map([("tester", str(number)) for number in range(12)])
            assert {type(result) for result in results} <= {WorkerDied, SpawnError}

    run(main())


def test_a_folder_of_the_pool_that_was_cleaned_away_is_no_dead_end(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty(version="2.0.77") as pool:
            for folder in scratch():
                shutil.rmtree(folder)
            await goes_on(pool)

    run(main())


def test_a_project_folder_that_is_gone_is_named(world: PoolWorld) -> None:
    async def main() -> None:
        agents = world.root / ".claude" / "agents"
        async with world.faulty(project_dir=world.root / "gone", agents_dir=agents) as pool:
            with pytest.raises(SpawnError, match=f"cannot be started in {world.root}/gone"):
                await pool.invoke("tester", "one")

    run(main())
