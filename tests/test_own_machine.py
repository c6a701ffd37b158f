"""A run of the tests does not depend on the shell that started it or on other pools."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from support.environment import UNREACHABLE_URL, cli_environment

IGNORING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
INTERRUPTED = """
import signal, subprocess, sys
from support.own_machine import default_signals
with default_signals():
    child = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    child.communicate(b"uninterrupted\\n")
    print(child.returncode, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
"""


def test_processes_can_be_interrupted_although_the_shell_ignores_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IGNORING, INTERRUPTED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == [str(-signal.SIGINT), "True", "True"]


def test_the_tests_and_their_processes_share_one_own_temporary_folder(tmp_path: Path) -> None:
    own = tempfile.gettempdir()
    assert Path(own).parent == Path("/tmp")
    assert Path(own).name.startswith("apt-")
    assert cli_environment(tmp_path, UNREACHABLE_URL)["TMPDIR"] == os.environ["TMPDIR"] == own
