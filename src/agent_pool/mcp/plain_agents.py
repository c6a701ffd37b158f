"""The agents of a project, read within milliseconds, for the first answer to `tools/list`.

Reading them as the pool does takes a quarter of a second of imports. This module reads only plain
files: `name` and `description` on one line each. For any other file or setting it gives up, and the
server answers when it is loaded. It also compares its own answer then with the early one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent_pool.mcp.agent_list import AgentNames

MAX_FILES: Final = 500
"""Files that are read: more would take longer than the early answer saves."""
MAX_HEAD: Final = 64 * 1024
"""Bytes in which the frontmatter of a file must end."""
_UNREADABLE: Final = tuple("|>&*!{[%@`\"'#?-~")


class NotPlainError(Exception):
    """A file or setting that this module does not read as the pool does."""


def read_plain_agents(environ: Mapping[str, str], project: str | None) -> AgentNames | None:
    """Return the agents of a project; None if a file or setting is not plain.

    Args:
        environ: the environment of the server.
        project: the folder that an argument of the server names.
    """
    try:
        return _read(environ, project)
    except (NotPlainError, OSError, ValueError):
        return None


def _read(environ: Mapping[str, str], project: str | None) -> AgentNames:
    from agent_pool.hook import iterate_definitions, list_agent_folders

    _check_settings(environ)
    named = project or environ.get("AGENT_POOL_PROJECT_DIR")
    variables = {**environ, "CLAUDE_PROJECT_DIR": named} if named else environ
    found: dict[str, str] = {}
    broken: set[str] = set()
    for folder in list_agent_folders({}, variables):
        here: dict[str, str] = {}
        for count, (path, stem) in enumerate(iterate_definitions(folder)):
            if count == MAX_FILES:
                raise NotPlainError(folder)
            if definition := _read_definition(path):
                here.update(definition)  # the last path of a folder wins, as in the pool
            else:
                broken.add(stem)
        found = here | found  # and the first folder
    return AgentNames(sorted(found.items()), sorted(broken - found.keys()))


def _check_settings(environ: Mapping[str, str]) -> None:
    """Give up if the settings file can name other folders."""
    home = environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude"
    path = Path(environ.get("AGENT_POOL_CONFIG") or Path(home) / "agent-pool.toml")
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8-sig")
    if "agents_dir" in text or "project_dir" in text:
        raise NotPlainError(path)


def _read_definition(path: str) -> dict[str, str]:
    """Return the name and the description in a file; an empty value without frontmatter."""
    with Path(path).open("rb") as file:
        head = file.read(MAX_HEAD).decode("utf-8").lstrip("\ufeff").replace("\r\n", "\n")
    if not head.startswith("---\n"):
        return {}
    frontmatter, end, _ = head[4:].partition("\n---")
    if not end:
        raise NotPlainError(path)
    fields = _fields(frontmatter)
    if not fields.get("name") or "description" not in fields:
        raise NotPlainError(path)
    return {fields["name"]: fields["description"]}


def _fields(frontmatter: str) -> dict[str, str]:
    """Return the fields `name` and `description`, which must stand on one line each."""
    fields: dict[str, str] = {}
    last = ""
    for line in frontmatter.split("\n"):
        if line[:1] in (" ", "\t"):
            if last in ("name", "description"):
                raise NotPlainError(line)
            continue
        last, colon, value = line.partition(":")
        if colon and last in ("name", "description"):
            if last in fields:
                raise NotPlainError(line)
            fields[last] = _scalar(value)
    return fields


def _scalar(value: str) -> str:
    text = value.strip()
    if text[:1] in ('"', "'") and len(text) > 1 and text[-1] == text[0]:
        inner = text[1:-1]
        if text[0] in inner or "\\" in inner:
            raise NotPlainError(value)
        return inner
    if not text or text.startswith(_UNREADABLE) or " #" in text or not value.startswith(" "):
        raise NotPlainError(value)
    return text
