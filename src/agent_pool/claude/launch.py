"""How a worker is started: its arguments, its environment, its folder.

Everything that tells one worker from another before it has its system prompt is in here, so two
launches with the same `fingerprint` start interchangeable processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from agent_pool.agents import Agent
from agent_pool.claude.arguments import agent_arguments
from agent_pool.claude.binary import parse_version
from agent_pool.claude.servers import Servers
from agent_pool.errors import ConfigError, SpawnError
from agent_pool.settings import ENV_PREFIX, Settings

PROMPT_BY_INITIALIZE: Final = (2, 1, 119)
"""From here on `initialize` takes the system prompt; 2.0.77 ignored it there."""

BASE_ARGUMENTS: Final = (
    "-p",
    "--input-format=stream-json",
    "--output-format=stream-json",
    "--verbose",
    "--strict-mcp-config",
    "--no-session-persistence",
)

_PROMPT: Final = ".prompt.md"
_SERVERS: Final = ".mcp.json"
"""What the names of a worker's private files end with."""

FILE_MENTIONS_OFF: Final = (2, 1, 300)
"""From here on `CLAUDE_CODE_DISABLE_FILE_MENTIONS` is known; before, only all attachments can be
switched off, which would hide the list of deferred tools from here on."""

DEPTH: Final = "AGENT_POOL_DEPTH"

SESSION_VARIABLES: Final = re.compile(
    r"CLAUDECODE|CLAUDE_PID|CLAUDE_EFFORT|AI_AGENT|CLAUDE_PROJECT_DIR|CLAUDE_ENV_FILE"
    r"|CLAUDE_PLUGIN_\w+|CLAUDE_AGENT_SDK_\w+"
    r"|CLAUDE_CODE_(?:ENTRYPOINT|EXECPATH|SSE_PORT|SIMPLE|\w*(?:SESSION|MESSAGING|CHILD|PARENT|LAUNCHED)\w*)"
)
"""What Claude Code tells its own children about the session they belong to. A worker is a session
of its own: some versions refuse to start with these, and the messaging token is a secret."""

POOL_VARIABLES: Final = re.compile(
    rf"{ENV_PREFIX}\w+|(?:AGENTS|SKILLS|EXPERTISE)_DIR|TASK_TIMEOUT_MS|CLAUDE_CLI"
)
SECRETS: Final = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE|HEADERS|_PAT$|DSN", re.I
)
PASSWORD_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]*@")

WORKER_VARIABLES: Final = {
    "DISABLE_AUTOUPDATER": "1",  # a pooled process must not replace its own binary
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",  # a task is data: `@file` in it is not expanded
    "CLAUDE_CODE_DISABLE_CRON": "1",  # nothing may start a turn of its own later
}
NO_BACKGROUND: Final = "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"
"""Set for workers unless the user says otherwise: a task is done when it is answered, and a
sub-agent in the background would be answered for before it has begun."""
NO_CLAUDE_MD: Final = "CLAUDE_CODE_DISABLE_CLAUDE_MDS"


@dataclass(frozen=True, slots=True)
class Launch:
    """What starts one kind of worker.

    Attributes:
        argv: the command, without what names a single worker.
        env: the whole environment of the process, without the worker's cookie.
        cwd: the folder that it works in.
        servers: the configuration of its MCP servers as JSON, empty if it has none; may hold
            secrets, so it goes into a private file and never on the command line.
        prompt: the agent's system prompt.
        schema: the JSON schema of its answers, as JSON; empty for plain text.
        prompt_by_initialize: whether `initialize` carries the prompt; otherwise a file does.
        version: of the CLI.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    servers: str
    prompt: str
    prompt_by_initialize: bool
    version: str
    schema: str = ""

    @property
    def fingerprint(self) -> str:
        """Equal for launches whose processes are the same until `initialize`."""
        prompt = "" if self.prompt_by_initialize else self.prompt
        env = sorted(self.env.items())
        parts = [self.argv, env, str(self.cwd), self.servers, self.version, prompt]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def shown_env(self) -> dict[str, str]:
        """The environment with its secrets masked, to be shown to people."""
        return {name: _shown(name, value) for name, value in sorted(self.env.items())}


def _shown(name: str, value: str) -> str:
    return "…" if SECRETS.search(name) else PASSWORD_IN_URL.sub("…@", value)


def build_launch(
    cli: Path, version: str, agent: Agent, settings: Settings, environ: Mapping[str, str]
) -> Launch:
    """How a worker for `agent` is started with this binary.

    Raises:
        ConfigError: the agent names an MCP server that is configured nowhere.
    """
    return Launch(
        argv=(str(cli), *BASE_ARGUMENTS, *agent_arguments(agent, settings)),
        env=worker_environment(environ, settings, agent, parse_version(version)),
        cwd=settings.project_dir,
        servers=Servers(settings, environ).config_for(agent),
        prompt=agent.prompt,
        prompt_by_initialize=parse_version(version) >= PROMPT_BY_INITIALIZE,
        version=version,
    )


def file_arguments(launch: Launch, stem: Path) -> list[str]:
    """The options whose values are too long or too secret for the command line.

    Args:
        launch: how the worker is started.
        stem: the private files get this path with an ending of their own.

    Raises:
        SpawnError: one of them cannot be written.
    """
    arguments = []
    if not launch.prompt_by_initialize:
        path = _write_private(stem.with_suffix(_PROMPT), launch.prompt)
        arguments.append(f"--system-prompt-file={path}")
    if launch.servers:
        path = _write_private(stem.with_suffix(_SERVERS), launch.servers)
        arguments.append(f"--mcp-config={path}")
    return arguments


def remove_files(stem: Path) -> None:
    """Remove what `file_arguments` has written for a worker that is no more."""
    for ending in (_PROMPT, _SERVERS):
        with suppress(OSError):
            stem.with_suffix(ending).unlink()


def _write_private(path: Path, content: str) -> Path:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)  # in case temporary files were cleaned up
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise SpawnError(
            f"{path} cannot be written: {error.strerror or error}; make room, or let TMPDIR name "
            "another folder",
            is_fatal=False,
        ) from None
    return path


def worker_environment(
    environ: Mapping[str, str],
    settings: Settings,
    agent: Agent | None = None,
    version: tuple[int, ...] = FILE_MENTIONS_OFF,
) -> dict[str, str]:
    """What a worker inherits: everything but the parent session's and the pool's own variables,
    and what the settings `env_passthrough` and `env_block` say otherwise."""
    env = {name: value for name, value in environ.items() if _is_passed(name, settings)}
    own = dict(WORKER_VARIABLES)
    if version < FILE_MENTIONS_OFF:
        own["CLAUDE_CODE_DISABLE_ATTACHMENTS"] = "1"
    own[NO_BACKGROUND] = environ.get(NO_BACKGROUND, "1")
    if agent is not None and "CronCreate" in (agent.tools or ()):
        del own["CLAUDE_CODE_DISABLE_CRON"]
    if agent is not None and agent.omit_claude_md:
        own[NO_CLAUDE_MD] = "1"
    return {**env, **own, DEPTH: str(depth(environ) + 1)}


def _is_passed(name: str, settings: Settings) -> bool:
    if any(fnmatchcase(name, pattern) for pattern in settings.env_block):
        return False
    if any(fnmatchcase(name, pattern) for pattern in settings.env_passthrough):
        return True
    return not (SESSION_VARIABLES.fullmatch(name) or POOL_VARIABLES.fullmatch(name))


def refuse_nesting(environ: Mapping[str, str], settings: Settings) -> None:
    """Agents that start pools of agents multiply without bound; one level must be enough.

    Raises:
        ConfigError: this process belongs to a pool's worker and `allow_nested` is not set.
    """
    level = depth(environ)
    if level and not settings.allow_nested:
        raise ConfigError(
            f"this is a pool inside an agent of a pool ({DEPTH}={level}); agents do not get pools "
            "of their own unless AGENT_POOL_ALLOW_NESTED=true is set for them"
        )


def depth(environ: Mapping[str, str] = os.environ) -> int:
    """How many pools this process is inside of.

    Raises:
        ConfigError: the variable that counts them is no number.
    """
    value = environ.get(DEPTH, "0")
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(f"{DEPTH}: expected a number, found {value!r}; unset it")
    return int(value)
