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
# ruff: noqa: PTH109, PTH110, PTH111, PTH113, PTH118, PTH119, PTH120

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
        "its MCP server can still be starting: try again in some seconds. If it does not exist "
        "then either, the server is not connected: ask the user to check /mcp."
    )


def list_agent_folders(call: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Return the folders that the pool searches for agents, in its order; they need not exist."""
    project = environ.get("CLAUDE_PROJECT_DIR") or call.get("cwd") or os.getcwd()
    user = environ.get("CLAUDE_CONFIG_DIR") or os.path.join("~", ".claude")
    first = environ.get("AGENT_POOL_AGENTS_DIR") or environ.get("AGENTS_DIR")
    folders = [*([first] if first else []), *_list_project_folders(project, environ)]
    return [
        os.path.join(project, os.path.expanduser(folder))
        for folder in (*folders, os.path.join(user, "agents"))
    ]


def _list_project_folders(project: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the folders of agents of a project, nearest first, as `places.py` of the pool does."""
    folder = os.path.realpath(project)
    while folder != environ.get("HOME"):
        agents = os.path.join(folder, ".claude", "agents")
        yield agents
        git = os.path.join(folder, ".git")
        if os.path.exists(git):
            main = _find_main_checkout(git)
            if main and not os.path.exists(agents):
                yield os.path.join(main, ".claude", "agents")
            return
        if folder == os.path.dirname(folder):
            return
        folder = os.path.dirname(folder)


def _find_main_checkout(git: str) -> str:
    """Return the main checkout to which the file `.git` of a linked worktree leads, else ""."""
    if not os.path.isfile(git):
        return ""
    try:
        target = _read_head(git).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    prefix = "gitdir:"
    target = target[len(prefix) :].strip() if target.startswith(prefix) else target
    if "\0" in target:
        return ""
    trees = os.path.dirname(os.path.realpath(os.path.join(os.path.dirname(git), target)))
    if os.path.basename(trees) != "worktrees":
        return ""
    common = os.path.dirname(trees)
    return os.path.dirname(common) if os.path.basename(common) == ".git" else common


def find_agent(requested: str, folders: list[str]) -> str | None:
    """Return the name of the agent in a file that the pool runs under the requested name.

    An agent's own name wins over the name of a file, and this over a similar name. Return None if
    no file defines such an agent, if several names are similar, or if the name is that of a
    built-in agent and no file has exactly this name.
    """
    own_name, similar = None, set()
    for folder in folders:
        # The last path wins, as in the pool.
        for path, stem in reversed(list(iterate_definitions(folder))):
            names = _read_names(path, stem)
            if requested in names[:1]:
                return requested
            if requested in names and own_name is None:
                own_name = names[0]
            if names and _normalize(names[0]) == _normalize(requested):
                similar.add(names[0])
    if own_name is not None:
        return own_name
    return None if requested in BUILT_IN_AGENTS or len(similar) != 1 else similar.pop()


def iterate_definitions(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the name without ``.md`` of each Markdown file below the folder.

    They are sorted by path. After `MAX_ENTRIES` files and folders the search ends with a warning.
    """
    pending, entries_left = [folder], MAX_ENTRIES
    found: list[tuple[str, str]] = []
    linked: set[str] = set()
    while pending and entries_left >= 0:
        for entry in _list_folder(pending.pop()):
            entries_left -= 1
            if entries_left < 0:
                _warn(f"{folder}: more than {MAX_ENTRIES} files; the others are not searched")
                break
            if _is_folder(entry, folder, linked):
                pending.append(entry.path)
            elif entry.name.endswith(".md"):
                found.append((entry.path, entry.name[:-3]))
    found.sort()
    if not all(path.isascii() for path, _ in found):
        # JavaScript and the pool compare UTF-16 units. The codec must be imported, so not always.
        found.sort(key=lambda one: one[0].encode("utf-16-be", "surrogatepass"))
    yield from found


def _is_folder(entry: os.DirEntry[str], root: str, linked: set[str]) -> bool:
    """Return whether the entry is a folder to enter; add the target of a link to `linked`."""
    if entry.is_dir(follow_symlinks=False):
        return True
    try:
        if not (entry.is_symlink() and entry.is_dir()):
            return False
    except OSError:  # the link points at itself
        return False
    # A link can point at a folder above itself. Such a circle ends at the second visit.
    if not linked:
        linked.add(os.path.realpath(root))
    target = os.path.realpath(entry.path)
    is_new = target not in linked
    linked.add(target)
    return is_new


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
    found = ""
    for line in lines:
        # Any line that begins so ends the frontmatter.
        if line.startswith("---"):
            break
        key, _, value = line.partition(":")
        # In YAML a colon ends a key only before white space; a line that begins with white space
        # belongs to another field.
        if key.rstrip().strip("\"'") == "name" and not value[:1].strip():
            found = _parse_scalar(value)  # the last value of a repeated key wins
    return found


def _parse_scalar(value: str) -> str:
    """Return the text of a YAML value on one line, without quotes or a comment; "" for null."""
    value = value.strip()
    if value[:1] in ("'", '"'):
        end = value.find(value[0], 1)
        return value[1:end] if end > 0 else ""
    # `#` begins a comment only after white space.
    value = "" if value.startswith("#") else value.partition(" #")[0].strip()
    return "" if value in ("~", "null", "Null", "NULL") else value


def _normalize(name: str) -> str:
    """Return the name without case, white space, dashes and underscores."""
    # Claude Code 2.1.332 finds the agent `code-reviewer` by `Code Reviewer` and `codereviewer`,
    # too, unless an agent has exactly the requested name.
    if name.isascii():
        return "".join(name.lower().split()).replace("-", "").replace("_", "")
    # Imported here, because few names need it and every delegation waits for this script.
    import unicodedata

    plain = unicodedata.normalize("NFKC", name).lower()
    return "".join(
        one
        for one in plain
        if not (one.isspace() or one == "_" or unicodedata.category(one) == "Pd")
    )


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
