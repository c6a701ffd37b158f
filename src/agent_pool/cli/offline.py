"""A world of its own for the real CLI: temporary home and project, and the offline model.

Nothing of the user is in it: no settings, no key, no network, and afterwards no file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agent_pool import Settings, load_settings
from agent_pool.loopback import LoopbackAPI, Script


@dataclass(frozen=True, slots=True)
class World:
    """Where a pool, or a Claude Code process, can run for show.

    Attributes:
        api: the model, and the accounts of what was asked of it.
        environ: the whole environment.
        settings: the defaults, for this project.
    """

    api: LoopbackAPI
    environ: Mapping[str, str]
    settings: Settings


@asynccontextmanager
async def offline_world(
    cli: Path, files: Mapping[str, str], script: Script
) -> AsyncIterator[World]:
    """A project with these files, by their path in it, and a model that follows the script."""
    with tempfile.TemporaryDirectory(prefix="agent-pool-") as folder:
        root = Path(folder)
        _furnish(root, files)
        async with LoopbackAPI(script) as api:
            environ = _environ(root, cli, api)
            yield World(api, environ, load_settings(environ, project_dir=root / "project"))


def _furnish(root: Path, files: Mapping[str, str]) -> None:
    for name in ("home", "tmp", "project"):
        (root / name).mkdir()
    for name, text in files.items():
        path = root / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _environ(root: Path, cli: Path, api: LoopbackAPI) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(root / "home"),
        "CLAUDE_CONFIG_DIR": str(root / "home" / ".claude"),
        "TMPDIR": str(root / "tmp"),
        "CLAUDE_CODE_TMPDIR": str(root / "tmp"),
        "CLAUDE_CLI": str(cli),
        "IS_SANDBOX": "1",  # lets root skip permissions; what runs in here is scripted
        **api.env,
    }
