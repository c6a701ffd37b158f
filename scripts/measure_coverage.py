"""Measure which lines of src the tests run: ``python scripts/measure_coverage.py [pytest args]``.

Without arguments it runs what CI runs: the default tests, and then those on real Ray nodes.

Processes that tests start are measured too. Their environments are built from nothing, so no variable
can switch the measurement on in them. The tests run in a temporary virtual environment instead, whose
Python starts to measure whenever it starts, and which has the packages of this one.

Two kinds of processes are not measured: those that are killed, and the watchdogs, whose Python loads no
packages (``-I -S``); the tests of the watchdog in the process of the tests are.
Measured processes start slower, use more memory and import more: tests of these can fail here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALL: tuple[list[str], ...] = ([], ["-m", "long"], ["-m", "ray", "-n0", "tests/cluster"])
"""The arguments of the runs of pytest in CI."""
CONFIG = """
[run]
source_pkgs = agent_pool
data_file = {folder}/coverage
parallel = true
disable_warnings = no-data-collected, module-not-measured, module-not-imported, couldnt-parse
patch = _exit

[report]
skip_covered = true
skip_empty = true
show_missing = true
exclude_also =
    if TYPE_CHECKING:
    ^\\s*\\.\\.\\.$
"""
START = """
import os
import sys
import coverage
os.environ["COVERAGE_PROCESS_START"] = {config!r}
measured = coverage.process_startup()
del os.environ["COVERAGE_PROCESS_START"]
if measured is not None and any(word.endswith("default_worker.py") for word in sys.orig_argv):
    import threading
    import time

    def save():
        # Ray ends the processes of its actors without the end of Python, at which it is saved.
        while True:
            time.sleep(1)
            measured.save()

    threading.Thread(target=save, daemon=True).start()
"""


def make_environment(folder: Path, config: Path) -> Path:
    """Make a virtual environment whose processes are measured; return its Python."""
    venv.create(folder, symlinks=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    given = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in given]
    (packages / "measure_start.py").write_text(START.format(config=str(config)))
    (packages / "measured.pth").write_text("\n".join([*lines, "import measure_start"]))
    for program in Path(sys.executable).parent.iterdir():  # tests start some by their place
        if not (link := folder / "bin" / program.name).exists():
            link.symlink_to(program)
    return folder / "bin" / "python"


def main() -> int:
    """Run the tests, print the report; return the exit code of the first pytest that fails."""
    with tempfile.TemporaryDirectory(prefix="coverage-") as name:
        folder = Path(name)
        config = folder / "config"
        config.write_text(CONFIG.format(folder=folder))
        python = make_environment(folder / "venv", config)
        codes = [
            subprocess.run([python, "-m", "pytest", *args], cwd=ROOT, check=False).returncode
            for args in ([sys.argv[1:]] if sys.argv[1:] else ALL)
        ]
        for step in (["combine", "--quiet"], ["report"]):
            command = [sys.executable, "-m", "coverage", *step, f"--rcfile={config}"]
            subprocess.run(command, cwd=ROOT, check=False)
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main())
