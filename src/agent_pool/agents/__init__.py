"""What an agent is: definitions found, parsed, and composed into system prompts."""

from agent_pool.agents.catalog import Catalog, Folders
from agent_pool.agents.definition import Agent, Broken

__all__ = ["Agent", "Broken", "Catalog", "Folders"]
