"""What Claude Code's own settings say about agents."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent_pool.agents.files import FileCache, FileSignature, make_signature, read_text
from agent_pool.errors import ConfigError
from agent_pool.settings import claude_home, managed_settings_files

_MODEL: Final = "CLAUDE_CODE_SUBAGENT_MODEL"


@dataclass(frozen=True, slots=True)
class _Rules:
    """The part of one settings file that concerns agents.

    Attributes:
        denied: the names of agents that it denies, with the rule of each.
        model: the model that its `env` sets for agents without one; None if it sets none.
    """

    denied: Mapping[str, str]
    model: str | None


class AgentSettings:
    """The settings files of Claude Code for one project, as far as they concern agents."""

    def __init__(self, project: Path, environ: Mapping[str, str]) -> None:
        """Read the files of the user, of the project's folder, and of the administrator."""
        # Those of folders above the project do not count (2.1.332).
        own = project.expanduser().absolute() / ".claude"
        self._paths = (
            claude_home(environ) / "settings.json",
            own / "settings.json",
            own / "settings.local.json",
        )
        self._given_model = environ.get(_MODEL, "")
        self._rules = FileCache(_read_rules)

    def default_model(self) -> str | None:
        """Return the model of agents that have no field `model`; None for the session's model."""
        model = self._given_model
        # The settings win over the environment, the later files over the earlier; an empty value
        # counts (2.1.332).
        for path, signature in self._existing():
            set_here = self._rules.get(str(path), signature).model
            model = model if set_here is None else set_here
        # A sub-agent that says `inherit` has the session's model all the same (2.1.332).
        model = model.strip()
        is_usable = model.isprintable() and not model.startswith("-")
        return model if model and is_usable and model.lower() != "inherit" else None

    def check(self, name: str) -> None:
        """Check that no rule ``Agent(NAME)`` in `permissions.deny` denies an agent.

        Raises:
            ConfigError: a rule denies it.
        """
        for path, signature in self._existing():
            rule = self._rules.get(str(path), signature).denied.get(name)
            if rule:
                raise ConfigError(
                    f"agent {name!r}: the rule {rule} in permissions.deny of {path} denies it; "
                    "remove the rule to use the agent"
                )

    def stamp(self) -> Hashable:
        """Return a value that changes when one of the files changes."""
        return tuple(self._existing())

    def _existing(self) -> Iterator[tuple[Path, FileSignature]]:
        for path in (*self._paths, *managed_settings_files()):
            try:
                yield path, make_signature(path.stat())
            except OSError:  # most of these files do not exist
                continue


def _read_rules(path: Path) -> _Rules:
    try:
        content = json.loads(read_text(path))
    except (OSError, ConfigError, ValueError, RecursionError):
        # Claude Code ignores a settings file that is no JSON (2.1.332).
        content = None
    model = _lookup(content, "env", _MODEL)
    denied = _read_denied(_lookup(content, "permissions", "deny"))
    return _Rules(denied, model if isinstance(model, str) else None)


def _lookup(content: Any, *keys: str) -> Any:
    """Return the value below these keys; None if there is none."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _read_denied(rules: Any) -> dict[str, str]:
    denied = {}
    for rule in rules if isinstance(rules, list) else []:
        # The name must be exact: blanks, `*` and several names have no effect (2.1.332).
        for tool in ("Agent(", "Task("):
            if isinstance(rule, str) and rule.startswith(tool) and rule.endswith(")"):
                denied[rule[len(tool) : -1]] = rule
    return denied
