"""Helpers of the benchmark's tests: a result, the tables of a result, the command in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import agent_pool
import benchmarks
from agent_pool.cli.output import console
from benchmarks.report import tables
from benchmarks.results import (
    BenchmarkResult,
    MemoryUse,
    MethodResult,
    ProgramStart,
    TokenCounts,
    TokenUse,
    time_spread,
)
from support.environment import UNREACHABLE_URL
from support.project import TempProject

IMPORTABLE = os.pathsep.join(
    str(Path(package.__file__ or "").parents[1]) for package in (benchmarks, agent_pool)
)
"""PYTHONPATH of a process that imports the code under test."""


def start_command(project: TempProject, *args: str, temporary: Path) -> subprocess.Popen[str]:
    """Start ``python -m benchmarks`` in a project, with an environment built from nothing."""
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *args],
        cwd=project.root,
        env=project.environment(UNREACHABLE_URL, TMPDIR=str(temporary), PYTHONPATH=IMPORTABLE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sample_result() -> BenchmarkResult:
    """Build the result of a run of three methods; the last of them has failed."""
    memory = {1: MemoryUse(300 << 20, 200 << 20, 3), 10: MemoryUse(320 << 20, 210 << 20, 4)}
    tokens = {1: TokenUse(TokenCounts(5000, 10), TokenCounts(4000, 20), TokenCounts())}
    bare = MethodResult(
        ready=0.5,
        tokens=tokens,
        memory=memory,
        times=[0.04, 0.02, 0.05],
        paired_times=[0.04, 0.02, 0.05],
        cpu=0.08,
        per_second={1: 20.0},
    )
    pool = MethodResult(
        ready=1.0,
        tokens=tokens,
        memory=memory,
        times=[0.05, 0.03, 0.06],
        paired_times=[0.05, 0.03, 0.06],
        cpu=0.1,
        per_second={1: 18.0, 4: 40.0},
    )
    server = MethodResult(ready=2.0, times=[0.05, 0.04, 0.07], cpu=0.1)
    return BenchmarkResult(
        machine={"Python": "3"},
        methods={
            "bare": bare,
            "pool": pool,
            "mcp": server,
            "sdk": MethodResult(problem="it broke"),
        },
        starts={"server": ProgramStart(time_spread([0.5]), 70 << 20)},
        noise=time_spread([0.02]),
    )


def print_tables(result: BenchmarkResult) -> str:
    """Return the tables as they are printed."""
    out = console()
    with out.capture() as captured:
        for table in tables(result):
            out.print(table)
    return captured.get()


def rows_of(text: str, label: str) -> list[list[str]]:
    """Return the rows of all tables whose first cell is `label`."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [line for line in lines if line and line[0] == label]
