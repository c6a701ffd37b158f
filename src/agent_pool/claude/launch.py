"""How a worker is started: its command, its environment, its folder.

Two launches with the same `profile` start interchangeable processes: everything that cannot be
changed in a running process is a part of it. What can be changed is the role (`roles`): prompt,
tools, model and effort. Before `ROLES_FROM` a process is one agent for life, and these are options
of its command.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Final

from agent_pool.agents import Agent, Project
from agent_pool.claude.binary import parse_version
from agent_pool.claude.cli_options import (
    agent_options,
    cli_mode,
    option_name,
    process_options,
    unknown_options,
)
from agent_pool.claude.engine import WorkerMemory, engine_variables, memory_in_force
from agent_pool.claude.masking import masked_value
from agent_pool.claude.mcp_config import McpConfig, expand_variables
from agent_pool.claude.private_files import write_private
from agent_pool.claude.protocol.role import Role
from agent_pool.claude.roles import can_be_role, compose_role
from agent_pool.claude.trust import permitted_agent
from agent_pool.claude.watchdog_script import SESSIONS_ENDING
from agent_pool.errors import ConfigError
from agent_pool.models import LaunchSpec
from agent_pool.settings import ENV_PREFIX, Environment, Settings

PROMPT_BY_INITIALIZE: Final = (2, 1, 119)
"""From this version on `initialize` takes the system prompt; 2.0.77 ignored it there."""

BASE_OPTIONS: Final = (
    "-p",
    "--input-format=stream-json",
    "--output-format=stream-json",
    "--verbose",  # without it stream-json is refused with exit code 1 (2.1.330)
    # Without it each worker starts every server of `.mcp.json` and of the user, this pool's own
    # among them (2.1.330).
    "--strict-mcp-config",
    # Without it the CLI writes a transcript of every task to the user's folder (2.1.330).
    "--no-session-persistence",
)

_PROMPT_ENDING: Final = ".prompt.md"
_MCP_ENDING: Final = ".mcp.json"
_SETTINGS_ENDING: Final = ".settings.json"
_SETTINGS_OPTION: Final = "--settings="
_ROLES_ENDING: Final = ".roles"
_PARKING_ENDING: Final = ".parking"
"""The endings of a worker's private files and folders."""

FILE_MENTIONS_OFF: Final = (2, 1, 300)
"""From this version on `CLAUDE_CODE_DISABLE_FILE_MENTIONS` is known. Older versions can only switch
off all attachments, which on newer ones would hide the list of deferred tools."""

DEPTH: Final = "AGENT_POOL_DEPTH"

SESSION_VARIABLES: Final = re.compile(
    r"CLAUDECODE|CLAUDE_PID|CLAUDE_EFFORT|AI_AGENT|CLAUDE_PROJECT_DIR|CLAUDE_ENV_FILE"
    r"|CLAUDE_PLUGIN_\w+|CLAUDE_AGENT_SDK_\w+"
    # Handles of the parent's open files, which a worker does not have, and the token of its
    # session with the service (2.1.332).
    r"|\w+_FILE_DESCRIPTOR|CCR_\w*TOKEN_FILE"
    r"|(?:CLAUDE_(?:CODE_|BRIDGE_)?)?SESSION_INGRESS\w*"
    r"|CLAUDE_CODE_(?:ENTRYPOINT|EXECPATH|SSE_PORT|SIMPLE|\w*(?:SESSION|MESSAGING|CHILD|PARENT|LAUNCHED)\w*)"
)
"""Variables by which Claude Code tells its children about their session. A worker is a session of
its own: some versions refuse to start with these, and the messaging token is a secret."""

POOL_VARIABLES: Final = re.compile(
    rf"{ENV_PREFIX}\w+|(?:AGENTS|SKILLS|EXPERTISE)_DIR|TASK_TIMEOUT_MS|CLAUDE_CLI"
)
WORKER_VARIABLES: Final = {
    "DISABLE_AUTOUPDATER": "1",  # a pooled process must not replace its own binary
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",  # a task is data: `@file` in it is not expanded
    "CLAUDE_CODE_DISABLE_CRON": "1",  # a worker must not start a turn of its own later
    # Then `session_state_changed` tells when a turn is really over (2.1.332).
    "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
}
NO_BACKGROUND: Final = "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"
"""Set for workers unless the user sets it: a task is done when it is answered, and the Agent tool
works in the background otherwise, so the answer would come before the sub-agent began (2.1.330)."""
NO_CLAUDE_MD: Final = "CLAUDE_CODE_DISABLE_CLAUDE_MDS"
ATTRIBUTION: Final = "CLAUDE_CODE_ATTRIBUTION_HEADER"
ATTRIBUTION_OFF: Final = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class LaunchConfig:
    """The command, environment and prompt with which the workers of one agent are started.

    Attributes:
        argv: the command, without the options that name a single worker.
        env: the whole environment of the process, without the worker's cookie.
        cwd: the folder that it works in.
        mcp_config: the configuration of its MCP servers as JSON; empty without servers, and if its
            processes take roles, which have it. It can hold secrets, so it goes into a private
            file and never on the command line.
        prompt: the agent's system prompt.
        prompt_by_initialize: `initialize` carries the prompt; otherwise a file does.
        version: of the CLI.
        schema: the JSON schema of its answers, as JSON; empty for plain text.
        takes_roles: its processes can take the role of any agent with the same profile.
        role: the agent's role; None for a spare, and if processes take no roles.
        mode: the permission mode by the CLI's own name.
        awaits_claim: its process starts in a private folder and is claimed for a project later.
        left_out: the options that this CLI does not know, and what it costs to leave them out.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    mcp_config: str = field(repr=False)
    prompt: str
    prompt_by_initialize: bool
    version: str
    schema: str = ""
    takes_roles: bool = False
    role: Role | None = None
    mode: str = "bypassPermissions"
    awaits_claim: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def base_profile(self) -> str:
        """Return a text that is equal for launches that differ only in folder and role.

        A process that waits for its claim can become each of them. It is empty if there is no such
        process.
        """
        if not self.takes_roles:
            return ""
        return replace(self, cwd=Path(), role=None, awaits_claim=True).profile

    @cached_property
    def profile(self) -> str:
        """Return a text that is equal for launches with interchangeable processes.

        That is until `initialize`, or for life if the processes take roles.
        """
        # `initialize` makes a blank process this agent, so such a prompt makes no difference
        # before.
        prompt = "" if self.prompt_by_initialize else self.prompt
        # The schema is given with `initialize`, once, and a process that takes roles has that
        # behind it.
        schema = self.schema if self.takes_roles else ""
        env = sorted(self.env.items())
        # The version too: an update can replace the binary while a spare of the old one waits.
        parts = [
            *(self.argv, env, str(self.cwd), self.mcp_config, self.version, prompt),
            *(self.takes_roles, self.awaits_claim, schema),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @cached_property
    def starts_servers(self) -> bool:
        """Return whether its processes start MCP servers, and not only call some by their URL."""
        servers = json.loads(self.mcp_config)["mcpServers"] if self.mcp_config else {}
        return any("command" in server for server in servers.values())

    @cached_property
    def has_hooks(self) -> bool:
        """Return whether the definition has hooks; those of settings files are not counted."""
        given = [option for option in self.argv if option_name(option) == "--settings"]
        return any(json.loads(option.partition("=")[2]).get("hooks") for option in given)

    @property
    def memory(self) -> WorkerMemory:
        """Return how its processes treat memory: `lean` or `fast`."""
        return memory_in_force(self.env)

    @property
    def sends_attribution(self) -> bool:
        """Return whether its requests begin with the CLI's attribution line."""
        return self.env.get(ATTRIBUTION, "").lower() not in ATTRIBUTION_OFF

    def spec(self) -> LaunchSpec:
        """Return it for people to read: secrets in the environment are masked."""
        env = {name: masked_value(name, value) for name, value in sorted(self.env.items())}
        role = self.role.definition.removesuffix(self.prompt) if self.role else ""
        return LaunchSpec(
            self.argv,
            env,
            str(self.cwd),
            self.prompt,
            self.version,
            memory=self.memory,
            role=role,
            effort=(self.role and self.role.effort) or "",
            profile=self.profile,
            left_out=self.left_out,
        )


def build_launch(cli: Path, version: str, agent: Agent, project: Project) -> LaunchConfig:
    """Return how a worker for an agent of this project is started with this binary.

    Raises:
        ConfigError: the agent names an MCP server that is configured nowhere, or a file of Claude
            Code that it needs cannot be read.
    """
    parsed = parse_version(version)
    agent = permitted_agent(agent, project)
    servers = McpConfig(project).find(agent)
    env = worker_environment(project.environ, project.settings, agent, parsed)
    tools = servers.tools if servers.started else None
    if parsed < PROMPT_BY_INITIALIZE:
        _refuse_single_tools(version, agent, tools)
        tools = None
    role, config = None, ""
    if can_be_role(agent, parsed):
        started = expand_variables(servers.started, env)
        role = compose_role(agent, project.settings, tools, started)
    elif servers.started:
        # Sorted: the text is a part of the profile, so equal servers must give equal texts.
        config = json.dumps({"mcpServers": servers.started}, sort_keys=True)
    own_options = (
        process_options(agent, project.settings)
        if role
        else agent_options(agent, project.settings, tools, parsed)
    )
    options = {option: option_name(option) for option in (*BASE_OPTIONS, *own_options)}
    unknown = unknown_options(version)
    return LaunchConfig(
        argv=(str(cli), *(option for option, name in options.items() if name not in unknown)),
        env=env,
        cwd=project.root,
        mcp_config=config,
        prompt=agent.prompt,
        prompt_by_initialize=parsed >= PROMPT_BY_INITIALIZE,
        version=version,
        takes_roles=role is not None,
        role=role,
        mode=cli_mode(agent, project.settings),
        left_out={name: unknown[name] for name in options.values() if name in unknown},
    )


def _refuse_single_tools(version: str, agent: Agent, tools: tuple[str, ...] | None) -> None:
    """Refuse an agent that names single tools of MCP servers: an old CLI cannot leave out others.

    Its options that limit tools also set the system prompt, which `initialize` does not replace.

    Raises:
        ConfigError: there is such a tool.
    """
    for tool in tools or ():
        if "__" in tool.removeprefix("mcp__").removesuffix("__*"):
            raise ConfigError(
                f"{agent.path}: Claude Code {version} cannot limit an agent to {tool}; update it, "
                "or name all tools of the server"
            )


def file_options(launch: LaunchConfig, stem: Path) -> list[str]:
    """Write the values that are too long or too secret for the command line into private files.

    Args:
        launch: how the worker is started.
        stem: the path of the files, without their endings.

    Returns:
        The options that name the files.

    Raises:
        SpawnError: a file cannot be written.
    """
    options = []
    if not launch.prompt_by_initialize:
        path = write_private(stem.with_suffix(_PROMPT_ENDING), launch.prompt)
        options.append(f"--system-prompt-file={path}")
    if launch.mcp_config:
        path = write_private(stem.with_suffix(_MCP_ENDING), launch.mcp_config)
        options.append(f"--mcp-config={path}")
    if launch.takes_roles:
        options.append(f"--plugin-dir={role_folder(stem)}")
    if launch.awaits_claim:
        options.append("--await-claim")
    return options


def command_line(launch: LaunchConfig, stem: Path) -> list[str]:
    """Return the command of a process, with the settings of its agent in a private file.

    They can contain hooks, whose commands everybody can read in the command line of a process.

    Args:
        launch: how the worker is started.
        stem: the path of its files, without their endings.

    Raises:
        SpawnError: a file cannot be written.
    """
    command = [*launch.argv, *file_options(launch, stem)]
    for index, option in enumerate(command):
        if option.startswith(_SETTINGS_OPTION):
            text = option.removeprefix(_SETTINGS_OPTION)
            path = write_private(stem.with_suffix(_SETTINGS_ENDING), text)
            command[index] = f"{_SETTINGS_OPTION}{path}"
    return command


def remove_files(stem: Path) -> None:
    """Remove the files that `command_line` and the worker wrote, which has ended."""
    for ending in (_PROMPT_ENDING, _MCP_ENDING, _SETTINGS_ENDING, SESSIONS_ENDING):
        with suppress(OSError):
            stem.with_suffix(ending).unlink()
    for folder in (role_folder(stem), parking_folder(stem)):
        shutil.rmtree(folder, ignore_errors=True)


def role_folder(stem: Path) -> Path:
    """Return the folder of a worker's roles."""
    return stem.with_suffix(_ROLES_ENDING)


def parking_folder(stem: Path) -> Path:
    """Return the empty folder in which a process waits for its claim."""
    return stem.with_suffix(_PARKING_ENDING)


def worker_environment(
    environ: Mapping[str, str],
    settings: Settings,
    agent: Agent | None = None,
    version: tuple[int, ...] = FILE_MENTIONS_OFF,
) -> dict[str, str]:
    """Return the environment of a worker.

    It inherits everything but the variables of the parent session and of the pool itself, as far
    as the settings `env_passthrough` and `env_block` do not say otherwise.
    """
    env = {name: value for name, value in environ.items() if _is_passed(name, settings)}
    own = dict(WORKER_VARIABLES)
    if version < FILE_MENTIONS_OFF:
        own["CLAUDE_CODE_DISABLE_ATTACHMENTS"] = "1"
    own[NO_BACKGROUND] = environ.get(NO_BACKGROUND, "1")
    if agent is not None and "CronCreate" in (agent.tools or ()):
        del own["CLAUDE_CODE_DISABLE_CRON"]  # the agent asks for scheduled tasks by name
    if agent is not None and agent.omit_claude_md:
        own[NO_CLAUDE_MD] = "1"
    if not settings.attribution:
        own[ATTRIBUTION] = "0"
    memory = (agent and agent.worker_memory) or settings.worker_memory
    own |= engine_variables(env, version, memory)
    return {**env, **own, DEPTH: str(depth(environ) + 1)}


def _is_passed(name: str, settings: Settings) -> bool:
    # Asked first: a variable that both settings name stays out.
    if any(fnmatchcase(name, pattern) for pattern in settings.env_block):
        return False
    if any(fnmatchcase(name, pattern) for pattern in settings.env_passthrough):
        return True
    return not (SESSION_VARIABLES.fullmatch(name) or POOL_VARIABLES.fullmatch(name))


def refuse_nesting(environ: Mapping[str, str], settings: Settings) -> None:
    """Refuse a pool inside an agent of a pool: such pools would multiply without bound.

    Raises:
        ConfigError: this process belongs to a pool's worker and `allow_nested` is not set.
    """
    level = depth(environ)
    if level and not settings.allow_nested:
        raise ConfigError(
            f"this is a pool inside an agent of a pool ({DEPTH}={level}); agents cannot have pools "
            "of their own; to allow it, write allow_nested = true in the settings file, or set "
            "AGENT_POOL_ALLOW_NESTED=true for the command that opens this pool"
        )


def depth(environ: Mapping[str, str] | None = None) -> int:
    """Return how many pools this process is inside of.

    Raises:
        ConfigError: the variable that counts them is not a number.
    """
    value = Environment(environ).get(DEPTH, "0")
    # `isdigit` alone accepts characters such as "²", which `int` refuses.
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(f"{DEPTH}: expected a number, found {value!r}; unset it")
    return int(value)
