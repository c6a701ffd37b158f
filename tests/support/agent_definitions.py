"""Write one agent definition and parse it."""

from __future__ import annotations

from pathlib import Path

from agent_pool.agents import Agent, BrokenAgent
from agent_pool.agents.definition import ParsedDefinition, load_definition
from agent_pool.errors import ConfigError


def load(
    folder: Path, content: str | bytes, name: str = "reviewer"
) -> ParsedDefinition | BrokenAgent | None:
    """Write a definition to `folder` and load it."""
    path = folder / f"{name}.md"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_definition(path)


def agent(folder: Path, front: str = "", body: str = "body") -> Agent:
    """Load an agent with these lines of frontmatter; it must be valid."""
    found = load(folder, f"---\n{front}\n---\n{body}\n")
    assert isinstance(found, ParsedDefinition), found
    return found.agent


def fault(folder: Path, content: str | bytes) -> str:
    """Load a definition that must be broken; return the message of its error."""
    found = load(folder, content)
    assert isinstance(found, BrokenAgent), found
    assert type(found.error) is ConfigError
    return str(found.error)


def field_fault(folder: Path, line: str) -> str:
    """Load an agent with one bad line; return the message of its error."""
    return fault(folder, f"---\nname: reviewer\n{line}\n---\nbody\n")


FULL = """\
name: code-reviewer
description: Reviews code
skills: [python, testing]
expertise: security
tools: Read, Grep
disallowedTools: [Bash(rm *), WebFetch]
model: opus
effort: high
permissionMode: acceptEdits
maxTurns: 12
maxBudgetUsd: 0.5
mcpServers:
  - github
  - browser:
      command: npx
      args: [-y, playwright]
hooks:
  PreToolUse:
    - matcher: Bash
      hooks:
        - {type: command, command: ./check.sh}
memory: project
background: true
isolation: worktree
color: blue
initialPrompt: Begin.
omitClaudeMd: true
experimental: {cacheTtl: 1h}
workerMemory: fast
team: [a, {b: c}]
"""
