"""What `doctor` looks at, but for the CLI itself."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from agent_pool import (
    Agent,
    Broken,
    Catalog,
    ConfigError,
    Settings,
    load_settings,
    not_honoured,
)
from agent_pool.cli.doctor.findings import Finding
from agent_pool.cli.output import count
from agent_pool.cli.registration import SCOPES, Registration, command_of
from agent_pool.settings import config_file

_PLACES: Final = ("project_dir", "agents_dir", "skills_dir", "expertise_dir")


def check_package() -> Finding:
    """This package and the Python that runs it."""
    package = version("claude-agent-pool")
    said = f"agent-pool {package}, Python {platform.python_version()} at {sys.executable}"
    return Finding("Package", "ok", said)


def check_settings(
    project: Path | None, environ: Mapping[str, str] = os.environ
) -> tuple[Settings, Finding]:
    """The settings; the defaults, when something is wrong with them, so that the rest goes on."""
    try:
        settings = load_settings(environ, project_dir=project)
    except ConfigError as error:
        defaults = Settings.model_validate({"project_dir": project or Path.cwd()})
        return defaults, Finding("Settings", "wrong", str(error), "correct or remove it")
    path = config_file(environ)
    source = f"{path}{'' if path.exists() else ' (missing, which is fine)'}"
    changed = ", ".join(f"{name} = {value}" for name, value in _changed(settings).items())
    return settings, Finding("Settings", "ok", f"{source}; {changed or 'all are the defaults'}")


def _changed(settings: Settings) -> dict[str, Any]:
    """What is set, but for the places, which are shown with the folders."""
    return settings.model_dump(exclude_defaults=True, exclude={*_PLACES})


def check_user(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Whether Claude Code would refuse to work for this user."""
    bypassing = settings.permission_ceiling == "bypassPermissions"
    if bypassing and os.geteuid() == 0 and not environ.get("IS_SANDBOX"):
        yield Finding(
            "User",
            "wrong",
            "Claude Code does not bypass permissions for root",
            "run as another user, set permission_ceiling, or IS_SANDBOX=1 in a sandbox",
        )


def check_agents(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """The folders that are searched, and each definition that cannot be used, or not all of it."""
    catalog = Catalog(settings, environ)
    folders = catalog.folders
    yield Finding("Project", "ok", str(settings.project_dir))
    for kind, searched in (
        ("Agent folders", folders.agents),
        ("Skill folders", folders.skills),
        ("Expertise folders", folders.expertise),
    ):
        yield Finding(kind, "note", ", ".join(map(_shown, searched)))
    yield from _check_named(settings)
    found = catalog.scan()
    usable = sum(isinstance(one, Agent) for one in found)
    if found:
        yield Finding("Agents", "ok", f"{count(usable, 'agent')} can be used")
    else:
        yield Finding("Agents", "warning", "none is defined", "agent-pool init writes a first one")
    for one in found:
        if isinstance(one, Broken):
            yield Finding("Agents", "wrong", f"{one.name} cannot be used: {one.error}")
        else:
            yield from _check_fields(one, settings, environ)


def _check_fields(
    agent: Agent, settings: Settings, environ: Mapping[str, str]
) -> Iterator[Finding]:
    try:
        found = not_honoured(agent, settings, environ)
    except ConfigError as error:
        yield Finding("Agents", "wrong", f"{agent.name} cannot be used: {error}")
        return
    for key, why in found.items():
        yield Finding("Agents", "warning", f"{agent.name} ({agent.path}): {key}: {why}")


def _check_named(settings: Settings) -> Iterator[Finding]:
    for name in _PLACES:
        path: Path | None = getattr(settings, name)
        if path is not None and not path.expanduser().is_dir():
            yield Finding("Settings", "wrong", f"{name} is {path}, which is no folder")


def _shown(folder: Path) -> str:
    return f"{folder}{'' if folder.is_dir() else ' (missing)'}"


def check_registered(project: Path, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Whether Claude Code knows the server and the hook; that it does not is no fault."""
    registration = Registration(project, environ)
    try:
        servers = {scope: registration.server(scope) for scope in SCOPES}
        hooks = [scope for scope in SCOPES if registration.hooks(scope)]
    except ConfigError as error:
        yield Finding("Registered", "wrong", str(error))
        return
    known = [scope for scope in SCOPES if servers[scope] is not None]
    for what, scopes in (("MCP server", known), ("delegation hook", hooks)):
        said = f"in scope {', '.join(scopes)}" if scopes else "not registered with Claude Code"
        yield Finding(
            "Registered", "note", f"{what}: {said}", "" if scopes else "agent-pool install"
        )
    for scope in known:
        program = command_of(servers[scope] or {})[0]
        if Path(program).is_absolute() and not Path(program).exists():
            said = f"the MCP server in scope {scope} starts {program}, which is gone"
            yield Finding("Registered", "wrong", said, f"agent-pool install --scope {scope}")
