"""What Claude Code's own settings say about agents."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agent_pool.agents.files import FileCache, FileSignature, make_signature, read_text
from agent_pool.errors import ConfigError
from agent_pool.settings import claude_home

MANAGED_FILES: Final = (
    Path("/etc/claude-code/managed-settings.json"),
    Path("/Library/Application Support/ClaudeCode/managed-settings.json"),
)


def default_model(environ: Mapping[str, str]) -> str | None:
    """Return the model of agents that have no field `model`; None for the session's model."""
    # A sub-agent that says `inherit` has the session's model all the same (2.1.332).
    model = environ.get("CLAUDE_CODE_SUBAGENT_MODEL", "").strip()
    is_usable = model.isprintable() and not model.startswith("-")
    return model if model and is_usable and model.lower() != "inherit" else None


class AgentDenials:
    """The rules ``Agent(NAME)`` in `permissions.deny` of the settings files of Claude Code."""

    def __init__(self, project: Path, environ: Mapping[str, str]) -> None:
        """Read the files of the user, of the project's folder, and of the administrator."""
        # Those of folders above the project do not count (2.1.332).
        own = project.expanduser().absolute() / ".claude"
        self._paths = (
            *MANAGED_FILES,
            claude_home(environ) / "settings.json",
            own / "settings.json",
            own / "settings.local.json",
        )
        self._rules = FileCache(_read_denied)

    def check(self, name: str) -> None:
        """Check that no rule denies an agent.

        Raises:
            ConfigError: a rule denies it.
        """
        for path, signature in self._existing():
            rule = self._rules.get(str(path), signature).get(name)
            if rule:
                raise ConfigError(
                    f"agent {name!r}: the rule {rule} in permissions.deny of {path} denies it; "
                    "remove the rule to use the agent"
                )

    def stamp(self) -> Hashable:
        """Return a value that changes when one of the files changes."""
        return tuple(self._existing())

    def _existing(self) -> Iterator[tuple[Path, FileSignature]]:
        for path in self._paths:
            try:
                yield path, make_signature(path.stat())
            except OSError:  # most of these files do not exist
                continue


def _read_denied(path: Path) -> dict[str, str]:
    """Return the names of agents that a settings file denies, with the rule of each."""
    rules: Any = []
    try:
        content = json.loads(read_text(path))
        rules = content["permissions"]["deny"]
    except (OSError, ConfigError, ValueError, RecursionError, LookupError, TypeError):
        # Claude Code ignores a settings file that is no JSON or has no such list (2.1.332).
        return {}
    denied = {}
    for rule in rules if isinstance(rules, list) else []:
        # The name must be exact: blanks, `*` and several names have no effect (2.1.332).
        for tool in ("Agent(", "Task("):
            if isinstance(rule, str) and rule.startswith(tool) and rule.endswith(")"):
                denied[rule[len(tool) : -1]] = rule
    return denied
