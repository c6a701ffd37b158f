"""The options of a single call: checked, and applied to the definition of its agent.

A call can change the model, the effort and the permission mode of an agent, and add variables to
its environment. The result is another agent, with workers of its own: a process is started with
these options, and must not serve a call that has others.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from agent_pool.agents import Agent, Project
from agent_pool.agents.fields import EFFORTS, FIELDS, PERMISSION_MODES
from agent_pool.claude.cli_options import permission_mode
from agent_pool.claude.launch import POOL_VARIABLES, SESSION_VARIABLES, WORKER_VARIABLES
from agent_pool.errors import ConfigError
from agent_pool.models import TaskRequest
from agent_pool.settings import PERMISSIONS, Settings
from agent_pool.text import did_you_mean

MAX_VARIABLE_BYTES: Final = 128 * 1024 - 2
"""The kernel takes at most 128 KiB for one variable: name, `=`, value and a zero byte (Linux)."""

_KEY: Final = secrets.token_bytes(16)
"""Makes the digests of variables worthless outside this process: logs show them."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of a call, checked; what is None is as the definition has it.

    Attributes:
        model: a model's alias or id, or ``inherit``.
        effort: one of `EFFORTS`.
        permission_mode: one of `PERMISSION_MODES`.
        env: further variables of the worker's environment; an empty value removes one.
        isolation: ``worktree``, or None for what the definition says.
    """

    model: str | None = None
    effort: str | None = None
    permission_mode: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    isolation: str | None = None

    def apply(self, agent: Agent, settings: Settings) -> Agent:
        """Return the agent with these options.

        Raises:
            ConfigError: the permission mode permits more than the agent has without it, or the
                setting `env_block` names a variable.
        """
        for name in self.env:
            if any(fnmatchcase(name, pattern) for pattern in settings.env_block):
                raise ConfigError(f"env: workers never get {name} (setting env_block)")
        changes: dict[str, Any] = {}
        if self.model is not None:
            changes["model"] = FIELDS["model"][1](self.model)
        if self.effort is not None:
            changes["effort"] = self.effort
        if mode := _stricter_mode(self.permission_mode, agent, settings):
            changes["permission_mode"] = mode
        return replace(agent, **changes)

    def isolates(self, agent: Agent) -> bool:
        """Check whether a task of this agent gets a worktree."""
        return "worktree" in (self.isolation, agent.isolation)

    def variant(self, agent: Agent, derived: Agent) -> str:
        """Return a text that tells the derived agent from its definition; empty if they are equal.

        No value of a variable can be read from it.
        """
        parts = [
            f"{name} {getattr(derived, name) or 'inherit'}"
            for name in ("model", "effort", "permission_mode")
            if getattr(derived, name) != getattr(agent, name)
        ]
        return ", ".join([*parts, *self._env_digest()])

    def _env_digest(self) -> list[str]:
        if not self.env:
            return []
        text = repr(sorted(self.env.items())).encode("utf-8", "surrogateescape")
        return [f"env {hashlib.blake2b(text, key=_KEY, digest_size=6).hexdigest()}"]

    def environment_of(self, project: Project) -> Project:
        """Return the project with these variables in its environment, without the empty ones."""
        if not self.env:
            return project
        # Removed, not empty: git fails with an empty GIT_DIR, for one.
        kept = {name: value for name, value in project.environ.items() if name not in self.env}
        given = {name: value for name, value in self.env.items() if value}
        return replace(project, environ={**kept, **given})


NO_OPTIONS: Final = CallOptions()
"""The options of a call that has none."""


def read_options(request: TaskRequest) -> CallOptions:
    """Return the options of a request, checked as far as that needs no definition.

    Raises:
        ConfigError: one is wrong; the message names it, and no value of a variable.
    """
    return CallOptions(
        model=_read_model(request.model),
        effort=_read_choice("effort", request.effort, EFFORTS),
        permission_mode=_read_mode(request.permission_mode),
        env=_read_env(request.env),
        isolation=_read_choice("isolation", request.isolation, ("worktree",)),
    )


def _read_model(value: object) -> str | None:
    if value is None:
        return None
    try:
        FIELDS["model"][1](value)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None
    text = str(value).strip()
    if not text:
        raise ConfigError("model: it is empty; name a model, or leave it out")
    return text


def _read_mode(value: object) -> str | None:
    # `manual` is another name of `default` in Claude Code, in definitions too.
    mode = "default" if value == "manual" else value
    return _read_choice("permission_mode", mode, PERMISSION_MODES)


def _read_choice(name: str, value: object, known: tuple[str, ...]) -> str | None:
    if value is None or (isinstance(value, str) and value in known):
        return value
    hint = did_you_mean(value, known, most=1) if isinstance(value, str) else ""
    raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {value!r:.80}{hint}")


def _stricter_mode(asked: str | None, agent: Agent, settings: Settings) -> str | None:
    """Return the mode that a call asks for; None if the agent has it anyway.

    Raises:
        ConfigError: it permits more.
    """
    own = permission_mode(agent, settings)
    if asked is None or _rank(asked) == _rank(own):
        return None
    # The author of a definition, and the user by the ceiling, have limited the agent. The caller is
    # often an agent itself, and must not be able to undo that.
    if _rank(asked) > _rank(own):
        where = f"the definition {agent.path}" if agent.permission_mode == own else "the setting"
        raise ConfigError(
            f"permission_mode: {asked} permits more than {own}, which {where} allows; a call can "
            f"only ask for less: leave it out, or edit "
            + ("the definition" if agent.permission_mode == own else "permission_ceiling")
        )
    return asked


def _rank(mode: str) -> int:
    # `ask` is `default` for the CLI; a person is asked in both.
    return PERMISSIONS.index("default" if mode == "ask" else mode)


def _read_env(env: object) -> dict[str, str]:
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise ConfigError(f"env: expected a mapping of text, found {type(env).__name__}")
    for name, value in env.items():
        _check_variable(name, value)
    return dict(env)


def _check_variable(name: object, value: object) -> None:
    if not isinstance(name, str) or not name or "=" in name or "\0" in name:
        # After a `=` a secret can follow, by a mistake such as {"TOKEN=abc": ""}.
        shown, equals, _ = str(name).partition("=")
        rest = " and =" if equals else ""
        raise ConfigError(f"env: expected the name of a variable, found {shown!r:.80}{rest}")
    if not isinstance(value, str) or "\0" in value:
        kind = "text without zero bytes"
        raise ConfigError(f"env: the value of {name} is not {kind}")
    if SESSION_VARIABLES.fullmatch(name) or POOL_VARIABLES.fullmatch(name):
        raise ConfigError(f"env: {name} belongs to the pool or to its session; leave it out")
    if name in WORKER_VARIABLES:
        raise ConfigError(f"env: {name} is set by the pool for every worker; leave it out")
    try:
        size = len(os.fsencode(f"{name}{value}"))
    except UnicodeEncodeError:
        raise ConfigError(f"env: {name} or its value is not UTF-8") from None
    if size > MAX_VARIABLE_BYTES:
        raise ConfigError(f"env: {name} is larger than 128 KiB; write its value into a file")
