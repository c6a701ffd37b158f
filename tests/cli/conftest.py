from __future__ import annotations

import os

import pytest

from support import Project


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, as what this process works in, with nothing of the machine's own settings."""
    for name in os.environ:
        if name.startswith(("AGENT_POOL_", "CLAUDE", "ANTHROPIC_")) or name.endswith("_DIR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(project.home))
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(project.home / ".claude"))
    monkeypatch.chdir(project.root)
    return project
