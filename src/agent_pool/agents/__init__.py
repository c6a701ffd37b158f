"""Agent definitions: find the files, parse them, and compose the system prompts."""

from agent_pool.agents.catalog import Catalog, SearchFolders
from agent_pool.agents.definition import Agent, BrokenAgent
from agent_pool.agents.projects import Project, Projects

__all__ = ["Agent", "BrokenAgent", "Catalog", "Project", "Projects", "SearchFolders"]
