"""The agents of a project as values: usable definitions, broken ones, fields without effect."""

from __future__ import annotations

from agent_pool.agents import Agent, BrokenAgent, Project
from agent_pool.claude.unsupported import unsupported_fields
from agent_pool.errors import ConfigError
from agent_pool.models import AgentInfo, AgentList


def list_agents(project: Project) -> AgentList:
    """Return the agents of a project, and the definitions that cannot be used, by name."""
    folders = project.catalog.folders
    return AgentList(
        project=project.name,
        agent_folders=tuple(map(str, folders.agents)),
        skill_folders=tuple(map(str, folders.skills)),
        expertise_folders=tuple(map(str, folders.expertise)),
        agents=tuple(_info(one, project) for one in project.catalog.scan()),
    )


def _info(one: Agent | BrokenAgent, project: Project) -> AgentInfo:
    if isinstance(one, BrokenAgent):
        return AgentInfo(one.name, str(one.path), error=str(one.error))
    warnings: dict[str, str] = {}
    error = None
    try:
        warnings = unsupported_fields(one, project)
    except ConfigError as problem:  # it names an MCP server that is configured nowhere
        error = str(problem)
    return AgentInfo(
        name=one.name,
        path=str(one.path),
        description=one.description,
        skills=one.skills,
        expertise=one.expertise,
        model=one.model,
        tools=one.tools,
        warnings=warnings,
        error=error,
        max_budget_usd=one.max_budget_usd,
    )
