"""The code blocks of the pages in `docs/`, so that tests can run them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.daemons import DaemonProject

ROOT = Path(__file__).parents[2]
STEP = "## step "
SHELL_SECONDS = 100
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: the word after the fence.
        code: the lines within.
        mark: the comment on the line before the fence; empty without one.
    """

    language: str
    code: str
    mark: str


def read_blocks(page: str, *languages: str) -> list[Block]:
    """Return the blocks in these languages of a page of `docs/`, in their order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = [Block(m["language"], m["code"], m["mark"] or "") for m in _BLOCK.finditer(text)]
    return [block for block in found if block.language in languages]


def shell_environment(project: DaemonProject, url: str) -> dict[str, str]:
    """Build the environment of a person's shell: it names no project, and no browser opens."""
    environ = project.daemon_environment(url, BROWSER="true")
    del environ["CLAUDE_PROJECT_DIR"]
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    return environ


def run_page(
    codes: list[str], folder: Path, environ: dict[str, str], seconds: float = SHELL_SECONDS
) -> list[str]:
    """Run blocks of a page in one shell; return what each printed, stderr included."""
    script = "set -eu\n" + "".join(f"echo '{STEP}'\n{code}" for code in codes)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.split(f"{STEP}\n")[1:]
