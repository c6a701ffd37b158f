"""Whether a definition's own programs can be started: its hooks, and the MCP servers inside it.

Such a program runs on the user's account, without a question, as soon as the agent works. Claude
Code 2.1.332 starts those of a project's agent file only in a folder that the user has trusted, also
with `-p`, in every permission mode; and those of the user's own agent files everywhere. It does not
regard trust for the servers of `.mcp.json` in `-p`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from agent_pool.agents import Agent, Project
from agent_pool.errors import ConfigError
from agent_pool.settings import claude_home, managed_agents

_TRUSTED: Final = "hasTrustDialogAccepted"


def permitted_agent(agent: Agent, project: Project) -> Agent:
    """Return an agent without the programs that must not be started.

    Raises:
        ConfigError: Claude Code's own file cannot be read.
    """
    if not any(_own_programs(agent)) or refusal(agent, project) is None:
        return agent
    named = (entry for entry in agent.mcp_servers if not _is_inline(entry))
    return replace(agent, hooks=None, mcp_servers=tuple(named))


def refused_fields(agent: Agent, project: Project) -> Iterator[tuple[str, str]]:
    """Yield each field whose programs are not started, and why.

    Raises:
        ConfigError: Claude Code's own file cannot be read.
    """
    for field, programs in _own_programs(agent):
        if reason := refusal(agent, project):
            yield field, f"{programs} are left out: {reason}"


def refusal(agent: Agent, project: Project) -> str | None:
    """Return why an agent's own programs are not started; None if they are.

    Raises:
        ConfigError: Claude Code's own file cannot be read.
    """
    ceiling = project.settings.permission_ceiling
    if ceiling != "bypassPermissions":
        return f"the setting permission_ceiling allows no more than {ceiling}"
    if _is_of_user(agent, project) or is_trusted(project):
        return None
    return (
        f"nobody has trusted the folder {project_key(project.root)} in Claude Code; start `claude` "
        "there once and accept its question"
    )


def is_trusted(project: Project) -> bool:
    """Check whether the user has trusted a project's folder in Claude Code.

    Raises:
        ConfigError: Claude Code's own file cannot be read.
    """
    entry = project_entry(project, project_key(project.root))
    return entry.get(_TRUSTED) is True


def project_entry(project: Project, key: str) -> dict[str, Any]:
    """Return what Claude Code has stored about a folder; empty without an entry.

    Raises:
        ConfigError: its file cannot be read.
    """
    projects = read_json(user_file(project)).get("projects")
    entry = projects.get(key) if isinstance(projects, dict) else None
    return entry if isinstance(entry, dict) else {}


def project_key(root: Path) -> str:
    """Return the path under which Claude Code stores what belongs to a project.

    It is the root of the git repository, for a worktree that of the main one, else the folder
    itself; links are followed. A trusted folder above does not count (2.1.332).
    """
    folder = root.resolve()
    for candidate in (folder, *folder.parents):
        git = candidate / ".git"
        if git.is_dir():
            return str(candidate)
        if git.is_file():
            return str(_main_worktree(git) or candidate)
    return str(folder)


def _main_worktree(git: Path) -> Path | None:
    """Return the main worktree that a file `.git` leads to; None for a submodule."""
    try:
        target = Path(git.read_text(encoding="utf-8").removeprefix("gitdir:").strip())
    except (OSError, ValueError):
        return None
    folder = (git.parent / target).resolve()
    is_worktree = folder.parent.name == "worktrees" and folder.parent.parent.name == ".git"
    return folder.parents[2] if is_worktree else None


def user_file(project: Project) -> Path:
    """Return the file in which Claude Code keeps its state and the user's MCP servers."""
    named = project.environ.get("CLAUDE_CONFIG_DIR")
    # Without that variable the file stands beside the folder .claude, not in it.
    return (Path(named) if named else claude_home(project.environ).parent) / ".claude.json"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of Claude Code; empty if there is no file or another value.

    The object is shared between calls: do not change it.

    Raises:
        ConfigError: the file cannot be read as JSON.
    """
    try:
        status = path.stat()
        return _read_json(path, status.st_ino, status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None


@lru_cache(maxsize=32)
def _read_json(path: Path, *version: int) -> dict[str, Any]:
    # Kept by the file's version: it is asked for several times for each task, and Claude Code's
    # own file can hold megabytes.
    # Some editors write a byte order mark, which `json.loads` refuses.
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    return content if isinstance(content, dict) else {}


def _own_programs(agent: Agent) -> Iterator[tuple[str, str]]:
    """Yield each field of a definition that starts programs of its own, and their kind."""
    if agent.hooks:
        yield "hooks", "its hooks"
    if any(map(_is_inline, agent.mcp_servers)):
        yield "mcpServers", "its own MCP servers"


def _is_inline(entry: str) -> bool:
    """Check whether an entry of `Agent.mcp_servers` is a server, and not only a name."""
    return isinstance(json.loads(entry), dict)


def _is_of_user(agent: Agent, project: Project) -> bool:
    """Check whether the file of an agent lies in a folder that the user or root has chosen."""
    # First: the project can be the user's home, and then contains it.
    if agent.path.is_relative_to(claude_home(project.environ) / "agents"):
        return True
    if agent.path.is_relative_to(managed_agents()):
        return True
    # Every other folder belongs to the project, also one above it and that of the main checkout.
    chosen = project.settings.agents_dir
    if chosen is None:
        return False
    folder = chosen.expanduser().absolute()
    return agent.path.is_relative_to(folder) and not folder.is_relative_to(project.root)
