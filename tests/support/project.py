"""A temporary project: agents, a home folder, an environment, and the processes started in it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import psutil

from support.environment import MARK, cli_environment
from support.process_checks import is_alive, processes_with
from support.waiting import WAIT_TIMEOUT, wait_until


class TempProject:
    """A project folder with agents, and a home folder of its own.

    Attributes:
        root: the project's folder.
        home: the home folder; the CLI's configuration folder is `.claude` in it.
        mark: the value of the variable `MARK` in the environment of this project's processes.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.home = folder / "home"
        self.mark = uuid.uuid4().hex
        (self.root / ".claude" / "agents").mkdir(parents=True)
        self.home.mkdir()

    def agent(self, name: str, body: str = "You test.", **fields: str) -> Path:
        """Define an agent; return its file."""
        path = self.root / ".claude" / "agents" / f"{name}.md"
        lines = [f"{key}: {value}" for key, value in {"name": name, **fields}.items()]
        path.write_text("---\n" + "\n".join(lines) + f"\n---\n{body}\n", encoding="utf-8")
        return path

    def trust(self, folder: Path | None = None, accepted: bool = True) -> None:
        """Let Claude Code remember whether its user trusts a folder, by default the project."""
        path = self.home / ".claude" / ".claude.json"
        path.parent.mkdir(exist_ok=True)
        state = json.loads(path.read_text()) if path.exists() else {}
        entry = state.setdefault("projects", {}).setdefault(
            str((folder or self.root).resolve()), {}
        )
        entry["hasTrustDialogAccepted"] = accepted
        entry.setdefault("allowedTools", [])  # without it 2.0.0 ends at its start
        path.write_text(json.dumps(state))

    def environment(self, url: str, **more: str) -> dict[str, str]:
        """Build the environment of a pool that works in this project with the API at `url`."""
        given = {"CLAUDE_PROJECT_DIR": str(self.root), MARK: self.mark, **more}
        return cli_environment(self.home, url, **given)

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that carry this project's mark."""
        return processes_with(MARK, self.mark)

    async def wait_until_gone(
        self, processes: list[psutil.Process], within: float = WAIT_TIMEOUT
    ) -> None:
        """Wait until these processes, and all that carry this project's mark, have ended."""
        await wait_until(
            lambda: not any(is_alive(p.pid) for p in processes) and not self.processes(), within
        )


def file_contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its path in that folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
