"""Try the pool on a dozen versions of the CLI, and write docs/cli-versions.md.

    python scripts/cli_versions.py             all versions of the rule, then the page
    python scripts/cli_versions.py VERSION…    these versions, then the page
    python scripts/cli_versions.py --only=STAGE …    one stage: probe, promises or rest; or failed,
                                               the rest's tests that failed or did not run
    python scripts/cli_versions.py --page      no version: write the page from the kept results
    python scripts/cli_versions.py --list      no version: print which ones the rule chooses

Each version is installed from npm into the cache folder of the tests. The probe and some tasks run
on it, then the tests of tests/isolation, which take the CLI from the variable AGENT_POOL_TEST_CLI.
Nothing asks a server but npm. A version takes minutes; it is not part of CI. The exit code is 1 if
a promise for all versions (tests/isolation/test_old_versions.py) was broken, another test failed on
the newest one, or a version could not be installed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from support.cli_facts import guarded_facts  # noqa: E402
from support.environment import CLI_UNDER_TEST  # noqa: E402
from support.npm_cli import PACKAGE, cache_folder, cli_from_npm  # noqa: E402
from support.pool_harness import PoolHarness  # noqa: E402

PAGE = ROOT / "docs" / "cli-versions.md"
PROMISES = "tests/isolation/test_old_versions.py"
FOLDER = "tests/isolation"
FOR_ALL = ("cli_facts", "forgetting", "taint", "tasks_are_data", "environment", "leftovers")
"""Files of the folder that ask for nothing but isolation and facts."""
FOR_ROLES = ("reset_ways", "claims", "roles", "role_changes", "role_servers")
"""Files that need workers which are used again, and which take roles."""
COUNT = 12
"""Versions that the rule chooses."""
TASKS = 10
"""Tasks of which the fastest is shown, after a first one."""
RUN_TIMEOUT = 900
"""Seconds for the tests on one version; no further test begins then."""
TEST_TIMEOUT = 400
"""Seconds for a test: an old version starts a process for each of its tasks."""
RETRIED = 10
"""Up to so many failed tests are run once more, alone: a test can fail on a busy machine."""
WORKERS = 3
"""Processes that run tests at once, as in pyproject.toml: an old version takes seconds to start."""

STAGES = ("probe", "promises", "rest")
"""The probe with some tasks, the promises for all versions, and the other tests of the folder."""
FAILED = "failed"
"""A stage that is run only if it is named: those of the other tests that failed or did not run."""
ENDINGS = ("passed", "failed", "skipped")

LANDMARKS = {
    "2.0.0": "the first one",
    "2.0.77": "the last 2.0",
    "2.1.112": "the last Node script",
    "2.1.119": "`/clear` only seems to work",
    "2.1.131": "`/clear` works",
    "2.1.229": "results are stamped",
    "2.1.260": "rewinding works, prompts as text",
    "2.1.330": "each turn is stamped; roles and claims",
}
"""Versions at which a fact of docs/cli-facts.md changes."""

Result = dict[str, Any]
"""What was found out about one version, as JSON."""


def number(version: str) -> tuple[int, ...]:
    """Parse a version into numbers that compare."""
    return tuple(int(part) for part in version.split("."))


def choose(published: Sequence[str], count: int = COUNT) -> list[str]:
    """Choose the landmarks and the newest version, then halve the widest gaps.

    Args:
        published: all versions, in any order. Those before the first landmark do not count.
        count: how many to choose.
    """
    known = sorted((v for v in published if number(v) >= (2, 0, 0)), key=number)
    chosen = {known.index(version) for version in LANDMARKS if version in known} | {len(known) - 1}
    while len(chosen) < min(count, len(known)):
        ends = sorted(chosen)
        width, start = max((b - a, a) for a, b in itertools.pairwise(ends))
        chosen.add(start + width // 2)
    return [known[index] for index in sorted(chosen)]


def published_versions() -> list[str]:
    """Ask npm for all published versions."""
    command = ["npm", "view", PACKAGE, "versions", "--json"]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    versions: list[str] = json.loads(found.stdout)
    return versions


# One version


def is_tried(version: str, stages: Sequence[str]) -> bool:
    """Try a version; print why, and return False, if it cannot be installed."""
    try:
        try_version(version, stages)
    except pytest.skip.Exception as error:  # one that npm does not install must not end the run
        sys.stderr.write(f"{version}: {error}\n")
        return False
    return True


def try_version(version: str, stages: Sequence[str] = STAGES) -> None:
    """Run the stages on one version, and keep what each has found out."""
    cli = cli_from_npm(version)
    if "probe" in stages:
        keep(version, use_version(cli))
    if "promises" in stages:
        keep(version, {"promises": run_tests(cli, PROMISES, "-m", "not soak")})
    if {"rest", FAILED} & set(stages):
        takes_roles = kept_result(version)["verdict"]["switches"]
        names = (*FOR_ALL, *FOR_ROLES) if takes_roles else FOR_ALL
        files = [f"{FOLDER}/test_{name}.py" for name in names]
        args = [*files, "-m", "not soak and not old_cli"]
        found = run_tests(cli, *args) if "rest" in stages else kept_result(version)["rest"]
        keep(version, {"rest": run_failed(cli, found, *args) if FAILED in stages else found})


def use_version(cli: Path) -> Result:
    """Give tasks to a pool on this CLI; return the verdict of the probe and the figures."""
    with tempfile.TemporaryDirectory() as folder:
        harness = PoolHarness(Path(folder), Path(folder) / "cache", cli=cli, max_size=1)
        harness.project.agent("limited", tools="Read", effort="low", maxTurns="3")
        harness.open()
        try:
            return harness.run(_use_pool(harness), bound=300)
        finally:
            harness.close()


async def _use_pool(harness: PoolHarness) -> Result:
    pool = harness.pool
    first = time.monotonic()
    pids = {(await harness.ask("warm-up")).pid}
    first = time.monotonic() - first
    seconds = []
    for index in range(TASKS):
        began = time.monotonic()
        pids.add((await harness.ask(f"task-{index}")).pid)
        seconds.append(time.monotonic() - began)
    await harness.wait_until_idle()
    verdict, launch = await pool.reset_verdict("tester"), await pool.launch_spec("limited")
    assert verdict is not None, "the first task waits for the probe, which keeps its verdict"
    return {
        "verdict": verdict.as_json(),
        "roles": launch.role != "",
        "left_out": sorted(launch.left_out),
        "processes": len(pids),
        "first_task": first,
        "task": min(seconds),
    }


def run_tests(cli: Path, *args: str) -> Result:
    """Run tests on this CLI, and a few failed ones once more; return how each ended."""
    found = _run_once(cli, *args)
    found["not_run"] = sorted(_collect(*args) - set().union(*(found[how] for how in ENDINGS)))
    return run_failed(cli, found, *args) if len(found["failed"]) <= RETRIED else found


def run_failed(cli: Path, found: Result, *args: str) -> Result:
    """Run the tests that failed or did not run once more, alone; return how each has ended now."""
    names = [*found["failed"], *found.get("not_run", ())]
    if not names:
        return found
    wanted = " or ".join(name.partition("::")[2] for name in names)
    return merge(found, _run_once(cli, *args, "-n0", "-k", wanted))


def merge(found: Result, again: Result) -> Result:
    """Return the results of a run with those of a later one of some of its tests."""
    rerun = set().union(*(again[how] for how in ENDINGS))
    merged: Result = {
        how: sorted({*(set(found.get(how, ())) - rerun), *again.get(how, ())})
        for how in (*ENDINGS, "not_run")
    }
    kept = {name: why for name, why in found.get("reasons", {}).items() if name not in rerun}
    return {**merged, "reasons": {**kept, **again["reasons"]}}


def _run_once(cli: Path, *args: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        limits = [f"--session-timeout={RUN_TIMEOUT}", f"--timeout={TEST_TIMEOUT}"]
        limits.append(f"--junitxml={report}")
        _pytest(f"-n{WORKERS}", *args, *limits, environ={CLI_UNDER_TEST: str(cli)})
        return read_report(report)


def _collect(*args: str) -> set[str]:
    """Return the names of the tests that these arguments choose."""
    return read_names(_pytest("-n0", *args, "--collect-only", output=subprocess.PIPE))


def _pytest(
    *args: str, environ: Mapping[str, str] | None = None, output: Any = sys.stderr
) -> str | None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args]
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environ or {})}
    # A hanging test ends by its own timeout; this bound is for pytest itself.
    limit = 2 * RUN_TIMEOUT
    done = subprocess.run(command, cwd=ROOT, env=env, timeout=limit, stdout=output, text=True)
    listed: str | None = done.stdout
    return listed


def read_names(listed: str | None) -> set[str]:
    """Read what ``pytest --collect-only -q`` prints: the names of the tests, without variants."""
    tests = re.findall(r"^\S*?(\w+)\.py::(\w+)", listed or "", re.MULTILINE)
    return {f"{file}::{test}" for file, test in tests}


def read_report(path: Path) -> Result:
    """Read a report in JUnit's form: the names of the tests by how they ended.

    `reasons` says why a test, or a variant of one, was skipped.
    """
    ended: dict[str, set[str]] = {how: set() for how in ENDINGS}
    reasons: dict[str, str] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        # The variants of a test count as one, which fails if one of them does.
        file = case.get("classname", "").rpartition(".")[2]
        if not file.startswith("test_"):
            continue  # an error of pytest itself; the tests after it count as not run
        name = f"{file}::{case.get('name', '').partition('[')[0]}"
        kinds = {child.tag for child in case}
        how = "failed" if kinds & {"failure", "error"} else "skipped" if kinds & {"skipped"} else ""
        ended[how or "passed"].add(name)
        if (skipped := case.find("skipped")) is not None:
            known = reasons[name].split("; ") if name in reasons else []
            reasons[name] = "; ".join(dict.fromkeys([*known, skipped.get("message", "")]))
    ended["passed"] -= ended["failed"]
    ended["skipped"] -= ended["failed"] | ended["passed"]
    return {**{how: sorted(names) for how, names in ended.items()}, "reasons": reasons}


# The page

HEAD = """# Versions of the CLI

Written by `python scripts/cli_versions.py`, which installs these versions of `{package}` from npm, one after the other, and runs the probe, {tasks} tasks and the tests of `tests/isolation` on each, against the [offline model](loopback.md).
The rule: the versions at which a fact of [cli-facts.md](cli-facts.md) changes, the newest one on npm, and then the middle of the widest gap until there are {count}.
Last run: {date}.

A version that the probe does not trust is served too: each task gets a process of its own.
A process can take roles, and a spare can be claimed, from 2.1.330 on: the pool asks no older version for it.
"Time per task" is that of the fastest of {tasks} tasks of one agent, one after the other, from the call to the answer. The machine was busy, so the times only show the order of size.

| version | chosen because | mode | roles | claims | reset by | time per task | options left out |
|---|---|---|---|---|---|---|---|
"""
PROMISED = """
## What holds on every version

The tests of `test_old_versions.py` are the promises for every version: no words of a task in a later one, no late answer or left-over command in it, only the agent's tools, permissions asked, and a timeout or an API error that ends its own task alone.
A version with fewer promises than another was last run before all of them were written.
The other tests are those of {for_all} and, where a process takes roles, of {for_roles}.
A test that needs what only newer versions can do is skipped; its reason is below.
Tests of definitions, and those on a fake CLI, are left out.
The variants of a test count as one. Up to {retried} failed tests are run once more, alone. "Not run" is what the last run had no time for.

| version | what the probe saw | promises kept | broken | other tests passed | failed | skipped |
|---|---|---|---|---|---|---|
"""
FAILING = """
## Tests that fail

A test that is named here shows a gap of these versions.

| test | fails on |
|---|---|
"""
SKIPPED = """
## Tests that do not apply to every version

A version that lacks the fact skips the test, or the variants of it that need the fact.

| test | reason | skipped on |
|---|---|---|
"""


def page(results: Sequence[Result]) -> str:
    """Build the page from the results, which are sorted by version."""
    last = max(result["date"] for result in results)
    head = HEAD.format(package=PACKAGE, tasks=TASKS, count=COUNT, date=last)
    newest = results[-1]["version"]
    modes = "".join(_mode_line(result, newest) for result in results)
    kept = "".join(_kept_line(result) for result in results)
    promised = PROMISED.format(
        retried=RETRIED,
        for_all=", ".join(f"`test_{name}.py`" for name in FOR_ALL),
        for_roles=", ".join(f"`test_{name}.py`" for name in FOR_ROLES),
    )
    promised += kept
    changed = _changed_facts(results[-1])
    failing, skipped = _failing_lines(results), _skipped_lines(results)
    promised += (FAILING + failing if failing else "") + (SKIPPED + skipped if skipped else "")
    return head + modes + promised + changed


def _mode_line(result: Result, newest: str) -> str:
    verdict = result["verdict"]
    reused = bool(verdict["forgets"])
    way = "rewinding" if verdict["rewinds"] else "`/clear`" if reused else "a new process"
    cells = (
        result["version"],
        LANDMARKS.get(result["version"], "the newest" if result["version"] == newest else "a gap"),
        "used again" if reused else "a process for each task",
        _yes(result["roles"] and verdict["switches"]),
        _yes(verdict["claims"]),
        way,
        f"{result['task'] * 1000:,.0f} ms",
        ", ".join(f"`{option}`" for option in result["left_out"]),
    )
    return f"| {' | '.join(cells)} |\n"


def _kept_line(result: Result) -> str:
    cells = [result["version"], result["verdict"]["reason"]]
    if promises := result.get("promises"):
        ended = len(promises["passed"] + promises["failed"])
        broken = ", ".join(_plain(name) for name in promises["failed"])
        cells += [f"{len(promises['passed'])} of {ended}", broken]
    else:
        cells += ["not run", ""]
    rest = result.get("rest")
    cells += [str(len(rest[how])) if rest else "not run" for how in ENDINGS]
    if rest and (left := rest.get("not_run")):
        cells[-1] += f", and {len(left)} not run"
    return f"| {' | '.join(cells)} |\n"


def _failing_lines(results: Sequence[Result]) -> str:
    """List each test that fails somewhere, with the versions, in the order of the files."""
    versions = [result["version"] for result in results if "rest" in result]
    failing: dict[str, list[str]] = {}
    for result in results:
        for name in failed_tests(result, "rest"):
            failing.setdefault(name, []).append(result["version"])
    return "".join(
        f"| {_plain(name)} | {spans(failing[name], versions)} |\n" for name in sorted(failing)
    )


def _skipped_lines(results: Sequence[Result]) -> str:
    """List each test that is skipped somewhere, with the reason and the versions."""
    versions = [result["version"] for result in results if "rest" in result]
    skipped: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for skip in result.get("rest", {}).get("reasons", {}).items():
            skipped.setdefault(skip, []).append(result["version"])
    return "".join(
        f"| {_plain(name)} | {reason} | {spans(skipped[name, reason], versions)} |\n"
        for name, reason in sorted(skipped)
    )


def _changed_facts(newest: Result) -> str:
    """List the facts that failing tests of the newest version guard."""
    names = [*failed_tests(newest, "promises"), *failed_tests(newest, "rest")]
    parts = (name.partition("::") for name in names)
    facts = {
        str(fact): fact for file, _, test in parts for fact in guarded_facts(f"{file}.py", test)
    }
    lines = "".join(
        f"* {fact.section}: {fact.text}. Code: {', '.join(f'`{path}`' for path in fact.code)}\n"
        for fact in facts.values()
    )
    return f"\n## Facts that {newest['version']} can have changed\n\n{lines}" if lines else ""


def failed_tests(result: Result, stage: str) -> list[str]:
    """Return the tests of a stage that failed; none if it was not run."""
    return list(result.get(stage, {}).get("failed", ()))


def spans(some: Sequence[str], versions: Sequence[str]) -> str:
    """Write some of the versions as ranges, e.g. "2.0.0 to 2.1.119, 2.1.229"."""
    found: list[list[str]] = []
    for before, version in zip(["", *versions], versions, strict=False):
        if version in some and found and found[-1][-1] == before:
            found[-1].append(version)
        elif version in some:
            found.append([version])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in found)


def _plain(name: str) -> str:
    file, _, test = name.partition("::")
    return f"`{file}.py`: {test.removeprefix('test_').replace('_', ' ')}"


def _yes(value: object) -> str:
    return "yes" if value else "no"


# The results are kept, so that a run can be cut short and gone on with.


def keep(version: str, found: Mapping[str, Any]) -> None:
    """Keep what was found out about a version in the cache folder; the rest of it stays."""
    path = _results_folder() / f"{version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    result = {**kept_result(version), "version": version, "date": today, **found}
    path.write_text(json.dumps(result, indent=1), encoding="utf-8")


def kept_result(version: str) -> Result:
    """Return the kept result of a version; it is empty before the first run."""
    path = _results_folder() / f"{version}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def kept_results() -> list[Result]:
    """Return the kept results, sorted by version."""
    found = [kept_result(path.stem) for path in _results_folder().glob("*.json")]
    return sorted(found, key=lambda result: number(result["version"]))


def _results_folder() -> Path:
    return cache_folder() / "results"


def main(args: Sequence[str]) -> int:
    named = [argument for argument in args if not argument.startswith("--")]
    missing: list[str] = []
    if "--page" not in args:
        versions = named or choose(published_versions())
        if "--list" in args:
            print(*versions, sep="\n")  # noqa: T201 - the answer of this command
            return 0
        only = [stage for stage in (*STAGES, FAILED) if f"--only={stage}" in args]
        missing = [version for version in versions if not is_tried(version, only or STAGES)]
    results = kept_results()
    PAGE.write_text(page(results), encoding="utf-8")
    is_broken = any(failed_tests(result, "promises") for result in results)
    return 1 if missing or is_broken or failed_tests(results[-1], "rest") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
