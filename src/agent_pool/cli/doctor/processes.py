"""The check how the processes of workers are found, measured and ended on this machine."""

from __future__ import annotations

from typing import Final

from agent_pool import describe_process_search
from agent_pool.cli.doctor.findings import Finding

SUBJECT: Final = "Processes"


def check_processes() -> Finding:
    """Report how a pool finds and measures what its workers start."""
    return Finding(SUBJECT, "note", f"what workers start is {describe_process_search()}")
