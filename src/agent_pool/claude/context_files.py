"""The files that the CLI reads at the beginning of a conversation: memory, rules, skills, settings.

A process reads them when it starts and at `/clear`, not before each prompt (2.1.332). A pool must
know when they have changed since, because a new process would have read them as they are now.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_pool.claude.launch import LaunchConfig
from agent_pool.settings import MANAGED_FOLDER, claude_home, managed_settings_files

IMPORT_DEPTH: Final = 5
"""A memory file can import others by ``@path``, to this depth."""

_MEMORY_FILES: Final = ("CLAUDE.md", "CLAUDE.local.md", ".claude/CLAUDE.md", "AGENTS.md")
_SETTINGS_FILES: Final = ("settings.json", "settings.local.json")
_TREES: Final = ("rules", "skills", "commands")
_IMPORT: Final = re.compile(rb"(?:^|\s)@([^\s`]+)")
_MAX_IMPORTS: Final = 500
_MAX_BYTES: Final = 1024 * 1024
"""Bounds of the search for imports; `@` stands before many words that are no file."""
_TREE_DEPTH: Final = 4
_TREE_ENTRIES: Final = 2000
"""Bounds of a look into one folder, so that a link to a large folder cannot make a task slow."""


@dataclass(frozen=True, slots=True)
class ContextStamp:
    """The state of the files at one moment; equal stamps mean unchanged files.

    Attributes:
        memory: of memory files, their imports, rules, skills and commands.
        settings: of the settings files.
    """

    memory: Hashable
    settings: Hashable


_Signature = tuple[int, int, int]


class ContextFiles:
    """The files that matter for one launch."""

    def __init__(self, launch: LaunchConfig) -> None:
        home = claude_home(launch.env)
        self._home = launch.env.get("HOME") or str(Path.home())
        cwd = launch.cwd
        folders = (cwd, *cwd.parents)
        self._memory = [str(folder / name) for folder in folders for name in _MEMORY_FILES]
        self._memory += [str(folder / "CLAUDE.md") for folder in (home, MANAGED_FOLDER)]
        self._trees = [str(folder / ".claude" / name) for folder in folders for name in _TREES]
        self._trees += [str(folder / name) for folder in (home, MANAGED_FOLDER) for name in _TREES]
        settings = (cwd / ".claude", home)
        self._settings = [str(folder / name) for folder in settings for name in _SETTINGS_FILES]
        self._imports: dict[str, tuple[_Signature, tuple[str, ...]]] = {}
        self._hooks: tuple[Hashable, bool] | None = None

    def stamp(self) -> ContextStamp:
        """Return the stamp of the files as they are now; no file is read that did not change."""
        memory = [*self._memory_signatures(), *self._tree_signatures()]
        return ContextStamp(_stamp(memory), _stamp(_signatures(self._all_settings())))

    def has_hooks(self) -> bool:
        """Check whether settings name hooks, or plugins, which can have some; they run programs."""
        paths = self._all_settings()
        stamp = _stamp(_signatures(paths))
        if self._hooks is None or self._hooks[0] != stamp:
            found = any(_names_hooks(_read_json(Path(path))) for path in paths)
            self._hooks = stamp, found
        return self._hooks[1]

    def _all_settings(self) -> list[str]:
        return [*self._settings, *map(str, managed_settings_files())]

    def _memory_signatures(self) -> Iterator[tuple[str, _Signature]]:
        known = set(self._memory)
        pending = [(path, 0) for path in self._memory]
        while pending:
            path, depth = pending.pop()
            signature = _signature(path)
            if signature is None:
                continue
            yield path, signature
            for imported in self._imports_of(path, signature) if depth < IMPORT_DEPTH else ():
                if imported not in known and len(known) < len(self._memory) + _MAX_IMPORTS:
                    known.add(imported)
                    pending.append((imported, depth + 1))

    def _imports_of(self, path: str, signature: _Signature) -> tuple[str, ...]:
        held = self._imports.get(path)
        if held is None or held[0] != signature:
            held = self._imports[path] = signature, tuple(_read_imports(path, self._home))
        return held[1]

    def _tree_signatures(self) -> Iterator[tuple[str, _Signature]]:
        return _signatures(path for tree in self._trees for path in _files_below(tree))


def has_modules(plugin: Path) -> bool:
    """Check whether a plugin has JavaScript modules, which run inside the CLI."""
    hooks = _read_json(plugin / "hooks" / "hooks.json")
    manifest = _read_json(plugin / ".claude-plugin" / "plugin.json")
    named = manifest.get("hooks")
    # The manifest can hold hooks, name a file of them, or have a list of both.
    entries = named if isinstance(named, list) else [named]
    given = [_read_json(plugin / one) if isinstance(one, str) else one for one in entries]
    return any(isinstance(one, dict) and "modules" in one for one in (hooks, *given))


def _names_hooks(settings: Mapping[str, object]) -> bool:
    return bool(settings.get("hooks") or settings.get("enabledPlugins"))


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stamp(entries: Iterable[tuple[str, _Signature]]) -> Hashable:
    # Linux stamps files by a clock that ticks every 1 to 10 ms. A second edit in the same tick is
    # no problem: the CLI reads the files some milliseconds after the stamp was taken.
    return tuple(sorted(entries))


def _signatures(paths: Iterable[str]) -> Iterator[tuple[str, _Signature]]:
    for path in paths:
        if (signature := _signature(path)) is not None:
            yield path, signature


def _signature(path: str) -> _Signature | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - called some fifty times before each task
    except (OSError, ValueError):  # most do not exist; ValueError: a NUL character in its name
        return None
    # A named pipe or a device is never read: that could wait, or go on, for ever.
    if not stat.S_ISREG(status.st_mode):
        return None
    return max(status.st_mtime_ns, status.st_ctime_ns), status.st_size, status.st_ino


def _read_imports(path: str, home: str) -> Iterator[str]:
    """Yield the paths that the beginning of a regular file imports, and some that it does not."""
    try:
        # Without O_NONBLOCK, opening a pipe that has replaced the file would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(_MAX_BYTES) or b""
    except OSError:
        return
    # More than the CLI imports, e.g. from code blocks: a file too many costs one `stat`.
    for match in _IMPORT.finditer(content):
        name = os.fsdecode(match[1]).rstrip(".,;:!?)")
        # Not `expanduser`: it raises an error for `~name` without such a user.
        own = name.removeprefix("~/")
        yield os.path.join(home if own != name else os.path.dirname(path), own)  # noqa: PTH118, PTH120


def _files_below(folder: str) -> Iterator[str]:
    """Yield the Markdown files in a folder, links included, to a bounded depth and number."""
    pending, seen = [(folder, 0)], 0
    while pending and seen < _TREE_ENTRIES:
        current, depth = pending.pop()
        try:
            with os.scandir(current) as entries:
                found = list(entries)
        except OSError:
            continue
        seen += len(found)
        for entry in found:
            if entry.name.endswith(".md"):
                yield entry.path
            elif depth < _TREE_DEPTH and _is_folder(entry):
                pending.append((entry.path, depth + 1))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
