"""How a worker is started: its arguments, its environment, its folder.

Everything that tells one worker from another before it has its system prompt is in here, so two
launches with the same `fingerprint` start interchangeable processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from agent_pool.agents import Agent
from agent_pool.claude.binary import parse_version
from agent_pool.claude.states import SURVIVING_TOOLS
from agent_pool.errors import ConfigError
from agent_pool.settings import ENV_PREFIX, Settings

PROMPT_BY_INITIALIZE: Final = (2, 1, 119)
"""From here on `initialize` takes the system prompt; 2.0.77 ignored it there."""

NOT_OFFERED: Final = tuple(
    sorted(SURVIVING_TOOLS | {"CronList", "ListAgents", "AskUserQuestion", "ReportFindings"})
)
"""Tools of an interactive or self-waking session, kept from agents that do not name them."""

DEPTH: Final = "AGENT_POOL_DEPTH"

SESSION_VARIABLES: Final = re.compile(
    r"CLAUDECODE|CLAUDE_PID|CLAUDE_EFFORT|AI_AGENT|CLAUDE_PROJECT_DIR|CLAUDE_ENV_FILE"
    r"|CLAUDE_PLUGIN_\w+|CLAUDE_AGENT_SDK_\w+"
    r"|CLAUDE_CODE_(?:ENTRYPOINT|SSE_PORT|SIMPLE|\w*(?:SESSION|MESSAGING|CHILD|PARENT|LAUNCHED)\w*)"
)
"""What Claude Code tells its own children about the session they belong to. A worker is a session
of its own: some versions refuse to start with these, and the messaging token is a secret."""

POOL_VARIABLES: Final = re.compile(
    rf"{ENV_PREFIX}\w+|(?:AGENTS|SKILLS|EXPERTISE)_DIR|TASK_TIMEOUT_MS|CLAUDE_CLI"
)
SECRETS: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE|_PAT$|DSN", re.I)

WORKER_VARIABLES: Final = {
    "DISABLE_AUTOUPDATER": "1",  # a pooled process must not replace its own binary
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",  # a task is data: `@file` in it is not expanded
    "CLAUDE_CODE_DISABLE_CRON": "1",  # nothing may start a turn of its own later
}


@dataclass(frozen=True, slots=True)
class Launch:
    """What starts one kind of worker.

    Attributes:
        argv: the command, without what names a single worker.
        env: the whole environment of the process, without the worker's cookie.
        cwd: the folder that it works in.
        prompt: the agent's system prompt.
        prompt_by_initialize: whether `initialize` carries the prompt; otherwise a file does.
        version: of the CLI.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    prompt: str
    prompt_by_initialize: bool
    version: str

    @property
    def fingerprint(self) -> str:
        """Equal for launches whose processes differ by nothing but the system prompt."""
        parts = [self.argv, sorted(self.env.items()), str(self.cwd), self.version]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def shown_env(self) -> dict[str, str]:
        """The environment with its secrets masked, to be shown to people."""
        return {
            name: "…" if SECRETS.search(name) else value for name, value in sorted(self.env.items())
        }


def build_launch(
    cli: Path, version: str, agent: Agent, settings: Settings, environ: Mapping[str, str]
) -> Launch:
    """How a worker for `agent` is started with this binary."""
    return Launch(
        argv=(str(cli), *_base_arguments(), *_agent_arguments(agent)),
        env=worker_environment(environ, settings, agent.tools or ()),
        cwd=settings.project_dir,
        prompt=agent.prompt,
        prompt_by_initialize=parse_version(version) >= PROMPT_BY_INITIALIZE,
        version=version,
    )


def _base_arguments() -> list[str]:
    return [
        "-p",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--verbose",
        "--dangerously-skip-permissions",
        "--strict-mcp-config",
        "--no-session-persistence",
    ]


def _agent_arguments(agent: Agent) -> list[str]:
    named = set(agent.tools or ())
    refused = [*agent.disallowed_tools, *(tool for tool in NOT_OFFERED if tool not in named)]
    arguments = [f"--disallowedTools={','.join(refused)}"]
    if agent.tools is not None:
        arguments.append(f"--tools={','.join(agent.tools)}")
    if agent.model is not None and agent.model != "inherit":
        arguments.append(f"--model={agent.model}")
    return arguments


def worker_environment(
    environ: Mapping[str, str], settings: Settings, named_tools: Collection[str] = ()
) -> dict[str, str]:
    """What a worker inherits: everything but the parent session's and the pool's own variables,
    and what the settings `env_passthrough` and `env_block` say otherwise."""
    env = {name: value for name, value in environ.items() if _is_passed(name, settings)}
    own = dict(WORKER_VARIABLES)
    if "CronCreate" in named_tools:
        del own["CLAUDE_CODE_DISABLE_CRON"]
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
