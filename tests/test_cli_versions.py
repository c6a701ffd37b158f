"""The script that tries the pool on many versions of the CLI chooses and reports as it says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "cli_versions.py"
REPORT = """<testsuites><testsuite>
<testcase classname="isolation.test_a" name="test_one[x]"/>
<testcase classname="isolation.test_a" name="test_one[y]"><failure/></testcase>
<testcase classname="isolation.test_a" name="test_two">
<skipped message="from 2.1.1 on: it can"/></testcase>
<testcase classname="isolation.test_a" name="test_two[x]"><skipped message="no tool"/></testcase>
<testcase classname="isolation.test_b" name="test_two"><error/></testcase>
<testcase classname="isolation.test_b" name="test_three"/>
<testcase classname="pytest" name="internal"><error/></testcase>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_chosen_versions_are_landmarks_newest_and_middles_of_gaps(script: dict[str, Any]) -> None:
    published = [f"{minor}.{patch}" for minor in ("1.9", "2.0", "2.1") for patch in range(400)]

    chosen = script["choose"](published)

    assert len(chosen) == script["COUNT"]
    assert chosen == sorted(chosen, key=script["number"])
    assert set(script["LANDMARKS"]) <= set(chosen)
    assert chosen[0] == "2.0.0"
    assert chosen[-1] == "2.1.399"
    # The widest gap goes from 2.0.77 to 2.1.112; then the widest ones are its halves.
    assert {"2.0.294", "2.1.3"} <= set(chosen)


def test_a_test_fails_on_a_version_if_one_variant_fails(
    script: dict[str, Any], tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)

    assert script["read_report"](report) == {
        "passed": ["test_b::test_three"],
        "failed": ["test_a::test_one", "test_b::test_two"],
        "skipped": ["test_a::test_two"],
        "reasons": {"test_a::test_two": "from 2.1.1 on: it can; no tool"},
    }


def test_names_of_collected_tests_are_read_without_variants(script: dict[str, Any]) -> None:
    listed = (
        "tests/isolation/test_a.py::test_one[x/y.py::z]\ntests/test_b.py::test_two\n\n2 tests\n"
    )

    assert script["read_names"](listed) == {"test_a::test_one", "test_b::test_two"}


def test_tests_that_run_again_count_as_they_ended_last(script: dict[str, Any]) -> None:
    found = {"passed": ["a"], "failed": ["b", "c", "d"], "skipped": ["e"], "not_run": ["f"]}
    again = {"passed": ["b", "f"], "failed": ["d"], "skipped": ["c"], "reasons": {"c": "no stamp"}}

    assert script["merge"]({**found, "reasons": {"e": "no tool"}}, again) == {
        "passed": ["a", "b", "f"],
        "failed": ["d"],
        "skipped": ["c", "e"],
        "not_run": [],
        "reasons": {"c": "no stamp", "e": "no tool"},
    }


def test_a_version_that_npm_does_not_install_is_named(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def install(version: str) -> Path:
        pytest.skip(f"npm did not install {version}")

    monkeypatch.setitem(script["try_version"].__globals__, "cli_from_npm", install)

    assert script["is_tried"]("2.1.1", script["STAGES"]) is False
    assert capsys.readouterr().err == "2.1.1: npm did not install 2.1.1\n"


def test_versions_in_a_row_are_written_as_one_range(script: dict[str, Any]) -> None:
    versions = ["2.0.0", "2.0.77", "2.1.119", "2.1.260", "2.1.332"]

    assert script["spans"](versions[:3], versions) == "2.0.0 to 2.1.119"
    assert script["spans"](["2.0.0", "2.1.119", "2.1.260"], versions) == "2.0.0, 2.1.119 to 2.1.260"
    assert script["spans"](versions[-1:], versions) == "2.1.332"


def test_the_page_names_mode_way_and_failing_tests(script: dict[str, Any]) -> None:
    tests = {"passed": ["test_a::test_one"], "failed": [], "skipped": [], "seconds": 1.0}
    old = {"forgets": False, "rewinds": False, "switches": False, "claims": False, "reason": "kept"}
    failing = {**tests, "failed": ["test_a::test_two_words"], "not_run": ["test_b::test_late"]}
    failing["reasons"] = {"test_a::test_three": "from 2.1.330 on: stamps"}
    result = {"date": "2026-11-28", "left_out": ["--tools"], "roles": False, "processes": 11}
    first = {**result, "version": "2.0.0", "verdict": old, "task": 2.5}
    first |= {"promises": tests, "rest": failing}
    new = {**dict.fromkeys(old, True), "reason": "forgotten"}
    last = {**result, "version": "2.1.332", "verdict": new, "roles": True, "task": 0.05}
    last |= {"promises": tests, "rest": tests, "left_out": [], "processes": 1}

    page = script["page"]([first, last])

    assert "| 2.0.0 | the first one | a process for each task | no | no | a new process |" in page
    assert "| used again | yes | yes | rewinding | 50 ms |" in page
    assert "| 2.0.0 | kept | 1 of 1 |  | 1 | 1 | 0, and 1 not run |" in page
    assert "| `test_a.py`: two words | 2.0.0 |" in page
    assert "| `test_a.py`: three | from 2.1.330 on: stamps | 2.0.0 |" in page


def test_facts_behind_failures_on_the_newest_version_are_listed(script: dict[str, Any]) -> None:
    kept: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    failed = {**kept, "failed": ["test_cli_facts::test_a_switched_model_stays_after_a_clear"]}
    verdict = dict.fromkeys(("forgets", "rewinds", "switches", "claims"), True) | {"reason": ""}
    result = {"date": "2026-11-28", "left_out": [], "roles": True, "verdict": verdict, "task": 0.1}
    old, new = ({**result, "version": version} for version in ("2.1.330", "2.1.332"))

    assert "can have changed" not in script["page"](
        [{**old, "rest": failed}, {**new, "rest": kept}]
    )
    page = script["page"]([{**old, "rest": kept}, {**new, "rest": failed}])
    _, _, changed = page.partition("## Facts that 2.1.332 can have changed")
    assert (
        "* `/clear`: Kept: a model that was switched to. Code: `claude/protocol/role.py`" in changed
    )
