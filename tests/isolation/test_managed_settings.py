"""The files of an administrator, which no variable moves: so these tests need a private /etc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "managed_agents.py"
PRIVATE_ETC = """
mount -t tmpfs none "$1" && mkdir "$1/upper" "$1/work" &&
mount -t overlay none -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc || exit 77
mkdir -p /etc/claude-code
shift
exec "$@"
"""
"""Mounts that end with the process; exit code 77 if the kernel does not allow them."""


def run_with_private_etc(folder: Path, *command: str) -> str:
    """Run a command that can write to an /etc of its own; return its stdout."""
    etc = folder / "etc"
    etc.mkdir()
    paths = os.pathsep.join([str(PROGRAM.parents[2]), *sys.path])
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", PRIVATE_ETC, "sh", str(etc), *command],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("mounts of its own are not allowed here")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files_of_an_administrator_count_as_in_the_cli(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    said = json.loads(run_with_private_etc(tmp_path, sys.executable, str(PROGRAM), str(folder)))
    haiku = ["haiku", "PROJECT"]
    assert said["native"] == {
        "both": ["haiku", "ADMIN"],
        "deep": ["haiku", "ADMIN"],
        "named": ["sonnet", "PROJECT"],
        **dict.fromkeys(("first", "second", "third"), "refused"),
        **dict.fromkeys(("hidden", "other", "below"), haiku),
    }
    assert said["pool"] == said["native"]
    assert not Path("/etc/claude-code/managed-settings.d/20-b.json").exists()
