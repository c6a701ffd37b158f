"""A PreToolUse hook for Claude Code: it sends delegations to the pool's agents to the pool.

    python3 -I -S hook.py [SERVER] < the hook's input

The hook denies Claude Code's delegation tool (`Agent`, formerly `Task`) for every agent that a
file defines, and names the pool's tool to call instead. `SERVER` is the name of the pool's MCP
server in Claude Code. Every other call passes without output. If anything goes wrong in the hook,
the call passes, too, and stderr has the reason.

The hook runs before each delegation, so it must start fast. It is a script that needs only the
standard library of Python 3.8 or later, and it imports few modules.
"""
# pathlib would be the slowest import of this script, so os.path is used:
# ruff: noqa: PTH109, PTH111, PTH118

from __future__ import annotations

import json
import os
import stat
import sys

# As typing.TYPE_CHECKING, which would have to be imported at run time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Final

DEFAULT_SERVER: Final = "agent-pool"
MAX_INPUT_BYTES: Final = 64 * 1024 * 1024
MAX_HEAD_BYTES: Final = 8 * 1024  # a definition's name must be in this first part of its file
MAX_ENTRIES: Final = 5000  # files and folders below one searched folder

# Claude Code 2.1.332 prefers an agent with exactly the requested name to an agent with a similar
# one. So these names mean its own agents, even if a file defines an agent that differs in case.
BUILT_IN_AGENTS: Final = frozenset(
    ("claude", "Explore", "fork", "general-purpose", "Plan", "statusline-setup")
)


def main() -> None:
    """Check the call on stdin, write a denial to stdout if needed, and end with exit code 0.

    All errors are written to stderr only: a hook must never stop a call by a fault of its own.
    """
    try:
        server = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_SERVER
        reason = check_call(_read_call(), os.environ, server)
        if reason is not None:
            os.write(1, _format_denial(reason).encode())
    except BaseException as error:
        _warn(f"{type(error).__name__}: {error}; the call passes")
    # Skips the shutdown of the interpreter, which takes time and could change the exit code: it
    # is 120 if a standard stream cannot be flushed.
    os._exit(0)


def check_call(call: dict[str, Any], environ: Mapping[str, str], server: str) -> str | None:
    """Return why this call must not run and which call to make instead; None if it can run.

    Args:
        call: the input of a PreToolUse hook.
        environ: the environment of this process.
        server: the name of the pool's MCP server in Claude Code.
    """
    requested = call["tool_input"].get("subagent_type")
    # AGENT_POOL_COOKIE marks a worker of the pool: it has no pool that it could call.
    if not requested or "AGENT_POOL_COOKIE" in environ:
        return None
    name = find_agent(requested, list_agent_folders(call, environ))
    if name is None:
        return None
    tool = f"mcp__{server}__invoke"
    return (
        f'The agent "{name}" runs in agent-pool, not in the {call["tool_name"]} tool. Call '
        f'{tool} with agent="{name}" and the whole prompt as task. If this tool does not exist, '
        "its MCP server is not connected: ask the user to check /mcp."
    )


def list_agent_folders(call: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Return the folders that the pool searches for agents, in its order; they need not exist."""
    project = environ.get("CLAUDE_PROJECT_DIR") or call.get("cwd") or os.getcwd()
    home = environ.get("CLAUDE_CONFIG_DIR") or os.path.join("~", ".claude")
    first = environ.get("AGENT_POOL_AGENTS_DIR") or environ.get("AGENTS_DIR")
    folders = [os.path.join(project, ".claude", "agents"), os.path.join(home, "agents")]
    return [
        os.path.join(project, os.path.expanduser(folder))
        for folder in ([first, *folders] if first else folders)
    ]


def find_agent(requested: str, folders: list[str]) -> str | None:
    """Return the name of the agent in a file that runs under the requested name.

    An exact name wins over a similar one. Return None if no file defines such an agent, or if the
    name is that of a built-in agent and no file has exactly this name.
    """
    similar = None
    for folder in folders:
        for path, stem in iterate_definitions(folder):
            for name in _read_names(path, stem):
                if name == requested:
                    return name
                if similar is None and _normalize(name) == _normalize(requested):
                    similar = name
    return None if requested in BUILT_IN_AGENTS else similar


def iterate_definitions(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the name without ``.md`` of each Markdown file below the folder.

    After `MAX_ENTRIES` files and folders the search ends with a warning.
    """
    pending, entries_left = [folder], MAX_ENTRIES
    while pending:
        for entry in _list_folder(pending.pop()):
            entries_left -= 1
            if entries_left < 0:
                _warn(f"{folder}: more than {MAX_ENTRIES} files; the others are not searched")
                return
            # A link to a folder is not entered, as in the pool: it can point at a folder above.
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif entry.name.endswith(".md") and not _leads_out(entry, folder):
                yield entry.path, entry.name[:-3]


def _list_folder(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name; an empty list if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        _warn(f"{folder}: {error.strerror}; calls of its agents pass")
        return []


def _leads_out(entry: os.DirEntry[str], folder: str) -> bool:
    """Return whether the entry is a link to a file outside the folder; the pool refuses those."""
    if not entry.is_symlink():
        return False
    root = os.path.join(os.path.realpath(folder), "")
    return not os.path.realpath(entry.path).startswith(root)


def _read_names(path: str, stem: str) -> tuple[str, ...]:
    """Return the names of the agent in a file, its own name first; () if it defines no agent."""
    try:
        text = _read_head(path).decode("utf-8", "replace").lstrip("\ufeff")
    except OSError as error:
        _warn(f"{path}: {error.strerror}; calls of its agent pass")
        return ()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[0].rstrip() != "---":
        return ()
    name = _find_name(lines[1:])
    if not name:
        return (stem,)
    # The pool also finds an agent by its file's name; Claude Code 2.1.332 does not. So a file
    # called Explore.md does not replace the built-in agent if its `name` is another one.
    return (name,) if stem in BUILT_IN_AGENTS else (name, stem)


def _read_head(path: str) -> bytes:
    """Return the first `MAX_HEAD_BYTES` of a regular file; b"" for other kinds of files."""
    # Without O_NONBLOCK, opening a named pipe would wait until another process writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, MAX_HEAD_BYTES) if is_regular else b""
    finally:
        os.close(descriptor)


def _find_name(lines: list[str]) -> str:
    """Return the value of the field `name` in the lines of a frontmatter; "" without one."""
    for line in lines:
        if line.rstrip() == "---":
            break
        key, _, value = line.partition(":")
        # In YAML a colon ends a key only before white space; a line that begins with white space
        # belongs to another field.
        if key.rstrip().strip("\"'") == "name" and not value[:1].strip():
            return _parse_scalar(value)
    return ""


def _parse_scalar(value: str) -> str:
    """Return the text of a YAML value on one line, without quotes or a comment; "" for null."""
    value = value.strip()
    if value[:1] in ("'", '"'):
        end = value.find(value[0], 1)
        return value[1:end].strip() if end > 0 else ""
    # `#` begins a comment only after white space.
    value = "" if value.startswith("#") else value.partition(" #")[0].strip()
    return "" if value in ("~", "null", "Null", "NULL") else value


def _normalize(name: str) -> str:
    """Return the name without case, white space, dashes and underscores."""
    # Claude Code 2.1.332 finds the agent `code-reviewer` by `Code Reviewer` and `codereviewer`,
    # too, unless an agent has exactly the requested name.
    return "".join(name.lower().split()).replace("-", "").replace("_", "")


def _read_call() -> Any:
    """Return the JSON value on stdin.

    Raises:
        ValueError: the input is larger than `MAX_INPUT_BYTES` or is not JSON.
    """
    data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise ValueError(f"the input is larger than {MAX_INPUT_BYTES} bytes")
    # Be lenient, since the prompt can hold any text: invalid UTF-8 and control characters in it
    # do not matter for the agent's name.
    return json.loads(data.decode("utf-8", "replace"), strict=False)


def _format_denial(reason: str) -> str:
    """Return the hook's output, JSON, that denies the call for this reason."""
    output = {
        "hookEventName": "PreToolUse",
        "permissionDecision": "deny",
        "permissionDecisionReason": reason,
    }
    return json.dumps({"hookSpecificOutput": output})


def _warn(problem: str) -> None:
    """Write a problem to stderr; Claude Code shows it with ``--debug``."""
    try:
        os.write(2, f"agent-pool hook: {problem}\n".encode("utf-8", "replace"))
    except OSError:
        # Stderr is closed. The problem is not worth a failure of the hook.
        pass


if __name__ == "__main__":
    main()
