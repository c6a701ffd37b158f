"""An agent, and how its Markdown file is parsed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from agent_pool.agents import frontmatter
from agent_pool.agents.fields import (
    FIELDS,
    REFUSED_BY_POOL,
    WITHOUT_MEANING,
    doubtful_tools,
    dropped_hooks,
    dropped_skills,
    parse_agent_name,
    to_canonical_json,
)
from agent_pool.agents.files import read_text, use_line_feeds
from agent_pool.errors import ConfigError


def _make_empty_mapping() -> Mapping[str, Any]:
    """Return an empty mapping that cannot be changed."""
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as its file defines it, with its complete prompt.

    Attributes:
        name: the field `name`, or else the file's name without ``.md``.
        description: when to use the agent; can be empty.
        prompt: the whole system prompt: skills, expertise and body; can be empty.
        path: the file that defines the agent.
        skills, expertise: the names of the texts in the prompt.
        tools: the tools that the agent can use; None for all, an empty tuple for no tools.
        disallowed_tools: tools that are removed from those.
        model: an alias or a model's id; None for the session's model (`inherit`).
        effort: one of `EFFORTS`, or a whole number in digits.
        permission_mode: one of `PERMISSION_MODES`.
        max_turns: the most turns for one task, at least 1.
        max_budget_usd: the most US dollars that one task can cost, by the CLI's list prices.
        mcp_servers: canonical JSON of each server: a string is the name of a server that is
            configured elsewhere, an object with one key defines a server in place.
        hooks: canonical JSON of the hooks by event.
        memory: one of `MEMORY_SCOPES`.
        background: whether Claude Code runs the agent in the background.
        isolation: one of `ISOLATIONS`.
        color: how an interface shows the agent; any text.
        initial_prompt: the prompt before the first task.
        omit_claude_md: whether the agent works without the CLAUDE.md files.
        cache_ttl: one of `CACHE_TTLS`, from `experimental.cacheTtl`.
        worker_memory: one of `WORKER_MEMORIES`; None for the setting `worker_memory`.
        extra: all other keys of the frontmatter; cannot be changed, at any depth.
        ignored: keys whose value is not used, or only a part of it, and why.
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
    max_budget_usd: float | None = None
    mcp_servers: tuple[str, ...] = ()
    hooks: str | None = None
    memory: str | None = None
    background: bool = False
    isolation: str | None = None
    color: str | None = None
    initial_prompt: str | None = None
    omit_claude_md: bool = False
    cache_ttl: str | None = None
    worker_memory: str | None = None
    extra: Mapping[str, Any] = field(default_factory=_make_empty_mapping, hash=False)
    ignored: Mapping[str, str] = field(default_factory=_make_empty_mapping, hash=False)

    @property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits, equal for agents that can share a worker.

        Two agents have the same fingerprint if they differ only in name, description, path, color,
        `max_budget_usd` and `extra`, which have no effect on a worker.
        """
        values = [getattr(self, attribute) for attribute in _FINGERPRINT_FIELDS]
        return hashlib.sha256(to_canonical_json(values).encode()).hexdigest()[:16]


_FINGERPRINT_FIELDS: Final = (
    *("prompt", "tools", "disallowed_tools", "model", "effort", "permission_mode", "max_turns"),
    *("mcp_servers", "hooks", "memory", "background", "isolation", "initial_prompt"),
    *("omit_claude_md", "cache_ttl", "worker_memory"),
)
"""Skills and expertise are not listed: their texts are a part of the prompt."""


@dataclass(frozen=True, slots=True)
class BrokenAgent:
    """A definition that cannot be used.

    Attributes:
        name: the field `name` if it can be read, or else the file's name without ``.md``.
        path: the file, or the folder that cannot be searched.
        error: why it cannot be used, with the file and the line.
        is_known_to_cli: whether Claude Code itself would use the file.
    """

    name: str
    path: Path
    error: ConfigError
    is_known_to_cli: bool = False


@dataclass(frozen=True, slots=True)
class ParsedDefinition:
    """A parsed file.

    Attributes:
        agent: the agent; its prompt is only the body, without skills and expertise.
        lines: the line of each key of the frontmatter in the file, counted from 1.
        is_known_to_cli: whether Claude Code itself would use the file; it skips files without a
            name or a description (2.1.332).
        names_model: whether the file has a value of `model`, `inherit` included.
    """

    agent: Agent
    lines: Mapping[str, int] = field(hash=False)
    is_known_to_cli: bool
    names_model: bool

    @property
    def name(self) -> str:
        """Return the agent's name."""
        return self.agent.name

    @property
    def path(self) -> Path:
        """Return the file."""
        return self.agent.path


_DOUBTS: Final = {"tools": doubtful_tools, "hooks": dropped_hooks, "skills": dropped_skills}
"""Functions that return what is ignored of a value that is not wrong as a whole."""


def load_definition(path: Path) -> ParsedDefinition | BrokenAgent | None:
    """Load the agent that the file at `path` defines.

    Return None if the file no longer exists, or is a README without frontmatter. Errors in the
    file do not raise: they are returned as a BrokenAgent.
    """
    name = path.stem
    try:
        # The line ends of the body are a part of the prompt (2.1.332).
        text = read_text(path, keep_line_ends=True)
        block, body = frontmatter.split(text)
        if block is None:
            # Claude Code 2.1.332 skips every file without frontmatter. The pool reports it, because
            # the fault is often a missing `---`; only a README is expected to have no frontmatter.
            return None if name.lower() == "readme" else _report_no_frontmatter(path, text)
        block = use_line_feeds(block)
        name = _guess_name(block, default=name)
        return _parse_definition(path, name, block, body)
    except FileNotFoundError:
        # The file was removed after its folder was listed.
        return None
    except ConfigError as error:
        return BrokenAgent(name, path, error)


def _report_no_frontmatter(path: Path, text: str) -> BrokenAgent:
    """Build the result for a file that does not begin with a closed block of frontmatter."""
    problem = (
        "the frontmatter is not closed; add a line `---` after its last field"
        if frontmatter.is_opened(text)
        else "no frontmatter; expected `---` as the first line, then `name: …`, `description: …` "
        "and again a line `---`"
    )
    return BrokenAgent(path.stem, path, ConfigError(f"{path}:1: {problem}"))


def _guess_name(block: str, default: str) -> str:
    """Return the agent's name as written in a block, even if the block is not valid YAML.

    So an error is reported for the agent by the name that its users know.
    """
    written = dict(frontmatter.find_plain_values(block)).get("name", "")
    try:
        # A value that begins with `|`, `&`, `*` or `[` is YAML syntax, not the name itself.
        return parse_agent_name(written) if re.match(r"\w", written) else default
    except ValueError:
        return default


def _parse_definition(
    path: Path, name: str, block: str, body: str
) -> ParsedDefinition | BrokenAgent:
    """Parse a file's frontmatter and body; raise ConfigError for frontmatter that is no YAML."""
    cut = _describe_cut(block)
    try:
        front = frontmatter.parse(block)
    except frontmatter.FrontmatterError as error:
        raise ConfigError(f"{path}:{error.line}: {error}{cut and f'; {cut}'}") from None
    values = {"name": path.stem, "description": "", **_drop_nulls(front.values)}
    is_complete = "name" in front.values and bool(values["description"])
    fields: dict[str, Any] = {}
    ignored = dict.fromkeys(front.repeated, "it appears more than once; the last value is used")
    for key, value in values.items():
        if key not in FIELDS:
            continue
        attribute, parse = FIELDS[key]
        try:
            fields[attribute] = parse(value)
        except ValueError as error:
            if key in WITHOUT_MEANING:
                ignored[key] = f"the value is ignored: {error}"
                continue
            # Line 1 for a file name that cannot be an agent's name: no key stands for it.
            problem = ConfigError(f"{path}:{front.lines.get(key, 1)}: {key}: {error}")
            return BrokenAgent(name, path, problem, is_complete and key in REFUSED_BY_POOL)
    for key, doubts in _DOUBTS.items():
        if key in values and (reason := doubts(values[key])):
            ignored[key] = reason
    if cut:
        ignored["frontmatter"] = cut
    agent = Agent(
        prompt=body,
        path=path,
        extra=_collect_extra(values),
        ignored=MappingProxyType(ignored),
        **fields,
    )
    return ParsedDefinition(agent, front.lines, is_complete, "model" in values)


def _describe_cut(block: str) -> str:
    """Return a warning if a block ends in the middle of a line; "" if it does not."""
    line = frontmatter.find_cut(block)
    if line is None:
        return ""
    return (
        f"it ends at the `---` inside line {line}, as in Claude Code: the rest of that line and "
        "all lines below belong to the prompt; write other characters there"
    )


def _drop_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without keys that have no value, except `tools`."""
    # In YAML a key without a value is null; it counts as absent. But an empty `tools` means no
    # tools, and an absent one all tools (2.1.332).
    return {key: value for key, value in values.items() if value is not None or key == "tools"}


def _collect_extra(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the keys that have no attribute of `Agent`, also those below `experimental`."""
    extra = {key: value for key, value in values.items() if key not in FIELDS}
    given = values.get("experimental")
    experiments = {**given} if isinstance(given, dict) else {}
    experiments.pop("cacheTtl", None)
    if experiments:
        extra["experimental"] = experiments
    return MappingProxyType({key: _freeze(value) for key, value in extra.items()})


def _freeze(value: Any) -> Any:
    """Return a copy of a value of JSON that cannot be changed: tuples and read-only mappings."""
    if isinstance(value, dict):
        return MappingProxyType({key: _freeze(item) for key, item in value.items()})
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value
