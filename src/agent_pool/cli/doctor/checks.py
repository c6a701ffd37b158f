"""The checks of `agent-pool doctor`, except those of the Claude Code CLI."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agent_pool import ConfigError, PoolAPI, Settings, load_settings
from agent_pool.cli.doctor.findings import Finding
from agent_pool.cli.json_file import read_json
from agent_pool.cli.registration import SCOPES, Registration, server_argv
from agent_pool.settings import Environment, claude_home, config_file
from agent_pool.text import count

_ATTRIBUTION: Final = "CLAUDE_CODE_ATTRIBUTION_HEADER"
_BASE_URL: Final = "ANTHROPIC_BASE_URL"
_OFF: Final = {"0", "false", "no", "off"}
_FOLDER_SETTINGS: Final = ("project_dir", "agents_dir", "skills_dir", "expertise_dir")


def check_package() -> Finding:
    """Report this package and the Python that runs it."""
    package = version("claude-agent-pool")
    message = f"agent-pool {package}, Python {platform.python_version()} at {sys.executable}"
    return Finding("Package", "ok", message)


def check_settings(
    project: Path | None, environ: Mapping[str, str] | None = None
) -> tuple[Settings, Finding]:
    """Load the settings; if one is wrong, report it and return the defaults for later checks."""
    try:
        settings = load_settings(environ, project_dir=project)
    except ConfigError as error:
        # Without the defaults one wrong setting would hide every other problem.
        defaults = Settings.model_validate({"project_dir": project or Path.cwd()})
        return defaults, Finding("Settings", "wrong", str(error), "correct or remove it")
    path = config_file(environ)
    source = f"{path}{'' if path.exists() else ' (missing, which is fine)'}"
    changed = ", ".join(f"{name} = {value}" for name, value in _changed(settings).items())
    return settings, Finding("Settings", "ok", f"{source}; {changed or 'all are the defaults'}")


def _changed(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults, without the folders."""
    # `check_agents` reports the folders.
    return settings.model_dump(exclude_defaults=True, exclude={*_FOLDER_SETTINGS})


def check_user(settings: Settings, environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Check whether Claude Code would refuse to bypass permissions for this user."""
    is_bypassing = settings.permission_ceiling == "bypassPermissions"
    if is_bypassing and os.geteuid() == 0 and not Environment(environ).get("IS_SANDBOX"):
        yield Finding(
            "User",
            "wrong",
            "Claude Code does not bypass permissions for root",
            "run as another user, set permission_ceiling, or IS_SANDBOX=1 in a sandbox",
        )


async def check_agents(settings: Settings, pool: PoolAPI) -> AsyncIterator[Finding]:
    """Report the folders that are searched, and each definition that is not fully usable."""
    found = await pool.agents()
    yield Finding("Project", "ok", str(settings.project_dir))
    for kind, searched in (
        ("Agent folders", found.agent_folders),
        ("Skill folders", found.skill_folders),
        ("Expertise folders", found.expertise_folders),
    ):
        yield Finding(kind, "note", _list_folders(searched))
    for finding in _check_folder_settings(settings):
        yield finding
    if found.agents:
        yield Finding("Agents", "ok", f"{count(len(found.usable), 'agent')} can be used")
    else:
        yield Finding(
            "Agents", "warning", "no agent is defined", "agent-pool init writes a first one"
        )
    for agent in found.agents:
        if agent.error is not None:
            yield Finding("Agents", "wrong", f"{agent.name} cannot be used: {agent.error}")
        for key, reason in agent.warnings.items():
            yield Finding("Agents", "warning", f"{agent.name} ({agent.path}): {key}: {reason}")


def _check_folder_settings(settings: Settings) -> Iterator[Finding]:
    for name in _FOLDER_SETTINGS:
        path: Path | None = getattr(settings, name)
        if path is not None and not path.expanduser().is_dir():
            yield Finding("Settings", "wrong", f"{name} is {path}, which is not a folder")


def _list_folders(folders: Sequence[str]) -> str:
    return ", ".join(
        f"{folder}{'' if Path(folder).is_dir() else ' (missing)'}" for folder in folders
    )


def check_attribution(
    settings: Settings, environ: Mapping[str, str] | None = None
) -> Iterator[Finding]:
    """Report the attribution line if requests go to another server than Anthropic's."""
    environ = Environment(environ)
    server = _find_server(settings.project_dir, environ)
    is_sent = settings.attribution and environ.get(_ATTRIBUTION) not in _OFF
    if server and is_sent and not f".{server}".endswith(".anthropic.com"):
        yield Finding(
            "Attribution",
            "warning",
            f"requests go to {server}, and begin with a line that changes with each conversation: "
            "a prompt cache by bytes cannot be used",
            "attribution = false in the settings file",
        )


def _find_server(project: Path, environ: Mapping[str, str]) -> str:
    """Return the host that workers ask; empty if none is set or the files cannot be read."""
    url = environ.get(_BASE_URL, "")
    # The later files win in Claude Code, and all of them win over the environment.
    for path in (
        claude_home(environ) / "settings.json",
        project / ".claude" / "settings.json",
        project / ".claude" / "settings.local.json",
    ):
        with suppress(ConfigError):
            variables = read_json(path)[1].get("env")
            url = variables.get(_BASE_URL, url) if isinstance(variables, dict) else url
    with suppress(ValueError):
        return urlsplit(str(url)).hostname or ""
    return ""


def check_registered(project: Path, environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Report whether Claude Code knows the server and the hook; it is not wrong if it does not."""
    registration = Registration(project, environ)
    try:
        servers = {scope: registration.find_server(scope) for scope in SCOPES}
        hooks = [scope for scope in SCOPES if registration.find_hooks(scope)]
    except ConfigError as error:
        yield Finding("Registered", "wrong", str(error))
        return
    known = [scope for scope in SCOPES if servers[scope] is not None]
    for name, scopes in (("MCP server", known), ("delegation hook", hooks)):
        place = f"in scope {', '.join(scopes)}" if scopes else "not registered with Claude Code"
        advice = "" if scopes else "agent-pool install"
        yield Finding("Registered", "note", f"{name}: {place}", advice)
    for scope in known:
        program = server_argv(servers[scope] or {})[0]
        # A relative name is searched on the PATH of Claude Code, which is not known here.
        if Path(program).is_absolute() and not Path(program).exists():
            message = f"the MCP server in scope {scope} starts {program}, which does not exist"
            yield Finding("Registered", "wrong", message, f"agent-pool install --scope {scope}")
