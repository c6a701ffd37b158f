"""An offline sandbox for the real CLI: a temporary home and project, and a scripted model.

It has no settings, key or network of the user, and its files are removed afterwards.
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
class OfflineSandbox:
    """A place where a pool, or a Claude Code process, can run without the user's account.

    Attributes:
        api: the model, with its requests and their usage.
        environ: the whole environment of the processes.
        settings: the default settings, for the sandbox's project.
    """

    api: LoopbackAPI
    environ: Mapping[str, str]
    settings: Settings


@asynccontextmanager
async def offline_sandbox(
    cli: Path, files: Mapping[str, str], script: Script
) -> AsyncIterator[OfflineSandbox]:
    """Create a sandbox, and remove it at the end.

    Args:
        cli: the Claude Code binary that its pools use.
        files: the texts of the project's files, by path in the project.
        script: the model.
    """
    with tempfile.TemporaryDirectory(prefix="agent-pool-") as folder:
        root = Path(folder)
        _write_files(root, files)
        async with LoopbackAPI(script) as api:
            environ = _environment(root, cli, api)
            settings = load_settings(environ, project_dir=root / "project")
            yield OfflineSandbox(api, environ, settings)


def _write_files(root: Path, files: Mapping[str, str]) -> None:
    for name in ("home", "tmp", "project"):
        (root / name).mkdir()
    for name, text in files.items():
        path = root / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _environment(root: Path, cli: Path, api: LoopbackAPI) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(root / "home"),
        "CLAUDE_CONFIG_DIR": str(root / "home" / ".claude"),
        "TMPDIR": str(root / "tmp"),
        "CLAUDE_CODE_TMPDIR": str(root / "tmp"),
        "CLAUDE_CLI": str(cli),
        # The CLI refuses to bypass permissions for root without it. Here the model is scripted, so
        # it cannot do harm.
        "IS_SANDBOX": "1",
        "AGENT_POOL_DAEMON": "off",  # it must leave no process, and its home folder is temporary
        **api.env,
    }
