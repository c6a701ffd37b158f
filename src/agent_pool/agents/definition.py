"""What an agent is, and how a Markdown file becomes one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from agent_pool.agents import frontmatter
from agent_pool.agents.fields import FIELDS, canonical, read_name
from agent_pool.agents.files import read_text
from agent_pool.agents.prompt import tidy
from agent_pool.errors import ConfigError


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as its file defines it; its prompt is complete.

    Attributes:
        name: what it is called: the frontmatter's `name`, else the file's name without ``.md``.
        description: when to use it; may be empty.
        prompt: the whole system prompt: skills, expertise and body; may be empty.
        path: the file that defines it.
        skills, expertise: the names of what was put into the prompt.
        tools: the tools that it may use; None is all of them, an empty tuple none.
        disallowed_tools: tools taken away from those.
        model: an alias or a model's id; None is whatever the session uses (`inherit`).
        effort: one of `EFFORTS` or a whole number in digits.
        permission_mode: one of `PERMISSION_MODES`.
        max_turns: at least 1.
        mcp_servers: canonical JSON of each server: a string names one that is configured
            elsewhere, an object of one key defines one in place.
        hooks: canonical JSON of the hooks, by event.
        memory: one of `MEMORY_SCOPES`.
        background: whether Claude Code would run it in the background.
        isolation: one of `ISOLATIONS`.
        color: how an interface shows it; any text.
        initial_prompt: what is submitted before the first task.
        omit_claude_md: whether it does without the CLAUDE.md files.
        cache_ttl: one of `CACHE_TTLS`, from `experimental.cacheTtl`.
        extra: the keys that none of the above came from, deeply immutable.
    """

    name: str
    description: str
    prompt: str
    path: Path
    skills: tuple[str, ...] = ()
    expertise: tuple[str, ...] = ()
    tools: tuple[str, ...] | None = None
    disallowed_tools: tuple[str, ...] = ()
    model: str | None = None
    effort: str | None = None
    permission_mode: str | None = None
    max_turns: int | None = None
    mcp_servers: tuple[str, ...] = ()
    hooks: str | None = None
    memory: str | None = None
    background: bool = False
    isolation: str | None = None
    color: str | None = None
    initial_prompt: str | None = None
    omit_claude_md: bool = False
    cache_ttl: str | None = None
    extra: Mapping[str, Any] = field(default_factory=_nothing, hash=False)

    @property
    def fingerprint(self) -> str:
        """The same for two agents exactly when a worker of one could serve the other.

        Not in it: the name, the description, the path, the colour, and `extra`, which nothing
        acts upon.
        """
        shape = [getattr(self, attribute) for attribute in _SHAPE]
        return hashlib.sha256(canonical(shape).encode()).hexdigest()[:16]


_SHAPE: Final = (
    *("prompt", "tools", "disallowed_tools", "model", "effort", "permission_mode", "max_turns"),
    *("mcp_servers", "hooks", "memory", "background", "isolation", "initial_prompt"),
    *("omit_claude_md", "cache_ttl"),
)


@dataclass(frozen=True, slots=True)
class Broken:
    """A definition that cannot be used, and why; `name` is the file's where it has no other."""

    name: str
    path: Path
    error: ConfigError


@dataclass(frozen=True, slots=True)
class Definition:
    """A parsed file: an agent whose prompt is only the body yet, and the lines of its keys."""

    agent: Agent
    lines: Mapping[str, int] = field(hash=False)

    @property
    def name(self) -> str:
        return self.agent.name

    @property
    def path(self) -> Path:
        return self.agent.path


def load_definition(path: Path) -> Definition | Broken | None:
    """What the file at `path` defines; None when it is gone or a README beside definitions."""
    name = path.stem
    try:
        text = read_text(path)
        block, body = frontmatter.split(text)
        if block is None:
            return None if name.lower() == "readme" else _without_frontmatter(path, text)
        name = _written_name(block, default=name)
        return _definition(path, block, body)
    except FileNotFoundError:
        return None
    except ConfigError as error:
        return Broken(name, path, error)


def _without_frontmatter(path: Path, text: str) -> Broken:
    problem = (
        "the frontmatter is not closed: a line `---` must follow it"
        if frontmatter.is_opened(text)
        else "no frontmatter: the first line must be `---`, then `name: …`, `description: …`, `---`"
    )
    return Broken(path.stem, path, ConfigError(f"{path}:1: {problem}"))


def _written_name(block: str, default: str) -> str:
    """The name as it stands in the block, for saying which agent a broken file would be."""
    written = dict(frontmatter.top_level_values(block)).get("name", "")
    try:
        return read_name(written) if re.match(r"\w", written) else default
    except ValueError:
        return default


def _definition(path: Path, block: str, body: str) -> Definition:
    try:
        front = frontmatter.parse(block)
    except frontmatter.FrontmatterError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from None
    values = {"name": path.stem, "description": "", **_without_nulls(front.values)}
    fields: dict[str, Any] = {}
    for key, value in values.items():
        if key not in FIELDS:
            continue
        attribute, read = FIELDS[key]
        try:
            fields[attribute] = read(value)
        except ValueError as error:
            raise ConfigError(f"{path}:{front.lines.get(key, 1)}: {key}: {error}") from None
    agent = Agent(prompt=tidy(body), path=path, extra=_extra(values), **fields)
    return Definition(agent, front.lines)


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    # A key without a value is as good as absent, but for `tools`: there absent means all of them.
    return {key: value for key, value in values.items() if value is not None or key == "tools"}


def _extra(values: Mapping[str, Any]) -> Mapping[str, Any]:
    extra = {key: value for key, value in values.items() if key not in FIELDS}
    experiments = {**values.get("experimental", {})}
    experiments.pop("cacheTtl", None)
    if experiments:
        extra["experimental"] = experiments
    return MappingProxyType({key: _frozen(value) for key, value in extra.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
