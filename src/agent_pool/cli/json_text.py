"""Change one place of a JSON text and leave every other byte as it is.

People keep their settings files under version control, in a layout of their own, so a file is not
parsed and written again: a value is cut in or out. Pure functions on text.

A path is a sequence of member names, and of indexes where the value is an array.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")

Key: TypeAlias = str | int


@dataclass(frozen=True, slots=True)
class _Entry:
    key: Key
    start: int  # of the key in an object, of the value in an array
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class _Container:
    """An object or array: the places of its brackets and entries."""

    open: int
    close: int
    entries: tuple[_Entry, ...]

    def is_open(self, text: str) -> bool:
        """Whether the entries begin on a line of their own."""
        return bool(self.entries) and "\n" in text[self.open : self.entries[0].start]

    def find(self, key: Key) -> _Entry | None:
        """The entry of that key; of several, the last, which is the one that counts."""
        return next((entry for entry in reversed(self.entries) if entry.key == key), None)


def insert(text: str, path: Sequence[str], value: Any, *, append: bool = False) -> str:
    """The text with `value` added at `path`, or at the end of the array there with `append`.

    What is missing on the way is made. The new text stands behind its last neighbour, in that
    neighbour's layout; in a container that is written on one line, on that line.

    Raises:
        ValueError: the text is no JSON object, something on the path is of another kind, or the
            member is there already; the message says which.
    """
    keys: list[str | None] = [*path, None] if append else list(path)
    at = _root(text)
    for depth, key in enumerate(keys):
        container = _container(text, at, path[:depth], array=key is None)
        entry = container.find(key) if key is not None else None
        if entry is None:
            for missing in reversed(keys[depth + 1 :]):
                value = [value] if missing is None else {missing: value}
            return _put(text, container, key, value)
        at = entry.value
    raise ValueError(f"{'.'.join(path)} is there already")


def remove(text: str, path: Sequence[Key]) -> str:
    """The text without the value at `path`, and without the containers that this empties.

    The document itself stays, as ``{}``. Undoes `insert` to the byte; but in a document that is
    written on one line, an empty container that had been there before goes, too.

    Raises ValueError when there is no such value.
    """
    containers: list[_Container] = []
    at = _root(text)
    for depth, key in enumerate(path):
        containers.append(_container(text, at, path[:depth], array=isinstance(key, int)))
        entry = containers[-1].find(key)
        if entry is None:
            raise ValueError(f"{'.'.join(map(str, path))} is not there")
        at = entry.value
    keys = list(path)
    while len(containers) > 1 and _was_made(text, *containers[-2:]):
        containers.pop()
        keys.pop()
    return _cut(text, containers[-1], keys[-1])


def _was_made(text: str, parent: _Container, child: _Container) -> bool:
    """Whether the child holds nothing else and `insert` made it: it fills what was empty on one
    line, and makes containers in the layout of their parent.
    """
    return len(child.entries) == 1 and (child.is_open(text) or not parent.is_open(text))


def _root(text: str) -> int:
    json.loads(text)
    return _skip(text, 0)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _container(text: str, at: int, path: Sequence[Key], *, array: bool) -> _Container:
    if text[at : at + 1] != ("[" if array else "{"):
        where = ".".join(map(str, path)) or "the document"
        raise ValueError(f"{where} is not {'an array' if array else 'an object'}")
    closing = "]" if array else "}"
    entries: list[_Entry] = []
    place = _skip(text, at + 1)
    while text[place] != closing:
        entry = _element(text, place, len(entries)) if array else _member(text, place)
        entries.append(entry)
        place = _skip(text, entry.end)
        if text[place] == ",":
            place = _skip(text, place + 1)
    return _Container(at, place, tuple(entries))


def _element(text: str, start: int, index: int) -> _Entry:
    return _Entry(index, start, start, _DECODER.raw_decode(text, start)[1])


def _member(text: str, start: int) -> _Entry:
    key, end = _DECODER.raw_decode(text, start)
    value = _skip(text, _skip(text, end) + 1)
    return _Entry(key, start, value, _DECODER.raw_decode(text, value)[1])


def _put(text: str, container: _Container, key: str | None, value: Any) -> str:
    name = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
    if not container.entries:
        return _splice(text, container.close, container.close, name + _dump(value))
    last = container.entries[-1].end
    space = text[container.open + 1 : container.entries[0].start]
    if not container.is_open(text):
        return _splice(text, last, last, f", {name}{_dump(value)}")
    line_end = "\r\n" if "\r\n" in space else "\n"
    margin = space.rpartition("\n")[2]
    lines = _dump(value, _indent(text, container.open, margin)).split("\n")
    return _splice(text, last, last, f",{space}{name}" + f"{line_end}{margin}".join(lines))


def _indent(text: str, bracket: int, margin: str) -> str:
    """One step of indentation: how much deeper the entries stand than the bracket's own line."""
    line = text[text.rfind("\n", 0, bracket) + 1 : bracket]
    outer = line[: len(line) - len(line.lstrip())]
    return margin.removeprefix(outer) if margin.startswith(outer) and margin != outer else "  "


def _dump(value: Any, indent: str | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _cut(text: str, container: _Container, key: Key) -> str:
    entries = container.entries
    entry = container.find(key)
    assert entry is not None
    index = entries.index(entry)
    if index > 0:
        return _splice(text, entries[index - 1].end, entry.end)
    if len(entries) > 1:
        return _splice(text, entry.start, entries[1].start)
    return _splice(text, entry.start, entry.end)


def _splice(text: str, start: int, end: int, new: str = "") -> str:
    return text[:start] + new + text[end:]
