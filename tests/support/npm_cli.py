"""Older CLIs from npm, installed once into the user's cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "@anthropic-ai/claude-code"
INSTALL_TIMEOUT = 90.0
"""Seconds; some 200 MB on disk, and a minute on a slow line."""


def cli_from_npm(version: str) -> Path:
    """Return the binary of this version; skip the test if npm cannot install it."""
    folder = cache_folder() / version
    if (cli := _binary(folder)) is None:
        _install(version, folder)
        cli = _binary(folder)
    if cli is None:
        pytest.skip(f"{PACKAGE}@{version} brings no binary for this machine")
    return cli


def cache_folder() -> Path:
    """Return the folder that keeps the installed versions."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "agent-pool-tests" / "claude-code"


def _binary(folder: Path) -> Path | None:
    """Find the CLI: a Node script in older versions, a native program in later ones."""
    native = f"claude-code-{'darwin' if sys.platform == 'darwin' else 'linux'}-*"
    packages = folder / "node_modules" / "@anthropic-ai"
    found = [*packages.glob(f"{native}/claude"), packages / "claude-code" / "cli.js"]
    return next((path for path in found if path.exists()), None)


def _install(version: str, folder: Path) -> None:
    """Install into a folder beside and rename it: a broken download must not count as a CLI."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm and node are needed for older versions of the CLI")
    aside = folder.with_name(f"{version}.{os.getpid()}")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(aside)]
    aside.mkdir(parents=True)
    try:
        subprocess.run(
            [npm, "install", f"{PACKAGE}@{version}", *options],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
        )
        aside.rename(folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"npm did not install {PACKAGE}@{version}: {error.stderr.strip()[-300:]}")
    except (subprocess.TimeoutExpired, OSError) as error:
        pytest.skip(f"npm did not install {PACKAGE}@{version}: {error}")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
