"""Agents, skills and expertise on a temporary disk, and catalogs of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_pool.agents import Catalog
from agent_pool.errors import ConfigError
from agent_pool.settings import Settings


class CatalogFolders:
    """The folders that a catalog searches; only the project's folder exists at first.

    Attributes:
        folder: the folder that contains all of them.
        project: the project's folder.
        home: the CLI's configuration folder.
        environ: more variables of the environment of a catalog.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.home = folder / "home"
        self.environ: dict[str, str] = {}
        self.project.mkdir()

    def catalog(self, **fields: Any) -> Catalog:
        """Build a catalog of these folders; `fields` are settings."""
        environ = {"CLAUDE_CONFIG_DIR": str(self.home), "HOME": str(self.folder), **self.environ}
        return Catalog(Settings(project_dir=self.project, **fields), environ)

    def write(self, path: str, text: str) -> Path:
        """Write a file below `folder`; return its path."""
        found = self.folder / path
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text(text, encoding="utf-8")
        return found

    def agent(self, path: str, front: str = "", body: str = "body") -> Path:
        """Write ``PATH.md`` into the project's agents, or below `folder` if it names a folder."""
        folder = (
            "" if path.startswith(("project/", "home/", "more/")) else "project/.claude/agents/"
        )
        return self.write(f"{folder}{path}.md", f"---\n{front}\n---\n{body}\n")


def find_error(catalog: Catalog, name: str) -> str:
    """Return the message of the error that `find` raises for this name."""
    with pytest.raises(ConfigError) as caught:
        catalog.find(name)
    return str(caught.value)


def agent_names(catalog: Catalog) -> list[str]:
    """Return the names in the catalog, in its order."""
    return [one.name for one in catalog.scan()]
