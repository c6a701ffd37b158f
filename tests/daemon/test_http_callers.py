"""Which requests of MCP over HTTP belong to one caller."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from agent_pool.client.hello import CLIENT_PID_HEADER, PROJECT_HEADER
from agent_pool.daemon.mcp_http import HttpCallerKey, read_caller


def caller_of(folder: Path, pid: int) -> HttpCallerKey:
    project, number = str(folder).encode(), str(pid).encode()
    names = (PROJECT_HEADER, CLIENT_PID_HEADER)
    return read_caller(dict(zip((name.encode() for name in names), (project, number), strict=True)))


def test_a_process_that_gets_a_used_pid_is_another_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = caller_of(tmp_path, os.getpid())
    assert first == caller_of(tmp_path, os.getpid())
    started = psutil.Process().create_time()
    assert first.client_start == started
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: started + 60)
    assert first != caller_of(tmp_path, os.getpid())


def test_a_caller_whose_process_is_gone_is_still_read(tmp_path: Path) -> None:
    assert caller_of(tmp_path, 9_999_999_999).client_start == 0.0
