from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.agents import frontmatter
from agent_pool.agents.frontmatter import FrontmatterError, parse, split
from support.environment import cli_environment, real_cli


def values(block: str) -> dict[str, Any]:
    return parse(block).values


def problem(block: str) -> tuple[int, str]:
    with pytest.raises(FrontmatterError) as caught:
        parse(block)
    return caught.value.line, str(caught.value)


def test_frontmatter_is_the_block_between_two_lines_of_three_dashes() -> None:
    assert split("---\na: b\n---\nbody\n---\nmore\n") == ("a: b\n", "body\n---\nmore")
    assert split("---  \na: b\n--- \t\nbody") == ("a: b\n", "body")
    assert split("---\n---\nbody") == ("", "body")
    assert split("---\na: b\n---") == ("a: b\n", "")
    assert split("---\xa0\f\r\na: b\r\n---\r\n a\r\nb \r\n") == ("a: b\r\n", "a\r\nb")


@pytest.mark.parametrize(
    ("text", "block", "line"),
    [
        ("description: a --- b\n---\nbody", "description: a ", 2),
        ("a: b\nnote: x---y\n---\nbody", "a: b\nnote: x", 3),
        ("text: |\n  ---\n---\nbody", "text: |\n  ", 3),
        ("a: b\n# ----\n---\nbody", "a: b\n# ", 3),
        ("a: b\n----\nbody", "a: b\n", None),
        ("---\nbody", "", None),
    ],
)
def test_three_dashes_end_the_block_within_a_line_too(
    text: str, block: str, line: int | None
) -> None:
    found, body = split(f"---\n{text}")
    assert (found, frontmatter.find_cut(block)) == (block, line)
    assert body.endswith("body")


@pytest.mark.parametrize(
    "text", ["", "body", "\n---\na: b\n---\n", " ---\na: b\n---\n", "---\na: b"]
)
def test_a_file_without_a_closed_block_on_top_is_text(text: str) -> None:
    assert split(text) == (None, text)


def test_frontmatter_values_are_read_as_yaml_1_2() -> None:
    block = """\
list: [one, "two, three", 'four']
block:
  - one
  - two
folded: >-
  one
  two
literal: |
  one
  two
truth: true
not_truth: yes
number: 12
octal: 0o14
ratio: 1.5
nothing:
date: 2024-01-01
quoted: "12"  # a comment
"""
    assert values(block) == {
        "list": ["one", "two, three", "four"],
        "block": ["one", "two"],
        "folded": "one two",
        "literal": "one\ntwo\n",
        "truth": True,
        "not_truth": "yes",
        "number": 12,
        "octal": 12,
        "ratio": 1.5,
        "nothing": None,
        "date": "2024-01-01",
        "quoted": "12",
    }


def test_each_key_is_recorded_with_its_line_in_the_file() -> None:
    assert parse("a: 1\n\n# comment\nb:\n  - 2\nc: 3\n").lines == {"a": 2, "b": 5, "c": 7}


def test_an_empty_block_has_no_values() -> None:
    assert [values(""), values("# only a comment\n")] == [{}, {}]


def test_anchors_aliases_and_merge_keys_are_followed() -> None:
    block = "a: &x {b: 1, c: 2}\nd: *x\n<<: *x\nc: 3\n"
    assert values(block) == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 2}, "b": 1, "c": 3}


def test_an_anchor_given_twice_takes_the_later_value_without_warning() -> None:
    assert values("a: &x 1\nb: &x 2\nc: *x\n") == {"a": 1, "b": 2, "c": 2}


def test_numbers_that_json_cannot_hold_are_read_as_text() -> None:
    huge = "9" * 5000
    assert values(f"a: .inf\nb: .nan\nc: 1e999\nd: {huge}\ne: 0x{'f' * 5000}\n") == {
        "a": ".inf",
        "b": ".nan",
        "c": "1e999",
        "d": huge,
        "e": f"0x{'f' * 5000}",
    }


def test_yaml_tags_run_no_code_and_leave_plain_values() -> None:
    assert values("a: !!python/object/apply:os.system [x]\nb: !secret y\nc: !!binary aGk=\n") == {
        "a": ["x"],
        "b": "y",
        "c": "aGk=",
    }


@pytest.mark.parametrize(
    ("block", "line", "said"),
    [
        ("a: 1\nb:\n  [1, 2\nc.d: 3\n", 5, "expected ',' or ']'"),
        ("- a\n- b\n", 2, "`key: value`"),
        ("just text\n", 2, "`key: value`"),
        ("a: 1\n? [b]\n: c\n", 3, "plain text"),
        ("a: 1\nb: \x07\n", 3, "U+0007"),
        ('a: "\\ud800"\n', 2, "surrogate"),
        ("a: 1\n...\nb: 2\n", 4, "single document"),
        ("a: &x [*x, *x]\n", 2, "deep"),
        ("a:\n  b: c: d\n", 3, "in quotes"),
        ("d: Use it. Examples:\n<example>\nuser: hi\n", 2, "in quotes"),
        ("d: Use it.\n<example>\nuser: hi\n", 4, "indent"),
    ],
)
def test_a_parse_error_names_the_line_and_the_problem(block: str, line: int, said: str) -> None:
    at, message = problem(block)
    assert (at, said in message) == (line, True), message


def test_aliases_cannot_multiply_values_without_bound() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "each alias counted as its values" in problem("\n".join(levels))[1]


def test_a_block_can_be_at_most_64_kib_long() -> None:
    longest = frontmatter.MAX_FRONTMATTER_CHARACTERS - len("a: ")
    assert values(f"a: {'x' * longest}") == {"a": "x" * longest}
    assert "65,536" in problem(f"a: {'x' * (longest + 1)}")[1]


def test_very_deep_nesting_is_an_error_and_not_a_crash() -> None:
    assert "brackets" in problem("a:\n " + "[" * 5000)[1]
    assert "deep" in problem("a: " + "[" * 60 + "]" * 60)[1]
    assert "bad YAML" in problem("- " * 5000)[1]


GENERATED = (
    "Use this agent when: the code is written. Examples:\\n\\n"
    '<example>\\nuser: "hi" assistant: "I\'ll use it"\\n</example> # not a comment'
)


def test_a_one_line_value_with_a_colon_is_kept_whole() -> None:
    block = f"name: reviewer\ndescription: {GENERATED}\ntools: [Read, Grep] # these\nmodel: opus\n"
    assert values(block) == {
        "name": "reviewer",
        "description": GENERATED,
        "tools": ["Read", "Grep"],
        "model": "opus",
    }


@pytest.mark.parametrize(
    "value",
    [
        "when: x # y",
        '"quoted" then: more',
        "'quoted' then: more",
        "{a: b} c: d",
        "[a] b: c",
        "@at",
        "`tick`",
        "%percent",
        "*bold* text",
        "> folded: on one line",
        "- dash: x",
        "? question: x",
        'a: "open',
        "back\\slash: x",
        "日本: 語",
    ],
)
def test_a_value_that_looks_like_yaml_syntax_is_text(value: str) -> None:
    assert values(f"name: a\ndescription: {value}\n") == {"name": "a", "description": value}


def test_valid_yaml_values_are_never_put_into_quotes() -> None:
    assert values("a: text # comment\nb: &anchor x\nc: !tag y\nd: {e: f}\n") == {
        "a": "text",
        "b": "x",
        "c": "y",
        "d": {"e": "f"},
    }


@pytest.mark.parametrize(
    "block",
    [
        "description: Use it: here\n  and on the next line\n",
        "description: Use it: here\nhooks:\n  Stop: a: b\n",
        "description: >-\n  folded: text\ncolor: a: b\n",
        'description: "open\n',
        "description: ends with a colon:\n",
        "description: 'quoted' then more\n",
        "key2: a: b\n",
        "a.b: c: d\n",
        " description: indented: key\n",
    ],
)
def test_a_block_that_claude_code_cannot_read_is_an_error(block: str) -> None:
    assert "bad YAML" in problem(block)[1]


def test_the_fault_that_quoting_cannot_repair_is_the_one_reported() -> None:
    assert problem("description: Use it: here\nmodel: opus\nk.y: a: b\n")[0] == 4
    assert problem("description: >-\n  folded: text\ncolor: a: b\n")[0] == 4


READABLE = [
    "Use when: x",
    "'quoted' then: more",
    "{a: b} tail",
    "@at",
    "*bold* text",
    "> folded: x",
    "'a' b%",
    "ok\ntools: [Read, Grep",
    "a: b\ntools: [Read, Grep]",
    "|\n  block: ok",
]
UNREADABLE = [
    "x: y\n  continued",
    "x: y\nhooks:\n  PreToolUse: a: b",
    ">-\n  block: ok\ncolor: a: b",
    '"open',
    "ends with:",
    "'a' b",
    "'a' b.",
    "x: y\nkey2: 'a' b: c",
    "x\n<example>\nuser: hi",
]


@pytest.mark.parametrize("valid", [True, False])
def test_the_real_claude_code_reads_and_refuses_the_same_files(valid: bool, tmp_path: Path) -> None:
    folder = tmp_path / ".claude" / "agents"
    folder.mkdir(parents=True)
    blocks = [f"name: a\ndescription: {text}\n" for text in (READABLE if valid else UNREADABLE)]
    for number, block in enumerate(blocks):
        (folder / f"{number}.md").write_text(f"---\n{block}---\nbody\n", encoding="utf-8")
    refused = _refused_by_claude(folder, tmp_path)
    assert refused == (set() if valid else {f"{number}.md" for number in range(len(blocks))})
    for block in blocks:
        if valid:
            assert values(block)["name"] == "a"
        else:
            problem(block)


def _refused_by_claude(folder: Path, home: Path) -> set[str]:
    done = subprocess.run(
        [real_cli(), "plugin", "validate", "--json", str(folder)],
        env=cli_environment(home, "http://127.0.0.1:9"),
        capture_output=True,
        timeout=60,
        check=False,
    )
    report = json.loads(done.stdout)
    return {Path(file["file"]).name for file in report["contents"] if file["errors"]}


@given(st.text(max_size=200))
def test_any_text_gives_values_of_json_or_an_error(text: str) -> None:
    with contextlib.suppress(FrontmatterError):
        found = parse(text)
        json.dumps(found.values, allow_nan=False)
        assert set(found.values) == set(found.lines)


SYNTAX = st.text(alphabet="ab:- \n\t[]{}\"'#&*!|>%@`,?~<=0.", max_size=60)


@given(SYNTAX)
def test_any_mixture_of_yaml_syntax_gives_values_or_an_error(text: str) -> None:
    test_any_text_gives_values_of_json_or_an_error.hypothesis.inner_test(text)  # type: ignore[attr-defined]


@given(st.text(alphabet="ab: \n-", max_size=40))
def test_splitting_loses_no_text_except_the_two_fence_lines(text: str) -> None:
    block, body = split(f"---\n{text}\n---\n{text}")
    assert block is not None
    whole = f"---\n{text}\n---\n{text}"
    assert whole.startswith(f"---\n{block}---")
    assert whole.removeprefix(f"---\n{block}---").strip(frontmatter.WHITE_SPACE) == body


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("---\na: 1\n---\nbody", "body"),
        ("---\na: 1\n-------\nbody", "----\nbody"),
        ("---\na: 1\n---body", "body"),
        ("---\na: 1\n--- x\nbody", "x\nbody"),
    ],
)
def test_any_line_that_begins_with_three_dashes_ends_the_block(text: str, body: str) -> None:
    assert frontmatter.split(text) == ("a: 1\n", body)


def test_the_last_value_of_a_repeated_key_wins() -> None:
    found = frontmatter.parse("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert found.values == {"a": 3, "b": {"c": 2}}
    assert (found.repeated, found.lines["a"]) == (("a",), 4)
