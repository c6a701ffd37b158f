"""Agents, skills and expertise on a temporary disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_pool.agents import Catalog
from agent_pool.errors import ConfigError
from agent_pool.settings import Settings


class House:
    """A project, a home and folders to search, all temporary."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = root / "project"
        self.home = root / "home"
        self.project.mkdir()

    def catalog(self, **fields: Any) -> Catalog:
        return Catalog(
            Settings(project_dir=self.project, **fields), {"CLAUDE_CONFIG_DIR": str(self.home)}
        )

    def write(self, path: str, text: str) -> Path:
        found = self.root / path
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text(text, encoding="utf-8")
        return found

    def agent(self, path: str, front: str = "", body: str = "body") -> Path:
        """Write ``PATH.md`` into the project's folder, or into another when it has a slash."""
        folder = (
            "" if path.startswith(("project/", "home/", "more/")) else "project/.claude/agents/"
        )
        return self.write(f"{folder}{path}.md", f"---\n{front}\n---\n{body}\n")


def refusal(catalog: Catalog, name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        catalog.find(name)
    return str(caught.value)


def names(catalog: Catalog) -> list[str]:
    return [one.name for one in catalog.scan()]
