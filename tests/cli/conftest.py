from __future__ import annotations

import os

import pytest

from support.project import TempProject


@pytest.fixture
def here(project: TempProject, monkeypatch: pytest.MonkeyPatch) -> TempProject:
    """Return the project, with this process working in it and without the machine's settings."""
    for name in os.environ:
        if name.startswith(("AGENT_POOL_", "CLAUDE", "ANTHROPIC_")) or name.endswith("_DIR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AGENT_POOL_DAEMON", "off")
    monkeypatch.setenv("HOME", str(project.home))
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(project.home / ".claude"))
    monkeypatch.chdir(project.root)
    return project
