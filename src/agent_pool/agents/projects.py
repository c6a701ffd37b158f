"""A project: one folder, and the environment, settings and agents that apply in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent_pool.agents.catalog import Catalog
from agent_pool.errors import ConfigError
from agent_pool.models import AgentKey
from agent_pool.settings import Settings


@dataclass(frozen=True, eq=False)
class Project:
    """One folder in which agents are defined and work.

    Attributes:
        root: the folder, absolute.
        environ: the environment that credentials and workers come from.
        settings: the settings for this folder.
        catalog: the agents that are defined for it.
    """

    root: Path
    environ: Mapping[str, str] = field(repr=False)  # it holds secrets
    settings: Settings
    catalog: Catalog

    @property
    def name(self) -> str:
        """Return the folder as text, by which agents and workers know their project."""
        return str(self.root)

    def key(self, agent: str, variant: str = "") -> AgentKey:
        """Return the key of one of its agents; see `AgentKey`."""
        return AgentKey(self.name, agent, variant)


class Projects:
    """The projects of a pool, each made once.

    Args:
        settings: the pool's own; `project_dir` is the folder of calls that name none.
        environ: the pool's environment.

    Attributes:
        default: the project of calls that name no folder.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._known: dict[str, Project] = {}
        self.default = self._make(_absolute(settings.project_dir), settings)
        self._known[self.default.name] = self.default

    def get(self, folder: str | None) -> Project:
        """Return the project of a folder; None is the default project.

        Raises:
            ConfigError: it is not a folder.
        """
        if folder is None:
            return self.default
        root = _checked_folder(folder)
        project = self._known.get(str(root))
        if project is None:
            settings = self.default.settings.with_overrides({"project_dir": root})
            project = self._known[str(root)] = self._make(root, settings)
        return project

    def _make(self, root: Path, settings: Settings) -> Project:
        return Project(root, self._environ, settings, Catalog(settings, self._environ))


def _checked_folder(folder: str) -> Path:
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise ConfigError(f"project: expected a folder, found {folder!r}")
    root = _absolute(Path(folder))
    if not root.is_dir():
        raise ConfigError(f"project: {str(root)!r} is not a folder")
    return root


def _absolute(path: Path) -> Path:
    path = path.expanduser().absolute()
    # `/srv/a/../b` must not be another project than `/srv/b`; links in such a path count.
    return path.resolve() if ".." in path.parts else path
