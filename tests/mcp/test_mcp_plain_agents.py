"""The agents as they are read for the first list of tools, compared with those of the pool."""

import asyncio
import os
from pathlib import Path

import pytest

from agent_pool import AgentPool
from agent_pool.mcp.agent_list import AgentNames
from agent_pool.mcp.plain_agents import read_plain_agents
from agent_pool.mcp.tools import _names_of
from support.environment import UNREACHABLE_URL
from support.project import TempProject


def pool_agents(environ: dict[str, str]) -> AgentNames:
    found = _names_of(asyncio.run(AgentPool(environ=environ).agents()))
    assert isinstance(found, AgentNames)
    return found


def define(folder: Path, *texts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number}.md").write_text(text, encoding="utf-8")


PLAIN = [
    "---\nname: a\ndescription: Says a: b, and c.\ntools: Read\n---\nYou.",
    "---\nname: a\ndescription: The second of this name wins.\n---\n",
    "---\nname: 'c'\ndescription: \"Quoted text.\"\nskills:\n  - x\n---\n",
    "no frontmatter",
    "\ufeff---\r\nname: d\r\ndescription: ünïcode … \r\n---\r\n",
]


def test_plain_agents_are_read_as_the_pool_reads_them(project: TempProject) -> None:
    environ = project.environment(UNREACHABLE_URL)
    define(project.root / ".claude/agents", *[text for text in PLAIN if "skills" not in text])
    define(project.home / ".claude/agents", PLAIN[1], "---\nname: e\ndescription: E.\n---\n")
    found = read_plain_agents(environ, None)
    assert found is not None
    assert [name for name, _ in found.usable] == ["a", "d", "e"]
    assert found == pool_agents(environ)
    other = project.home / "other"
    define(other / ".claude/agents", PLAIN[2].replace("skills:\n  - x\n", ""))
    (other / ".git").mkdir()
    assert read_plain_agents(environ, str(other)) == pool_agents(
        environ | {"CLAUDE_PROJECT_DIR": str(other)}
    )


@pytest.mark.parametrize(
    "text",
    [
        "---\nname: a\ndescription: |\n  Two\n  lines.\n---\n",
        "---\nname: a\ndescription: >-\n---\n",
        "---\nname: a\ndescription: Begins here\n  and ends here.\n---\n",
        '---\nname: a\ndescription: "With \\n in it."\n---\n',
        "---\nname: a\ndescription: 'It''s.'\n---\n",
        "---\nname: a\ndescription: Text # a comment\n---\n",
        "---\nname: a\ndescription: &x Text\n---\n",
        "---\nname: a\n---\n",
        "---\ndescription: No name.\n---\n",
        "---\nname: a\nname: b\ndescription: Twice.\n---\n",
        "---\nname: a\ndescription: No end.\n",
    ],
)
def test_file_that_is_not_plain_is_left_to_the_pool(project: TempProject, text: str) -> None:
    define(project.root / ".claude/agents", text)
    assert read_plain_agents(project.environment(UNREACHABLE_URL), None) is None


def test_settings_that_name_other_folders_are_left_to_the_pool(project: TempProject) -> None:
    environ = project.environment(UNREACHABLE_URL)
    settings = project.home / "settings.toml"
    settings.write_text("max_size = 3\n")
    assert read_plain_agents(environ | {"AGENT_POOL_CONFIG": str(settings)}, None) is not None
    settings.write_text(f"agents_dir = '{os.fspath(project.home)}'\n")
    assert read_plain_agents(environ | {"AGENT_POOL_CONFIG": str(settings)}, None) is None
