"""What a node can do: whether it has Claude Code, is signed in, and has the project.

A node that fails a check gets no tasks, and its reason is shown. It is checked again later: a
person can repair it while the pool runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_pool.claude.binary import cli_version, find_cli
from agent_pool.claude.sign_in import SIGN_IN_ADVICE, read_sign_in
from agent_pool.cluster.node_project import NodeLacksProject, NodeProjects
from agent_pool.cluster.project_source import ProjectSource
from agent_pool.errors import AgentPoolError, SpawnError
from agent_pool.models import JsonValue
from agent_pool.pool.pool import AgentPool
from agent_pool.settings import Settings

log = logging.getLogger("agent_pool")

PROBE_GAP_SECONDS: Final = 60.0
"""Seconds after which a node that was left out is checked again."""


@dataclass(frozen=True, slots=True)
class NodeProbe(JsonValue):
    """What the checks of a node have found.

    Attributes:
        version: of its Claude Code CLI; empty without one.
        sign_in: how it is signed in, in words; empty if that was not reached.
        resets: whether its CLI is known to forget between two tasks; None if that is unknown, so
            that its first task finds it out. A CLI that does not forget gets a new process for each
            task.
        problem: why the node can have no tasks, with the next step; empty if it can.
    """

    version: str = ""
    sign_in: str = ""
    resets: bool | None = None
    problem: str = ""


async def probe_node(
    settings: Settings,
    environ: Mapping[str, str],
    projects: NodeProjects,
    source: ProjectSource | None = None,
) -> NodeProbe:
    """Check this node; it takes no tokens and no network but that of a checkout.

    Args:
        settings: of the node's pool.
        environ: the environment of its workers.
        projects: the node's projects.
        source: a project that it must have; None to check none.
    """
    try:
        cli = find_cli(settings, environ)
        version = await cli_version(cli, environ)
    except SpawnError as error:
        return NodeProbe(problem=str(error))
    try:
        if source is None:
            return await _probe_in(cli, version, Path("/"), settings, environ)
        async with projects.hold(source) as folder:
            return await _probe_in(cli, version, folder, settings, environ)
    except NodeLacksProject as error:
        return NodeProbe(version, problem=str(error))


async def _probe_in(
    cli: Path, version: str, folder: Path, settings: Settings, environ: Mapping[str, str]
) -> NodeProbe:
    sign_in = await read_sign_in(cli, version, folder, environ)
    if sign_in.is_signed_in is False:
        problem = f"{sign_in.text}; on this node: {SIGN_IN_ADVICE}"
        return NodeProbe(version, sign_in.text, problem=problem)
    pool = AgentPool(settings.with_overrides({"project_dir": folder}), environ=environ)
    return NodeProbe(version, sign_in.text, await _known_resets(pool))


async def _known_resets(pool: AgentPool) -> bool | None:
    """Return the verdict on the first agent that can be used; None without one."""
    try:
        usable = (await pool.agents()).usable
        verdict = await pool.reset_verdict(usable[0].name) if usable else None
    except AgentPoolError as error:  # a task of this agent gets this error, with its own node
        log.info("the reset of the CLI is not known: %s", error)
        return None
    return None if verdict is None else verdict.forgets
