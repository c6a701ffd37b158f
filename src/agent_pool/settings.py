"""Every number and path that a user may set, as one frozen class.

A value comes from, in this order: an argument, the environment, the file, the default.
In the environment a setting is called ``AGENT_POOL_`` and its name in capitals; a few also answer
to an older, shorter name (`ALIASES`). The file is TOML, ``~/.claude/agent-pool.toml`` unless
``AGENT_POOL_CONFIG`` names another. Durations are seconds, or carry a unit (``250ms``, ``30s``,
``5m``, ``2h``); sizes are bytes, or carry one (``512MiB``, ``2GiB``).
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from agent_pool.errors import ConfigError

ENV_PREFIX = "AGENT_POOL_"
NOT_SETTINGS = frozenset(
    f"AGENT_POOL_{name}" for name in ("CONFIG", "DEPTH", "COOKIE", "SERVER", "LOG")
)
ALIASES = {
    "AGENTS_DIR": "agents_dir",
    "SKILLS_DIR": "skills_dir",
    "EXPERTISE_DIR": "expertise_dir",
    "CLAUDE_PROJECT_DIR": "project_dir",
    "CLAUDE_CLI": "claude_cli",
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20}
_SIZES["GiB"] = 1 << 30


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", value)
    if match is None:
        raise ValueError("expected seconds, or a number with a unit: 250ms, 30s, 5m, 2h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _words(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(word for word in re.split(r"[,\s]+", value) if word)


def _none(value: object) -> object:
    """In text, ``none`` switches a limit off."""
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def _share_of_memory(share: float) -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * share)


def _bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|KB|MB|GB)?\s*", value)
    if match is None:
        raise ValueError("expected bytes, or a number with a unit: 512MiB, 2GiB")
    return int(float(match[1]) * _SIZES[match[2] or "B"])


Size = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Permission = Literal[
    "plan", "dontAsk", "default", "ask", "acceptEdits", "auto", "bypassPermissions"
]
PERMISSIONS: tuple[str, ...] = get_args(Permission)
"""What an agent may do without being asked, from least to most. With `default` and `ask` a request
is put to a person where that is possible, and denied where not."""
Inherited = Annotated[tuple[Literal["skills", "mcp"], ...], BeforeValidator(_words)]
Jitter = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """What a user may set. Build it with `load_settings`, or directly for tests."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return _none(value)

    # Where things are
    project_dir: Path = Field(
        default_factory=Path.cwd, description="the project: where agents work and are defined"
    )
    agents_dir: Path | None = Field(None, description="searched first for agent definitions")
    skills_dir: Path | None = Field(None, description="the skills, instead of .claude/skills")
    expertise_dir: Path | None = Field(
        None, description="the expertise files, instead of .claude/expertise"
    )
    claude_cli: str | None = Field(
        None, description="the Claude Code binary; else `claude` on the PATH, else the bundled one"
    )

    # How many
    max_size: int = Field(4, ge=1, description="workers of one agent at the most")
    max_workers: int = Field(8, ge=1, description="workers in all at the most")
    max_waiting: int = Field(100, ge=1, description="callers that may wait; one more is refused")
    prewarm: Words = Field((), description="agents whose first workers start with the pool")
    min_size: int = Field(1, ge=0, description="workers kept for each agent in `prewarm`")
    spares: int = Field(
        1,
        ge=0,
        description="blank processes kept ready once the pool is used, to become any agent with "
        "the same flags; none is kept while there is no room",
    )
    spawn_concurrency: int = Field(2, ge=1, description="processes started at once at the most")

    max_conversations: int = Field(4, ge=1, description="conversations open at the most")
    conversation_idle: Seconds = Field(
        600.0, description="a conversation that nobody uses ends after this long"
    )

    # When a worker is replaced
    max_tasks: int | None = Field(200, ge=1, description="tasks of one worker at the most")
    max_tasks_jitter: Jitter = Field(0.1, description="share by which max_tasks is shortened")
    max_lifetime: Seconds | None = Field(3600.0, description="age of a worker at the most")
    max_lifetime_jitter: Jitter = Field(0.05, description="share by which it is shortened")
    max_idle: Seconds | None = Field(600.0, description="an idle worker is kept for this long")
    max_rss: Size | None = Field(
        768 << 20, description="memory of a worker's process tree above which it is replaced"
    )
    max_rss_hard: Size | None = Field(
        default_factory=lambda: _share_of_memory(0.5),
        description="memory of a worker's process tree at which its task is ended",
    )
    max_total_rss: Size | None = Field(
        default_factory=lambda: _share_of_memory(0.75),
        description="memory of all workers above which idle ones go and none is started",
    )

    # How a worker is made ready for the next task, and what it may know
    reset: Literal["auto", "clear", "respawn"] = Field(
        "auto",
        description="auto: /clear where it is proven to forget, else a new process for each task; "
        "clear and respawn force one of them",
    )
    env_passthrough: Words = Field(
        (), description="variables that workers get although they belong to the parent session"
    )
    env_block: Words = Field((), description="variables that workers never get; `*` is allowed")
    inherit: Inherited = Field(
        (), description="ambient things that agents get besides what they name: skills, mcp"
    )
    permission_ceiling: Permission = Field(
        "bypassPermissions",
        description="no agent may do more than this without being asked: plan, dontAsk, default, "
        "ask, acceptEdits, auto, bypassPermissions",
    )
    allow_nested: bool = Field(False, description="whether an agent may run a pool of its own")

    # How long
    task_timeout: Seconds = Field(300.0, description="a task's running time at the most")
    stall_timeout: Seconds | None = Field(
        600.0, description="a task is stopped when its process says nothing for this long"
    )
    permission_timeout: Seconds = Field(
        180.0,
        description="a person's answer to what an agent asks permission for, else it is denied; "
        "does not count as the task's running time",
    )
    acquire_timeout: Seconds = Field(300.0, description="waiting for a worker at the most")
    start_timeout: Seconds = Field(60.0, description="a worker's start, to its ready answer")
    reset_timeout: Seconds = Field(10.0, description="/clear, to its acknowledgement")
    interrupt_timeout: Seconds = Field(5.0, description="an interrupted turn, to its end")
    stop_grace: Seconds = Field(2.0, description="after stdin was closed, before SIGTERM")
    kill_grace: Seconds = Field(1.0, description="after SIGTERM, before SIGKILL")
    max_line: Size = Field(32 << 20, description="bytes of one line that a worker writes")
    close_timeout: Seconds = Field(30.0, description="running tasks get this long at shutdown")

    def with_overrides(self, overrides: Mapping[str, Any]) -> Settings:
        """These settings with some changed.

        Raises:
            ConfigError: as `load_settings`.
        """
        return _checked({**dict(self), **overrides}, dict.fromkeys(overrides, "argument"))


def claude_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Claude Code's own configuration folder."""
    named = environ.get("CLAUDE_CONFIG_DIR")
    return Path(named) if named else Path.home() / ".claude"


def load_settings(environ: Mapping[str, str] = os.environ, **arguments: Any) -> Settings:
    """Settings from arguments, the environment, the file and the defaults, in this order.

    Arguments that are None count as not given.

    Raises:
        ConfigError: a value is of the wrong kind or out of bounds, a name is unknown, or the file
            cannot be read; the message names the place and what was expected.
    """
    places: dict[str, str] = {}
    values: dict[str, Any] = {}
    for place, found in (
        _from_file(environ),
        *_from_environment(environ),
        ("argument", {k: v for k, v in arguments.items() if v is not None}),
    ):
        values.update(found)
        places.update(dict.fromkeys(found, place))
    return _checked(values, places)


def _checked(values: Mapping[str, Any], places: Mapping[str, str]) -> Settings:
    _refuse_unknown(values, places)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, places)) from None


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The settings file: ``AGENT_POOL_CONFIG``, else ``agent-pool.toml`` beside Claude Code's."""
    named = environ.get("AGENT_POOL_CONFIG")
    return Path(named) if named else claude_home(environ) / "agent-pool.toml"


def _from_file(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    path = config_file(environ)
    try:
        return str(path), tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        if "AGENT_POOL_CONFIG" in environ:
            raise ConfigError(f"AGENT_POOL_CONFIG names {path}, which does not exist") from None
        return str(path), {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    found = [(name, {field: environ[name]}) for name, field in ALIASES.items() if environ.get(name)]
    if milliseconds := environ.get("TASK_TIMEOUT_MS"):
        found.append(("TASK_TIMEOUT_MS", {"task_timeout": _from_milliseconds(milliseconds)}))
    for name, value in environ.items():
        if name.startswith(ENV_PREFIX) and name not in NOT_SETTINGS and value:
            found.append((name, {name.removeprefix(ENV_PREFIX).lower(): value}))
    return found


def _from_milliseconds(text: str) -> str:
    if not text.strip().isdigit() or int(text) == 0:
        raise ConfigError(f"TASK_TIMEOUT_MS: expected whole milliseconds above 0, found {text!r}")
    return f"{text.strip()}ms"


def _refuse_unknown(values: Mapping[str, Any], places: Mapping[str, str]) -> None:
    for name in values:
        if name not in Settings.model_fields:
            close = difflib.get_close_matches(name, Settings.model_fields, n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise ConfigError(f"{places[name]}: no setting is called {name!r}{hint}")


def _explain(error: ValidationError, places: Mapping[str, str]) -> str:
    lines = []
    for detail in error.errors():
        name = str(detail["loc"][0])
        said = detail["msg"].removeprefix("Value error, ")
        lines.append(f"{places[name]}: {name}: {said}, found {detail['input']!r}")
    return "; ".join(lines)
