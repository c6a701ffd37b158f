"""Parse the YAML frontmatter at the top of a Markdown file, with the line of each key."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

MAX_FRONTMATTER_CHARACTERS: Final = 64 * 1024
MAX_VALUES: Final = 10_000
MAX_DEPTH: Final = 50
MAX_DIGITS: Final = 40
"""Characters of a number; longer ones stay text. Python parses at most 4,300 decimal digits."""
MAX_OPEN_BRACKETS: Final = 200
"""Brackets open at the same time. ruamel.yaml's time grows with the square of their number: 1,000
took 0.4 s, 3,000 took 3 s."""

WHITE_SPACE: Final = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""The white space of JavaScript, which Claude Code removes around the body (2.1.332). Python's own
has U+0085 and U+001C to U+001F too, and not U+FEFF."""
_BLANK = f"[{WHITE_SPACE}]"
# The first three dashes after the first line end the block, wherever they stand, and the rest of
# their line belongs to the body (2.1.332).
_FENCED = re.compile(rf"\A---{_BLANK}*?\n(?P<yaml>.*?)---", re.DOTALL)
_BETWEEN_LINES = re.compile(r"\A---[ \t]*\n.*?^---[ \t]*\n?", re.DOTALL | re.MULTILINE)
_OPENED = re.compile(rf"\A---{_BLANK}*?(?:\n|\Z)")
_TABS_BEFORE_ITEM = re.compile(r"^\t+(?=- )", re.MULTILINE)
_ONE_LINE = re.compile(r"(?P<key>[A-Za-z_-]+):\s+(?P<value>\S.*)")
_NEEDS_QUOTES = re.compile(r"[!#%&*>@\[\]`{|}]|: ")
_NUMBERS_AND_BOOLEANS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool")}
_NULL = "tag:yaml.org,2002:null"

_ADVICE = {
    "mapping values are not allowed here": "; put a value that contains a colon in quotes",
    "could not find expected ':'": (
        "; for a value of several lines, write `|` after the colon and indent the lines below"
    ),
}
"""The next step for messages of ruamel.yaml that do not name one."""

_PARSER_ERRORS = (
    *(YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError),
    ValueError,
)
"""Errors of ruamel.yaml for some texts. A file can hold any text, so all of them are caught."""


class FrontmatterError(ValueError):
    """The frontmatter cannot be used.

    Attributes:
        line: the line of the fault in the file, counted from 1.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class _YamlSyntaxError(FrontmatterError):
    """The block is not valid YAML; quotes around its values can help."""


@dataclass(frozen=True, slots=True)
class Frontmatter:
    """A parsed block.

    Attributes:
        values: the value of each key, of JSON's types.
        lines: the line of each key in the file, counted from 1.
        repeated: the keys that appear more than once; the last value of each is used.
    """

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()


def split(text: str) -> tuple[str | None, str]:
    """Split a text into the YAML between its first line ``---`` and the next ``---``, and the body.

    The body is the rest, without white space around it. The YAML is None if the file does not
    begin with such a block; then the whole text is returned.
    """
    # Asked first, because the pattern is slow for many blank lines that no dashes follow.
    fenced = _FENCED.match(text) if "---" in text[3:] else None
    return (fenced["yaml"], text[fenced.end() :].strip(WHITE_SPACE)) if fenced else (None, text)


def remove_fenced(text: str) -> str:
    """Return the text below the frontmatter of a file that is none of Claude Code's own.

    Only a line that begins with ``---`` ends the frontmatter there.
    """
    fenced = _BETWEEN_LINES.match(text)
    return text[fenced.end() :] if fenced else text


def find_cut(block: str) -> int | None:
    """Return the line of a file in whose middle a block of `split` ends; None if it ends a line."""
    last = block.rpartition("\n")[2]
    return block.count("\n") + 2 if last else None


def is_opened(text: str) -> bool:
    """Return whether the first line of the text is ``---``, whether or not the block is closed."""
    return _OPENED.match(text) is not None


def parse(block: str) -> Frontmatter:
    """Parse a block that `split` returned.

    A block that is not valid YAML is parsed again with quotes around some of its values.

    Raises:
        FrontmatterError: it is still not valid YAML, is not a mapping, or is over one of the bounds
            of this module.
    """
    if len(block) > MAX_FRONTMATTER_CHARACTERS:
        raise FrontmatterError(
            1,
            f"the frontmatter has more than {MAX_FRONTMATTER_CHARACTERS:,} characters; shorten it",
        )
    if _count_open_brackets(block) > MAX_OPEN_BRACKETS:
        raise FrontmatterError(
            1, f"more than {MAX_OPEN_BRACKETS} brackets are open at the same time; close them"
        )
    # YAML allows no tab there, but Claude Code 2.1.332 does.
    block = _TABS_BEFORE_ITEM.sub(lambda tabs: "  " * len(tabs[0]), block)
    try:
        return _parse_yaml(block)
    except _YamlSyntaxError as first:
        # Claude Code 2.1.332 does the same, because the descriptions that it generates often are
        # not valid YAML: `description: Use this when: …`.
        try:
            return _parse_yaml("\n".join(_quote_value(line) for line in block.split("\n")))
        except FrontmatterError as second:
            # The error further down is the real one: the quotes repaired an earlier fault, or
            # they caused an error above it (around the `>-` of a block).
            raise (second if second.line > first.line else first) from None


def find_plain_values(block: str) -> Iterator[tuple[str, str]]:
    """Yield the keys and values that are on one line, as written, without quotes around them.

    The block need not be valid YAML.
    """
    for line in block.split("\n"):
        if match := _ONE_LINE.fullmatch(line):
            yield match["key"], match["value"].strip().strip("\"'")


def _count_open_brackets(block: str) -> int:
    """Return the largest number of brackets that are open at the same time."""
    steps = ((character in "[{") - (character in "]}") for character in block)
    return max(accumulate(steps), default=0)


def _quote_value(line: str) -> str:
    """Return a line ``key: value`` with the value in quotes if it contains YAML syntax."""
    match = _ONE_LINE.fullmatch(line)
    if match is None:
        return line
    key, value = match["key"], match["value"].rstrip()
    if _is_quoted(value) or not _NEEDS_QUOTES.search(match["value"]) or _is_list(value):
        return f"{key}: {value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}: "{escaped}"'


def _is_quoted(value: str) -> bool:
    """Return whether the value begins and ends with the same quote."""
    return len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"


def _is_list(value: str) -> bool:
    """Return whether the value is a YAML list in brackets, such as ``[Read, Grep]``."""
    if not value.startswith("["):
        return False
    try:
        _parse_yaml(f"list: {value}")
    except FrontmatterError:
        return False
    return True


def _parse_yaml(block: str) -> Frontmatter:
    """Parse a block as YAML 1.2; raise every error as FrontmatterError with its line."""
    try:
        return _build_frontmatter(block)
    except FrontmatterError:
        raise
    except ReaderError as error:
        line = block.count("\n", 0, error.position) + 2
        character = f"the character U+{error.character:04X} is not allowed"
        raise _YamlSyntaxError(line, f"bad YAML: {character}; remove it") from None
    except MarkedYAMLError as error:
        raise _YamlSyntaxError(_get_error_line(error), f"bad YAML: {_explain(error)}") from None
    except _PARSER_ERRORS as error:
        raise _YamlSyntaxError(1, f"bad YAML: {type(error).__name__}: {error}") from None


def _build_frontmatter(block: str) -> Frontmatter:
    """Build the values and lines of a block; raise FrontmatterError and ruamel.yaml's errors."""
    yaml = YAML(typ="safe", pure=True)
    # YAML 1.2 allows an anchor to be defined again; ruamel.yaml would print a warning.
    yaml.composer.warn_double_anchors = False
    # Nodes instead of values, because only they have lines, and their tags run no code.
    root = yaml.compose(block)
    if root is None:
        return Frontmatter()
    if not isinstance(root, MappingNode):
        kind = "a list" if isinstance(root, SequenceNode) else "text"
        raise FrontmatterError(_get_line(root), f"expected lines `key: value`, found {kind}")
    names = [str(key.value) for key, _ in root.value]
    repeated = tuple(name for name, number in Counter(names).items() if number > 1)
    values = _ValueBuilder(yaml.constructor).build_mapping(root, 0)
    return Frontmatter(values, {key.value: _get_line(key) for key, _ in root.value}, repeated)


def _get_line(node: Node) -> int:
    """Return the line of a node in the file, counted from 1."""
    # ruamel.yaml counts from 0, and the line `---` is above the block.
    return int(node.start_mark.line) + 2


def _get_error_line(error: MarkedYAMLError) -> int:
    """Return the line of an error in the file, counted from 1; 1 if the line is unknown."""
    mark = error.problem_mark or error.context_mark
    return 1 if mark is None else int(mark.line) + 2


def _explain(error: MarkedYAMLError) -> str:
    """Return the error's problem as one sentence, with advice if there is any."""
    problem = str(error.problem)
    if problem.startswith("but "):
        # ruamel.yaml puts the first half of such a sentence into the context.
        problem = f"{error.context}, {problem}"
    return problem + _ADVICE.get(problem, "")


class _ValueBuilder:
    """Builds values of JSON's types from YAML nodes, within bounds.

    As in Claude Code 2.1.332, the last value of a repeated key wins, and a date, binary data and a
    value with an unknown tag become their text.
    """

    def __init__(self, constructor: Any) -> None:
        """Build with ruamel.yaml's `constructor`, at most `MAX_VALUES` values in all."""
        self._constructor = constructor
        self._values_left = MAX_VALUES

    def build(self, node: Node, depth: int) -> Any:
        """Build the value of any node.

        Args:
            node: the node.
            depth: in how many lists and mappings it is, below the top.

        Raises:
            FrontmatterError: the value is over a bound, or a key is not text.
        """
        # Aliases are counted each time: ten lines of nine aliases each are 9^10 values. An alias
        # of a list inside itself never ends; the depth stops it.
        self._values_left -= 1
        if depth > MAX_DEPTH:
            raise FrontmatterError(
                _get_line(node), f"values are nested more than {MAX_DEPTH} levels deep"
            )
        if self._values_left < 0:
            problem = f"more than {MAX_VALUES:,} values, each alias counted as its values"
            raise FrontmatterError(_get_line(node), problem)
        if isinstance(node, MappingNode):
            return self.build_mapping(node, depth)
        if isinstance(node, SequenceNode):
            return [self.build(item, depth + 1) for item in node.value]
        return self._build_scalar(node)

    def build_mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        """Build the value of a mapping; arguments and errors as in `build`."""
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise FrontmatterError(
                    _get_line(key), "expected a key of plain text, found a list or a mapping"
                )
            _read_characters(key)
        # This replaces the merge key `<<` by the keys of its mappings and puts them first, so that
        # the mapping's own keys win.
        self._constructor.flatten_mapping(node)
        return {key.value: self.build(value, depth + 1) for key, value in node.value}

    def _build_scalar(self, node: Node) -> Any:
        """Build null, a boolean or a number; everything else becomes its text."""
        tag = str(node.tag)
        if tag == _NULL:
            return None
        if tag not in _NUMBERS_AND_BOOLEANS or len(node.value) > MAX_DIGITS:
            return _read_characters(node)
        value = self._constructor.construct_object(node)
        # JSON has no infinity and no NaN.
        return value if math.isfinite(value) else node.value


def _read_characters(node: Node) -> str:
    """Return the text of a scalar; raise FrontmatterError if UTF-8 cannot encode it."""
    text = str(node.value)
    # YAML's escape "\ud800" can write half of a surrogate pair.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FrontmatterError(
            _get_line(node), "half of a surrogate pair is not a character; remove it"
        )
    return text
