"""A PreToolUse hook for Claude Code: delegations to agents of the pool go to the pool.

    python3 -I -S hook.py [SERVER] < the hook's input

It denies Claude Code's delegation tool (`Agent`, formerly `Task`) for every agent that a file
defines, and names the pool's tool to call instead; `SERVER` is the name that Claude Code knows the
pool's MCP server by. Every other call passes without a word, and so does every call when anything
goes wrong here; then stderr says what.

It runs before each delegation, so it starts as fast as Python does: it is a script of the standard
library alone, for Python 3.8 and later, and imports what every interpreter imports and no more.
"""
# pathlib alone would double the time that it takes:
# ruff: noqa: PTH109, PTH111, PTH118

from __future__ import annotations

import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Final

SERVER: Final = "agent-pool"
MAX_INPUT: Final = 64 * 1024 * 1024
MAX_HEAD: Final = 8 * 1024  # bytes of a definition in which its name must be found
MAX_ENTRIES: Final = 5000  # files and folders looked at

# Claude Code takes an exact name before a similar one, so these are its own agents even where a
# file defines one that differs in case only.
BUILT_IN: Final = frozenset(
    ("claude", "Explore", "fork", "general-purpose", "Plan", "statusline-setup")
)


def main() -> None:
    """Judge the call on stdin; never fails, and never returns: the process ends with status 0."""
    try:
        server = sys.argv[1] if len(sys.argv) > 1 else SERVER
        reason = refusal(_read_call(), os.environ, server)
        if reason is not None:
            os.write(1, _denial(reason).encode())
    except BaseException as error:
        _warn(f"{type(error).__name__}: {error}; the call passes")
    os._exit(0)  # skips the interpreter's teardown


def refusal(call: dict[str, Any], environ: Mapping[str, str], server: str) -> str | None:
    """Why this call must not go ahead and what to do instead; None when it may.

    Args:
        call: the input of a PreToolUse hook.
        environ: of this process.
        server: the name of the pool's MCP server.
    """
    asked = call["tool_input"].get("subagent_type")
    # A worker of the pool has no pool to call.
    if not asked or "AGENT_POOL_COOKIE" in environ:
        return None
    name = defined_name(asked, agent_folders(call, environ))
    if name is None:
        return None
    tool = f"mcp__{server}__invoke"
    return (
        f'The agent "{name}" runs in agent-pool, not in the {call["tool_name"]} tool. Call '
        f'{tool} with agent="{name}" and the whole prompt as task. If there is no tool of that '
        "name, its MCP server is not connected: ask the user to look at /mcp."
    )


def agent_folders(call: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Where the pool looks for agents, in its order; they need not exist."""
    project = environ.get("CLAUDE_PROJECT_DIR") or call.get("cwd") or os.getcwd()
    home = environ.get("CLAUDE_CONFIG_DIR") or os.path.join("~", ".claude")
    named = environ.get("AGENT_POOL_AGENTS_DIR") or environ.get("AGENTS_DIR")
    folders = [os.path.join(project, ".claude", "agents"), os.path.join(home, "agents")]
    return [
        os.path.join(project, os.path.expanduser(folder))
        for folder in ([named, *folders] if named else folders)
    ]


def defined_name(asked: str, folders: list[str]) -> str | None:
    """The agent that a file defines and Claude Code, or the pool, would run for this name.

    Case, spaces, dashes and underscores do not matter to Claude Code unless the exact name exists.
    """
    similar = None
    for folder in folders:
        for path, stem in definitions(folder):
            for name in _names(path, stem):
                if name == asked:
                    return name
                if similar is None and _folded(name) == _folded(asked):
                    similar = name
    return None if asked in BUILT_IN else similar


def definitions(folder: str) -> Iterator[tuple[str, str]]:
    """The path and the stem of every Markdown file in the folder and its subfolders."""
    pending, left = [folder], MAX_ENTRIES
    while pending:
        for entry in _entries(pending.pop()):
            left -= 1
            if left < 0:
                _warn(f"{folder}: over {MAX_ENTRIES} files; the rest is not looked at")
                return
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif entry.name.endswith(".md") and not _leads_out(entry, folder):
                yield entry.path, entry.name[:-3]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        _warn(f"{folder}: {error.strerror}; its agents pass")
        return []


def _leads_out(entry: os.DirEntry[str], folder: str) -> bool:
    if not entry.is_symlink():
        return False
    root = os.path.join(os.path.realpath(folder), "")
    return not os.path.realpath(entry.path).startswith(root)


def _names(path: str, stem: str) -> tuple[str, ...]:
    """What the agent in this file is called; nothing when it defines none."""
    try:
        text = _head(path).decode("utf-8", "replace").lstrip("\ufeff")
    except OSError as error:
        _warn(f"{path}: {error.strerror}; its agent passes")
        return ()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[0].rstrip() != "---":
        return ()
    name = _frontmatter_name(lines[1:])
    if not name:
        return (stem,)
    # The pool knows a file by its own name, too; Claude Code does not, so its agents keep theirs.
    return (name,) if stem in BUILT_IN else (name, stem)


def _head(path: str) -> bytes:
    # Without O_NONBLOCK a named pipe would be waited for until someone writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, MAX_HEAD) if regular else b""
    finally:
        os.close(descriptor)


def _frontmatter_name(lines: list[str]) -> str:
    for line in lines:
        if line.rstrip() == "---":
            break
        key, _, value = line.partition(":")
        if key.rstrip().strip("\"'") == "name" and not value[:1].strip():
            return _scalar(value)
    return ""


def _scalar(value: str) -> str:
    """The text of a YAML value on one line, without its quotes or a comment."""
    value = value.strip()
    if value[:1] in ("'", '"'):
        end = value.find(value[0], 1)
        return value[1:end].strip() if end > 0 else ""
    value = "" if value.startswith("#") else value.partition(" #")[0].strip()
    return "" if value in ("~", "null", "Null", "NULL") else value


def _folded(name: str) -> str:
    return "".join(name.lower().split()).replace("-", "").replace("_", "")


def _read_call() -> Any:
    data = sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        raise ValueError(f"an input of over {MAX_INPUT} bytes")
    return _parsed(data.decode("utf-8", "replace").strip())


class _Strict:
    """What `json`'s own scanner wants to know; importing `json` takes as long as all the rest."""

    strict = False
    object_hook = object_pairs_hook = array_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def _parsed(text: str) -> Any:
    try:
        from _json import make_scanner

        value, end = make_scanner(_Strict)(text, 0)  # type: ignore[arg-type]
        if end == len(text):
            return value
    except Exception:  # an interpreter without that scanner, or bad JSON, which json explains
        pass
    import json

    return json.loads(text)


def _denial(reason: str) -> str:
    try:
        from _json import encode_basestring_ascii as quoted
    except ImportError:
        from json import dumps as quoted
    return (
        '{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"deny",'
        f'"permissionDecisionReason":{quoted(reason)}}}}}'
    )


def _warn(problem: str) -> None:
    try:
        os.write(2, f"agent-pool hook: {problem}\n".encode("utf-8", "replace"))
    except OSError:
        pass


if __name__ == "__main__":
    main()
