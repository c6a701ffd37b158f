"""The YAML block at the top of a Markdown file: split off, parsed, its lines remembered."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

MAX_FRONTMATTER: Final = 64 * 1024
MAX_VALUES: Final = 10_000
MAX_DEPTH: Final = 50
MAX_DIGITS: Final = 40
MAX_BRACKETS: Final = 200
"""The parser's time grows with the square of them: a thousand took 0.4 s, three thousand 3 s."""

_FENCED = re.compile(r"\A---[ \t]*\n(?P<yaml>.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_OPENED = re.compile(r"\A---[ \t]*(?:\n|\Z)")
_ONE_LINE = re.compile(r"(?P<key>[A-Za-z_-]+):\s+(?P<value>\S.*)")
_NEEDS_QUOTES = re.compile(r"[!#%&*>@\[\]`{|}]|: ")
_NUMBERS_AND_FLAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool")}
_NULL = "tag:yaml.org,2002:null"

_ADVICE = {
    "mapping values are not allowed here": "; put a value that holds a colon in quotes",
    "could not find expected ':'": "; indent the further lines of a value, and begin it with `|`",
}

_UNFORESEEN = (
    *(YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError),
    ValueError,
)
"""What the parser is known to raise, or may yet, for some of the bytes that a file can hold."""


class FrontmatterError(ValueError):
    """What is wrong, and the line of the file where it is, counted from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class _NotYamlError(FrontmatterError):
    """The parser does not take it; with quotes it may."""


@dataclass(frozen=True, slots=True)
class Frontmatter:
    """The values of the block (JSON's types) and the line of the file on which each key stands."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def split(text: str) -> tuple[str | None, str]:
    """The YAML of the block, None when there is no closed one, and the text after it."""
    fenced = _FENCED.match(text)
    return (fenced["yaml"], text[fenced.end() :]) if fenced else (None, text)


def is_opened(text: str) -> bool:
    """Whether the file begins like one with a block, closed or not."""
    return _OPENED.match(text) is not None


def parse(block: str) -> Frontmatter:
    """The values of a block that `split` found.

    Claude Code parses a block that is not valid YAML once more, with the values quoted that stand
    on the line of their key and hold what YAML takes for syntax. So does this: the descriptions
    that Claude Code writes are often of this kind (``description: Use this when: …``).

    Raises:
        FrontmatterError: it is not valid YAML even so, not a mapping, or out of bounds.
    """
    if len(block) > MAX_FRONTMATTER:
        raise FrontmatterError(1, f"over {MAX_FRONTMATTER:,} characters of frontmatter")
    if _open_brackets(block) > MAX_BRACKETS:
        raise FrontmatterError(1, f"over {MAX_BRACKETS} brackets open at once")
    try:
        return _parse(block)
    except _NotYamlError as first:
        try:
            return _parse("\n".join(_quoted(line) for line in block.split("\n")))
        except FrontmatterError as second:
            # Quoting got further, or did harm: what is really wrong stands further down.
            raise (second if second.line > first.line else first) from None


def top_level_values(block: str) -> Iterator[tuple[str, str]]:
    """The keys and values that stand on one line each, as written: for a block that is broken."""
    for line in block.split("\n"):
        if match := _ONE_LINE.fullmatch(line):
            yield match["key"], match["value"].strip().strip("\"'")


def _open_brackets(block: str) -> int:
    steps = ((character in "[{") - (character in "]}") for character in block)
    return max(accumulate(steps), default=0)


def _quoted(line: str) -> str:
    match = _ONE_LINE.fullmatch(line)
    if match is None:
        return line
    key, value = match["key"], match["value"].rstrip()
    if _is_quoted(value) or not _NEEDS_QUOTES.search(match["value"]) or _is_list(value):
        return f"{key}: {value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}: "{escaped}"'


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"


def _is_list(value: str) -> bool:
    if not value.startswith("["):
        return False
    try:
        _parse(f"list: {value}")
    except FrontmatterError:
        return False
    return True


def _parse(block: str) -> Frontmatter:
    try:
        return _composed(block)
    except FrontmatterError:
        raise
    except ReaderError as error:
        line = block.count("\n", 0, error.position) + 2
        character = f"the character U+{error.character:04X} is not allowed"
        raise _NotYamlError(line, f"bad YAML: {character}") from None
    except MarkedYAMLError as error:
        raise _NotYamlError(_line_of_error(error), f"bad YAML: {_explain(error)}") from None
    except _UNFORESEEN as error:
        raise _NotYamlError(1, f"bad YAML: {type(error).__name__}: {error}") from None


def _composed(block: str) -> Frontmatter:
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False
    root = yaml.compose(block)
    if root is None:
        return Frontmatter()
    if not isinstance(root, MappingNode):
        raise FrontmatterError(_line(root), "expected lines of the form `key: value`")
    values = _Builder(yaml.constructor).mapping(root, 0)
    return Frontmatter(values, {key.value: _line(key) for key, _ in root.value})


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 2  # marks count from 0, and the fence is the first line


def _explain(error: MarkedYAMLError) -> str:
    problem = str(error.problem)
    if problem.startswith("but "):
        problem = f"{error.context}, {problem}"
    return problem + _ADVICE.get(problem, "")


def _line_of_error(error: MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return 1 if mark is None else int(mark.line) + 2


class _Builder:
    """Python values from YAML nodes: JSON's types only, bounded, every key unique.

    A date, a binary or a tagged value is its text, as Claude Code takes it.
    """

    def __init__(self, constructor: Any) -> None:
        self._constructor = constructor
        self._left = MAX_VALUES

    def value(self, node: Node, depth: int) -> Any:
        self._left -= 1
        if depth > MAX_DEPTH:
            raise FrontmatterError(_line(node), f"values nested over {MAX_DEPTH} deep")
        if self._left < 0:
            raise FrontmatterError(_line(node), f"over {MAX_VALUES:,} values, aliases counted")
        if isinstance(node, MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return self._scalar(node)

    def mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise FrontmatterError(_line(key), "a key must be plain text")
            name = _characters(key)
            if name in seen:
                raise FrontmatterError(_line(key), f"`{name}` again, first on line {seen[name]}")
            seen[name] = _line(key)
        self._constructor.flatten_mapping(node)  # `<<`, whose values come first and are overruled
        return {key.value: self.value(value, depth + 1) for key, value in node.value}

    def _scalar(self, node: Node) -> Any:
        tag = str(node.tag)
        if tag == _NULL:
            return None
        if tag not in _NUMBERS_AND_FLAGS or len(node.value) > MAX_DIGITS:
            return _characters(node)
        value = self._constructor.construct_object(node)
        return value if math.isfinite(value) else node.value


def _characters(node: Node) -> str:
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FrontmatterError(_line(node), "half of a surrogate pair, which is no character")
    return text
