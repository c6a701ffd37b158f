"""Environments of the clients, with pinned versions: a venv or an npm folder each."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NODE: Final = "node@22.23.3"
"""Node 22, which Inspector needs, as a package of npm."""
INSTALL_TIMEOUT: Final = 600.0
"""Seconds for one installation."""


@dataclass(frozen=True)
class Packages:
    """Packages with pinned versions.

    Attributes:
        pip: packages of PyPI, as `pip install` takes them.
        npm: packages of npm, as `npm install` takes them.
    """

    pip: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()


class Environment:
    """The folder into which one client is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def python(self) -> str:
        """Return the interpreter of the virtual environment."""
        return str(self.folder / "venv" / "bin" / "python")

    def command(self, name: str) -> str:
        """Return a program that a package has installed."""
        found = [self.folder / "venv" / "bin" / name, self.folder / "node_modules" / ".bin" / name]
        return str(next(path for path in found if path.exists()))

    @property
    def path(self) -> str:
        """Return a PATH on which this environment's programs come first."""
        first = self.folder / "node_modules" / ".bin"
        return f"{first}{os.pathsep}{os.environ['PATH']}"

    def install(self, packages: Packages) -> None:
        """Install the packages, unless an earlier run has done it.

        Raises:
            subprocess.CalledProcessError: pip or npm failed; its output has the reason.
        """
        done = self.folder / "installed"
        if done.exists() and done.read_text() == repr(packages):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if packages.pip:
            _run(sys.executable, "-m", "venv", str(self.folder / "venv"))
            _run(self.python, "-m", "pip", "install", "--quiet", *packages.pip)
        if packages.npm:
            _run(
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--prefix",
                str(self.folder),
                *packages.npm,
            )
        done.write_text(repr(packages))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
