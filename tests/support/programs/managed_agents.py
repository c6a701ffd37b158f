"""Compare agents under an administrator's files; runs in a process with a private /etc.

    python managed_agents.py FOLDER

FOLDER is an empty folder for the project and the home. The result is JSON on stdout: for the CLI
itself and for the pool's catalog the model and the body of each agent, or the word `refused`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agent_pool.agents import Agent, Catalog
from agent_pool.loopback import LoopbackAPI, ModelRequest
from agent_pool.settings import MANAGED_FOLDER, Settings
from support.model_scripts import echo_task, tool
from support.stream_json_cli import stream_json_cli

DROP_INS = MANAGED_FOLDER / "managed-settings.d"
NAMES = ["both", "deep", "named", "first", "second", "third", "hidden", "other", "below"]


def denying(name: str, model: str = "", rule: str = "Agent") -> str:
    variables = {"CLAUDE_CODE_SUBAGENT_MODEL": model} if model else {}
    return json.dumps({"permissions": {"deny": [f"{rule}({name})"]}, "env": variables})


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def write_all(project: Path, home: Path) -> None:
    """Write the files of the administrator, of the user and of the project."""
    managed = MANAGED_FOLDER / ".claude" / "agents"
    places = {"ADMIN": managed, "USER": home / "agents", "PROJECT": project / ".claude" / "agents"}
    for body, folder in places.items():
        write(folder / "both.md", f"---\nname: both\ndescription: d\n---\n{body}\n")
    write(managed / "sub" / "deep.md", "---\nname: deep\ndescription: d\n---\nADMIN\n")
    for name in NAMES[2:]:
        model = "model: sonnet\n" if name == "named" else ""
        text = f"---\nname: {name}\ndescription: d\n{model}---\nPROJECT\n"
        write(places["PROJECT"] / f"{name}.md", text)
    write(MANAGED_FOLDER / "managed-settings.json", denying("first", "sonnet"))
    write(DROP_INS / "10-a.json", denying("second", "haiku"))
    write(DROP_INS / "20-b.json", denying("third", rule="Task"))
    write(DROP_INS / ".hidden.json", denying("hidden", "opus"))
    write(DROP_INS / "other.JSON", denying("other", "opus"))
    write(DROP_INS / "sub" / "below.json", denying("below", "opus"))
    write(project / ".claude" / "settings.json", denying("none", "opus"))


async def ask_the_cli(project: Path, home: Path) -> dict[str, Any]:
    """Let one process of the CLI start each agent; return what the model was asked."""
    found: dict[str, Any] = dict.fromkeys(NAMES, "refused")

    def answer(request: ModelRequest) -> Any:
        if request.tool_results:
            return echo_task(request)
        word, name, *_ = request.last_user_text.split()
        if word == "start":
            return tool("Agent", description="d", prompt=f"work {name} ", subagent_type=name)
        body = next(one for one in ("ADMIN", "USER", "PROJECT") if one in request.system_text)
        found[name] = [request.model.split("-")[1], body]
        return "done"

    async with (
        LoopbackAPI(answer) as api,
        stream_json_cli(
            project,
            api.url,
            HOME=str(home.parent),
            CLAUDE_CONFIG_DIR=str(home),
            CLAUDE_CODE_DISABLE_BACKGROUND_TASKS="1",
            CLAUDE_CODE_SUBAGENT_MODEL="opus",
        ) as cli,
    ):
        await cli.initialize()
        for name in NAMES:
            await cli.prompt(f"start {name}")
    return found


def ask_the_catalog(project: Path, home: Path) -> dict[str, Any]:
    environ = {"HOME": str(home.parent), "CLAUDE_CONFIG_DIR": str(home)}
    catalog = Catalog(Settings(project_dir=project), environ)
    return {
        one.name: [one.model, one.prompt] if isinstance(one, Agent) else "refused"
        for one in catalog.scan()
    }


def main() -> None:
    """Write the files, ask both, and print what they found."""
    folder = Path(sys.argv[1])
    project, home = folder / "project", folder / "home" / ".claude"
    write_all(project, home)
    native = asyncio.run(ask_the_cli(project, home))
    sys.stdout.write(json.dumps({"native": native, "pool": ask_the_catalog(project, home)}))


if __name__ == "__main__":
    main()
