from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool import Settings, SpawnError, cli_version, find_cli
from agent_pool.claude import binary
from agent_pool.claude.binary import bundled_cli, parse_version
from support.environment import real_cli
from support.waiting import run


def program(path: Path, script: str = "echo '2.1.330 (Claude Code)'", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


def settings(claude_cli: object = None) -> Settings:
    return Settings(claude_cli=None if claude_cli is None else str(claude_cli))


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = program(tmp_path / "bundled" / "claude")
    monkeypatch.setattr(binary, "bundled_cli", lambda: path)
    return path


# The choice of the binary


def test_the_configured_cli_is_preferred_to_the_one_on_path(tmp_path: Path, bundled: Path) -> None:
    named = program(tmp_path / "named" / "my-claude")
    on_path = program(tmp_path / "bin" / "claude")
    assert find_cli(settings(named), {"PATH": str(on_path.parent)}) == named


def test_the_cli_on_path_is_preferred_to_the_bundled_one(tmp_path: Path, bundled: Path) -> None:
    on_path = program(tmp_path / "bin" / "claude")
    path = f"{tmp_path}/nowhere:{on_path.parent}"
    assert find_cli(settings(), {"PATH": path}) == on_path


def test_the_bundled_cli_is_used_if_path_has_no_executable(tmp_path: Path, bundled: Path) -> None:
    program(tmp_path / "bin" / "claude", mode=0o644)
    assert find_cli(settings(), {"PATH": str(tmp_path / "bin")}) == bundled


def test_a_bare_program_name_is_searched_on_the_path(tmp_path: Path, bundled: Path) -> None:
    other = program(tmp_path / "bin" / "claude-next")
    assert find_cli(settings("claude-next"), {"PATH": str(other.parent)}) == other


def test_a_tilde_in_the_setting_means_the_home_folder(
    tmp_path: Path, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    named = program(tmp_path / "tools" / "claude")
    assert find_cli(settings("~/tools/claude"), {"PATH": ""}) == named


def test_a_relative_path_in_the_setting_becomes_absolute(
    tmp_path: Path, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = program(tmp_path / "tools" / "claude")
    monkeypatch.chdir(tmp_path)
    assert find_cli(settings("tools/claude"), {"PATH": ""}) == named


def test_a_missing_configured_cli_is_not_replaced_by_another(tmp_path: Path, bundled: Path) -> None:
    with pytest.raises(SpawnError, match=r"CLAUDE_CLI names '.*gone'.* does not exist.*unset it"):
        find_cli(settings(tmp_path / "gone"), {"PATH": "/bin"})


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_configured_cli_that_cannot_be_executed_is_an_error(
    kind: str, tmp_path: Path, bundled: Path
) -> None:
    named = program(tmp_path / "claude", mode=0o644) if kind == "file" else tmp_path
    with pytest.raises(SpawnError, match="is not an executable file"):
        find_cli(settings(named), {"PATH": "/bin"})


def test_error_without_any_cli_lists_the_places_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(binary, "bundled_cli", lambda: None)
    with pytest.raises(SpawnError) as caught:
        find_cli(settings(), {"PATH": "/nowhere"})
    message = str(caught.value)
    assert "/nowhere" in message
    assert "CLAUDE_CLI" in message
    assert "pip install claude-agent-sdk" in message


@pytest.mark.parametrize("spec", [None, ImportError(), ValueError()])
def test_without_the_sdk_package_there_is_no_bundled_cli(
    spec: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> Any:
        if isinstance(spec, Exception):
            raise spec
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    bundled_cli.cache_clear()
    try:
        assert bundled_cli() is None
    finally:
        bundled_cli.cache_clear()


# The version


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("2.1.330 (Claude Code)", "2.1.330"),
        ("2.0.0 (Claude Code)", "2.0.0"),
        ("10.0.1-beta.2 (Claude Code)", "10.0.1"),
        ("a warning\n2.1.5 (Claude Code)\nmore", "2.1.5"),
    ],
)
def test_the_version_is_read_from_the_output_of_the_program(
    output: str, version: str, tmp_path: Path
) -> None:
    path = program(tmp_path / "claude", f"cat <<'END'\n{output}\nEND")
    assert run(cli_version(path)) == version


def test_the_real_cli_reports_version_2_1_or_newer() -> None:
    assert parse_version(run(cli_version(real_cli()))) >= (2, 1)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 1.0.128 '(Claude Code)'", "is Claude Code 1.0.128; agent-pool needs 2.0 or newer"),
        ("echo git version 2.43.0", "did not answer as Claude Code does: 'git version 2.43.0"),
        ("exit 3", "did not answer as Claude Code does: ''"),
        ("echo 'error: no disk' >&2; exit 1", "'error: no disk"),
        (r"printf '\377\376'", "did not answer as Claude Code does"),
    ],
    ids=["too old", "another program", "silent", "failing", "bytes"],
)
def test_a_program_that_is_no_usable_claude_code_is_refused(
    script: str, problem: str, tmp_path: Path
) -> None:
    path = program(tmp_path / "claude", script)
    with pytest.raises(SpawnError) as caught:
        run(cli_version(path))
    assert str(path) in str(caught.value)
    assert problem in str(caught.value)


def test_long_output_of_another_program_is_shortened_in_the_error(tmp_path: Path) -> None:
    path = program(tmp_path / "claude", "yes no | head -c 100000")
    with pytest.raises(SpawnError) as caught:
        run(cli_version(path))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (b"#!/nowhere/sh\n", 0o755, "No such file"),
        (b"\x00\x01", 0o755, "Exec format error"),
        (b"#!/bin/sh\n", 0o644, "Permission denied"),
    ],
)
def test_a_file_that_cannot_run_is_refused_with_the_reason(
    content: bytes, mode: int, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "claude"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(SpawnError, match=f"claude cannot be run: {problem}"):
        run(cli_version(path))


def children() -> list[str]:
    """Return the names of the living or unreaped processes below this one."""
    gc.collect()  # a transport that was never closed warns when it is collected
    return [process.name() for process in psutil.Process().children(recursive=True)]


def test_a_program_that_does_not_answer_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "VERSION_TIMEOUT", 0.5)
    path = program(tmp_path / "claude", "exec tail -f /dev/null")
    with pytest.raises(SpawnError, match=r"--version did not answer in 0\.5 s"):
        run(cli_version(path), bound=15)
    assert children() == []


def test_cancelling_the_version_query_stops_the_program(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = program(tmp_path / "claude", f"echo started > {pipe}; exec tail -f /dev/null")

    async def main() -> None:
        asking = asyncio.create_task(cli_version(path))
        assert await asyncio.to_thread(pipe.read_text) == "started\n"
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    run(main())
    assert children() == []


def test_the_program_gets_the_given_environment(tmp_path: Path) -> None:
    path = program(tmp_path / "claude", 'echo "$VERSION (Claude Code)"')
    assert run(cli_version(path, {"VERSION": "2.9.9"})) == "2.9.9"


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.1.330", (2, 1, 330)), ("2.1.9-beta.1", (2, 1, 9)), ("", ()), ("none", ())],
)
def test_a_version_is_parsed_into_a_tuple_of_numbers(
    version: str, numbers: tuple[int, ...]
) -> None:
    assert parse_version(version) == numbers


def test_a_newer_version_compares_greater_than_an_older_one() -> None:
    assert parse_version("2.1.330") > parse_version("2.1.119") > parse_version("2.0.77")
