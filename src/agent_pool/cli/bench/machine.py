"""What the benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from agent_pool import cli_version


async def machine(cli: Path) -> dict[str, str]:
    """The machine and the versions, for people."""
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
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
