"""Change one place of a JSON text and keep every other byte.

People keep their settings files under version control, in a layout of their own. So a file is not
parsed and written again: a value is inserted into the text, or removed from it. Pure functions.

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

PathKey: TypeAlias = str | int


@dataclass(frozen=True, slots=True)
class _Entry:
    key: PathKey
    start: int  # of the key in an object; of the value in an array
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class _Container:
    """An object or array: the positions of its brackets and entries."""

    open: int
    close: int
    entries: tuple[_Entry, ...]

    def is_multiline(self, text: str) -> bool:
        """Check whether the entries begin on a line of their own."""
        return bool(self.entries) and "\n" in text[self.open : self.entries[0].start]

    def find(self, key: PathKey) -> _Entry | None:
        """Return the entry of a key; of several, the last, because JSON parsers use that one."""
        return next((entry for entry in reversed(self.entries) if entry.key == key), None)


def insert(text: str, path: Sequence[str], value: Any, *, append: bool = False) -> str:
    """Return the text with `value` added at `path`; with `append` at the end of the array there.

    Missing objects and arrays on the path are added. The new text comes after the last entry of its
    container, in the layout of that entry; if the container is written on one line, on that line.

    Raises:
        ValueError: the text is not a JSON object, a value on the path has another type, or the
            member exists; the message says which.
    """
    keys: list[str | None] = [*path, None] if append else list(path)
    at = _find_root(text)
    for depth, key in enumerate(keys):
        container = _parse_container(text, at, path[:depth], array=key is None)
        entry = container.find(key) if key is not None else None
        if entry is None:
            for missing in reversed(keys[depth + 1 :]):
                value = [value] if missing is None else {missing: value}
            return _insert_into(text, container, key, value)
        at = entry.value
    raise ValueError(f"{'.'.join(path)} is there already")


def remove(text: str, path: Sequence[PathKey]) -> str:
    """Return the text without the value at `path`, and without containers that are empty then.

    The document itself stays, as ``{}``. This undoes `insert` to the byte, with one exception: in a
    document on one line, an empty container that was there before `insert` is removed too.

    Raises:
        ValueError: there is no such value.
    """
    containers: list[_Container] = []
    at = _find_root(text)
    for depth, key in enumerate(path):
        containers.append(_parse_container(text, at, path[:depth], array=isinstance(key, int)))
        entry = containers[-1].find(key)
        if entry is None:
            raise ValueError(f"{'.'.join(map(str, path))} is not there")
        at = entry.value
    keys = list(path)
    while len(containers) > 1 and _was_inserted(text, *containers[-2:]):
        containers.pop()
        keys.pop()
    return _cut_out(text, containers[-1], keys[-1])


def _was_inserted(text: str, parent: _Container, child: _Container) -> bool:
    """Check whether a container holds a single entry and was made by `insert`."""
    # `insert` fills a container that was empty on one line, and gives a new container the layout of
    # its parent. So a container on one line in a parent of several lines was there before.
    return len(child.entries) == 1 and (child.is_multiline(text) or not parent.is_multiline(text))


def _find_root(text: str) -> int:
    json.loads(text)  # all other functions rely on valid JSON
    return _skip_space(text, 0)


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _parse_container(text: str, at: int, path: Sequence[PathKey], *, array: bool) -> _Container:
    if text[at : at + 1] != ("[" if array else "{"):
        where = ".".join(map(str, path)) or "the document"
        raise ValueError(f"{where} is not {'an array' if array else 'an object'}")
    closing = "]" if array else "}"
    entries: list[_Entry] = []
    place = _skip_space(text, at + 1)
    while text[place] != closing:
        entry = _parse_element(text, place, len(entries)) if array else _parse_member(text, place)
        entries.append(entry)
        place = _skip_space(text, entry.end)
        if text[place] == ",":
            place = _skip_space(text, place + 1)
    return _Container(at, place, tuple(entries))


def _parse_element(text: str, start: int, index: int) -> _Entry:
    return _Entry(index, start, start, _DECODER.raw_decode(text, start)[1])


def _parse_member(text: str, start: int) -> _Entry:
    key, end = _DECODER.raw_decode(text, start)
    value = _skip_space(text, _skip_space(text, end) + 1)
    return _Entry(key, start, value, _DECODER.raw_decode(text, value)[1])


def _insert_into(text: str, container: _Container, key: str | None, value: Any) -> str:
    name = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
    # Before the closing bracket, so that white space between the brackets stays.
    if not container.entries:
        return _splice(text, container.close, container.close, name + _dump(value))
    last = container.entries[-1].end
    space = text[container.open + 1 : container.entries[0].start]
    if not container.is_multiline(text):
        return _splice(text, last, last, f", {name}{_dump(value)}")
    line_end = "\r\n" if "\r\n" in space else "\n"
    margin = space.rpartition("\n")[2]
    lines = _dump(value, _find_indent(text, container.open, margin)).split("\n")
    return _splice(text, last, last, f",{space}{name}" + f"{line_end}{margin}".join(lines))


def _find_indent(text: str, bracket: int, margin: str) -> str:
    """Return one step of indentation: that of the entries without that of the bracket's line."""
    line = text[text.rfind("\n", 0, bracket) + 1 : bracket]
    outer = line[: len(line) - len(line.lstrip())]
    return margin.removeprefix(outer) if margin.startswith(outer) and margin != outer else "  "


def _dump(value: Any, indent: str | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _cut_out(text: str, container: _Container, key: PathKey) -> str:
    entries = container.entries
    entry = container.find(key)
    assert entry is not None
    index = entries.index(entry)
    # The comma before the entry goes with it; for the first entry, the comma after it.
    if index > 0:
        return _splice(text, entries[index - 1].end, entry.end)
    if len(entries) > 1:
        return _splice(text, entry.start, entries[1].start)
    return _splice(text, entry.start, entry.end)


def _splice(text: str, start: int, end: int, new: str = "") -> str:
    return text[:start] + new + text[end:]
