"""All settings, as one frozen class, and where their values come from.

A value comes from the first of these that has one: an argument, the environment, the settings file,
the default. In the environment the name of a setting is ``AGENT_POOL_`` and its name in capitals; a
few have an older, shorter name too (`ALIASES`). The file is TOML, ``~/.claude/agent-pool.toml``
unless ``AGENT_POOL_CONFIG`` names another. Durations are seconds, or have a unit (``250ms``,
``30s``, ``5m``, ``2h``); sizes are bytes, or have a unit (``512MiB``, ``2GiB``).
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from agent_pool.errors import ConfigError
from agent_pool.text import did_you_mean

ENV_PREFIX = "AGENT_POOL_"
NOT_SETTINGS = frozenset(
    f"AGENT_POOL_{name}"
    for name in ("CONFIG", "COOKIE", "DAEMON", "DEPTH", "LOG", "RUNTIME_DIR", "SERVER", "STATE_DIR")
)
"""Variables with the prefix of a setting that have another purpose."""
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


def _parse_seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", value)
    if match is None:
        raise ValueError("expected seconds, or a number with a unit: 250ms, 30s, 5m, 2h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _parse_names(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(word for word in re.split(r"[,\s]+", value) if word)


def _parse_none(value: object) -> object:
    """Return None for the text ``none``, which switches a limit off; else the value itself."""
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def _share_of_memory(share: float) -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * share)


def _parse_bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|KB|MB|GB)?\s*", value)
    if match is None:
        raise ValueError("expected bytes, or a number with a unit: 512MiB, 2GiB")
    return int(float(match[1]) * _SIZES[match[2] or "B"])


Size = Annotated[int, BeforeValidator(_parse_bytes), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(_parse_seconds), Field(gt=0)]
Words = Annotated[tuple[str, ...], BeforeValidator(_parse_names)]
Permission = Literal[
    "plan", "dontAsk", "default", "ask", "acceptEdits", "auto", "bypassPermissions"
]
PERMISSIONS: tuple[str, ...] = get_args(Permission)
"""The permission modes of an agent, from the strictest to the most permissive. With `default` and
`ask`, a request for permission goes to a person if that is possible, and is denied otherwise."""
Inherited = Annotated[tuple[Literal["skills", "mcp"], ...], BeforeValidator(_parse_names)]
Jitter = Annotated[float, Field(ge=0, le=1)]


class Environment(Mapping[str, str]):
    """Environment variables whose text form has no value: they hold secrets.

    Tracebacks with local variables, debuggers and logs show the text forms of such values.

    Args:
        variables: the variables; by default those of this process, as they are when they are read.
    """

    __slots__ = ("_variables",)

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return f"<{len(self)} environment variables>"


class Settings(BaseModel):
    """All settings of a pool. Build them with `load_settings`, or directly in tests."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _none_is_off(cls, value: object) -> object:
        return _parse_none(value)

    # Folders and files
    project_dir: Path = Field(
        default_factory=Path.cwd, description="the project: agents are defined and work there"
    )
    agents_dir: Path | None = Field(
        None, description="the folder that is searched first for agent definitions"
    )
    skills_dir: Path | None = Field(
        None, description="the folder of the skills, instead of .claude/skills"
    )
    expertise_dir: Path | None = Field(
        None, description="the folder of the expertise files, instead of .claude/expertise"
    )
    claude_cli: str | None = Field(
        None,
        description="the Claude Code binary; by default `claude` on the PATH, else the one in the "
        "package claude-agent-sdk",
    )

    # Numbers of workers and tasks
    max_size: int = Field(4, ge=1, description="the most workers of one agent")
    max_workers: int = Field(8, ge=1, description="the most workers of all agents together")
    max_waiting: int = Field(
        100, ge=1, description="the most tasks that wait for a worker; one more is refused"
    )
    prewarm: Words = Field(
        (), description="agents whose first workers are started when the pool is opened"
    )
    min_size: int = Field(1, ge=0, description="workers that are kept for each agent in `prewarm`")
    spares: int = Field(
        1,
        ge=0,
        description="processes without an agent and a project that are kept ready once the pool is "
        "used; each can become a worker of any agent with the same options; none is kept while "
        "there is no room for one more worker",
    )
    spawn_concurrency: int = Field(
        2, ge=1, description="the most processes that start at the same time"
    )

    max_conversations: int = Field(4, ge=1, description="the most open conversations")
    conversation_idle: Seconds = Field(
        600.0, description="a conversation ends after this time without a task"
    )

    # When a worker is replaced
    max_tasks: int | None = Field(
        200, ge=1, description="a worker is replaced after this many tasks"
    )
    max_tasks_jitter: Jitter = Field(
        0.1, description="each worker's max_tasks is reduced at random by up to this share"
    )
    max_lifetime: Seconds | None = Field(
        3600.0, description="a worker of this age is replaced, after its task"
    )
    max_lifetime_jitter: Jitter = Field(
        0.05, description="each worker's max_lifetime is reduced at random by up to this share"
    )
    max_idle: Seconds | None = Field(
        600.0, description="a worker is stopped after this time without a task"
    )
    max_rss: Size | None = Field(
        768 << 20,
        description="a worker whose process tree uses more memory than this is replaced, "
        "after its task",
    )
    max_rss_hard: Size | None = Field(
        default_factory=lambda: _share_of_memory(0.5),
        description="a task whose process tree uses this much memory fails, and its worker ends",
    )
    max_total_rss: Size | None = Field(
        default_factory=lambda: _share_of_memory(0.75),
        description="while all workers together use more memory than this, idle ones are stopped "
        "and no worker is started",
    )

    # Reset between tasks, environment and permissions
    reset: Literal["auto", "clear", "respawn"] = Field(
        "auto",
        description="auto: a rewind or /clear between two tasks if a probe has shown that it "
        "forgets, else a new process for each task; clear and respawn force one of them",
    )
    worker_memory: Literal["lean", "fast"] = Field(
        "lean",
        description="lean: the JavaScript engine of Claude Code compiles nothing, and workers stay "
        "small; fast: it compiles, and workers grow",
    )
    attribution: bool = Field(
        True,
        description="whether Claude Code puts its attribution line before the system prompt; the "
        "line changes with the first words of a conversation, which defeats a prompt cache by "
        "bytes, as local models have one",
    )
    env_passthrough: Words = Field(
        (),
        description="variables that workers get although they belong to the Claude Code session "
        "that started the pool",
    )
    env_block: Words = Field(
        (), description="variables that workers never get; `*` stands for any characters"
    )
    inherit: Inherited = Field(
        (),
        description="things of the user and the project that agents get although they do not name "
        "them: skills, mcp",
    )
    permission_ceiling: Permission = Field(
        "bypassPermissions",
        description="the most permissive mode of any agent: plan, dontAsk, default, ask, "
        "acceptEdits, auto, bypassPermissions; below the last one, hooks and MCP servers inside "
        "agent files are left out",
    )
    allow_nested: bool = Field(False, description="allow an agent to run a pool of its own")

    # Time limits
    task_timeout: Seconds = Field(300.0, description="a task is stopped after this running time")
    stall_timeout: Seconds | None = Field(
        600.0, description="a task is stopped when its process writes nothing for this time"
    )
    permission_timeout: Seconds = Field(
        180.0,
        description="a request for permission is denied after this time without an answer; the "
        "time does not count as running time of the task",
    )
    acquire_timeout: Seconds = Field(300.0, description="a task fails after this time in the queue")
    start_timeout: Seconds = Field(
        60.0, description="a worker that is not ready after this time has failed to start"
    )
    reset_timeout: Seconds = Field(
        10.0, description="a worker that has not confirmed its reset after this time is replaced"
    )
    interrupt_timeout: Seconds = Field(
        5.0, description="a worker whose interrupted turn has not ended after this time is replaced"
    )
    stop_grace: Seconds = Field(
        2.0, description="time for a worker to end after its stdin is closed; then it gets SIGTERM"
    )
    kill_grace: Seconds = Field(
        1.0, description="time for a worker to end after SIGTERM; then it gets SIGKILL"
    )
    max_line: Size = Field(32 << 20, description="the most bytes of one line that a worker writes")
    close_timeout: Seconds = Field(
        30.0, description="time for running tasks to end when the pool is closed"
    )

    # Budgets
    max_budget_usd: float | None = Field(
        None,
        gt=0,
        description="a task is interrupted when it has cost this many US dollars, by list prices",
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="a task is interrupted when it has used this many tokens, those read from the "
        "cache not counted",
    )
    daily_budget_usd: float | None = Field(
        None, gt=0, description="the most US dollars that all tasks of a day cost, by list prices"
    )
    daily_tokens: int | None = Field(
        None, ge=1, description="the most tokens of all tasks of a day"
    )
    project_daily_budget_usd: float | None = Field(
        None, gt=0, description="the most US dollars that the tasks of one project cost on a day"
    )
    project_daily_tokens: int | None = Field(
        None, ge=1, description="the most tokens of the tasks of one project on a day"
    )
    budget_with_subscription: bool = Field(
        False,
        description="whether budgets in US dollars count also where Claude Code is signed in with "
        "a subscription, whose tasks cost no money by themselves",
    )

    # The daemon and its store of tasks
    daemon_idle: Seconds | None = Field(
        1800.0, description="the daemon ends after this time without a client and a task"
    )
    daemon_port: int = Field(
        0, ge=0, le=65535, description="the daemon's TCP port on 127.0.0.1; 0 for any free one"
    )
    max_queued: int = Field(
        10_000, ge=1, description="the most tasks that wait in the store; one more is refused"
    )
    history_age: Seconds | None = Field(
        30 * 86400.0, description="the record of a task is removed this long after its end"
    )
    history_size: Size | None = Field(
        1 << 30, description="while the store is larger, the oldest records are removed"
    )
    transcript_size: Size = Field(
        1 << 20,
        description="the most bytes of events that are kept of one task; the middle is left out",
    )

    # Many machines, by Ray
    ray: str | None = Field(
        None,
        description="the Ray cluster whose nodes run the tasks: `auto`, `HOST:PORT` or "
        "`ray://HOST:PORT`; without it the tasks run on this machine",
    )
    ray_workers: int | None = Field(
        None,
        ge=1,
        description="the most workers of one node; by default as many as its cores and its memory "
        "allow, and at most max_workers",
    )
    ray_env: Words = Field(
        (),
        description="variables whose values are sent from this machine to the workers on all "
        "nodes; all others are the node's own",
    )
    project_source: Literal["path", "git", "working_dir"] = Field(
        "path",
        description="where nodes find a project: at the same path, in a checkout of its git "
        "remote and commit, or in the copy that Ray makes of `project_dir`",
    )

    @property
    def sent_variables(self) -> tuple[str, ...] | None:
        """Return patterns of the variables that workers get from this machine; None for all."""
        return None if self.ray is None else self.ray_env

    def with_overrides(self, overrides: Mapping[str, Any]) -> Settings:
        """Return these settings with some of them changed.

        Raises:
            ConfigError: as `load_settings`.
        """
        return _validate({**dict(self), **overrides}, dict.fromkeys(overrides, "argument"))


MANAGED_FOLDER: Final = Path(
    "/Library/Application Support/ClaudeCode" if sys.platform == "darwin" else "/etc/claude-code"
)
"""The folder of an administrator's files for Claude Code; no variable replaces it (2.1.332)."""


def managed_settings_files() -> list[Path]:
    """Return the administrator's settings files that can exist; of two values the later one wins.

    Besides ``managed-settings.json`` they are the files of ``managed-settings.d`` itself whose name
    ends in ``.json`` and does not begin with a dot, in the order of their names (2.1.332).
    """
    try:
        found = sorted((MANAGED_FOLDER / "managed-settings.d").iterdir())
    except OSError:  # most machines have no such folder
        found = []
    parts = [path for path in found if path.suffix == ".json" and not path.name.startswith(".")]
    return [MANAGED_FOLDER / "managed-settings.json", *parts]


def managed_agents() -> Path:
    """Return the folder of the administrator's agents; it need not exist."""
    return MANAGED_FOLDER / ".claude" / "agents"


def claude_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return Claude Code's own configuration folder.

    It is `CLAUDE_CONFIG_DIR`, else `.claude` in `HOME`, both of `environ`; the home folder of this
    process is used only if `environ` has no `HOME`.
    """
    environ = Environment(environ)
    named = environ.get("CLAUDE_CONFIG_DIR")
    if named:
        return Path(named)
    home = environ.get("HOME")
    return (Path(home) if home else Path.home()) / ".claude"


def load_settings(environ: Mapping[str, str] | None = None, **arguments: Any) -> Settings:
    """Load the settings from arguments, the environment, the file and the defaults, in this order.

    Args:
        environ: the environment, which can name the file too; by default that of this process.
        arguments: single settings; None counts as not given.

    Raises:
        ConfigError: a value has the wrong type or is out of bounds, a name is unknown, or the file
            cannot be read; the message names the place and the expected form.
    """
    environ = Environment(environ)
    places: dict[str, str] = {}
    values: dict[str, Any] = {}
    # The order of precedence, the lowest first.
    for place, found in (
        _from_file(environ),
        *_from_environment(environ),
        ("argument", {k: v for k, v in arguments.items() if v is not None}),
    ):
        values.update(found)
        places.update(dict.fromkeys(found, place))
    return _validate(values, places)


def _validate(values: Mapping[str, Any], places: Mapping[str, str]) -> Settings:
    _refuse_unknown(values, places)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, places)) from None


def config_file(environ: Mapping[str, str] | None = None) -> Path:
    """Return the settings file: ``AGENT_POOL_CONFIG``, else a file in Claude Code's own folder."""
    environ = Environment(environ)
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
            hint = did_you_mean(name, Settings.model_fields)
            raise ConfigError(f"{places[name]}: there is no setting {name!r}{hint}")


def _explain(error: ValidationError, places: Mapping[str, str]) -> str:
    lines = []
    for detail in error.errors():
        name = str(detail["loc"][0])
        message = detail["msg"].removeprefix("Value error, ")  # pydantic puts it before ours
        lines.append(f"{places[name]}: {name}: {message}, found {detail['input']!r}")
    return "; ".join(lines)
