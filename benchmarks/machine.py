"""Describes the machine and the versions of the software."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from agent_pool import cli_version


async def describe_machine(cli: Path) -> dict[str, str]:
    """Return machine, load and versions, each with its label."""
    return {
        "Processor": f"{os.cpu_count()} x {_processor()}",
        "Memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Load before": " ".join(f"{load:.1f}" for load in psutil.getloadavg()),
        "Python": platform.python_version(),
        "Claude Code": await cli_version(cli),
        **{name: _version(name) for name in ("claude-agent-pool", "mcp", "claude-agent-sdk")},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """Return the processor's name, or only its architecture if the system does not report more."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
