"""Definitions with slips load in the pool as they do in the CLI itself, with the same meaning."""

from __future__ import annotations

from pathlib import Path

from agent_pool.agents import Agent, Catalog
from agent_pool.loopback import LoopbackAPI
from agent_pool.settings import Settings
from support.model_scripts import echo_task
from support.stream_json_cli import of_type, stream_json_cli
from support.waiting import run

FIELDS = {
    "plain": "tools: Read",
    "twice": "tools: Read\ntools: Read, Write",
    "no-tools": "tools:",
    "tilde": "tools: ~",
    "empty-text": "tools: ''",
    "empty-list": "tools: []",
    "impossible": "tools: Read, edit/files, shelf:find",
    "tabbed": "tools:\n  - Read",
    "colours": "color: [blue]",
    "effort": "effort: extreme",
    "isolation": "isolation: none",
    "memory": "memory: true",
    "turns": "maxTurns: lots",
    "back": "background: maybe",
    "model": "model: 7",
    "omit": "omitClaudeMd: sure",
    "experimental": "experimental: x",
    "initial": "initialPrompt: 7",
    "hooks-text": "hooks: x",
    "hooks-shape": "hooks:\n  PreToolUse: x",
    "colon": "description: Use this when: you must",
}
"""Each definition: its name and its fields."""
REFUSED = {"hooks-text", "hooks-shape"}
WITHOUT_TOOLS = {"no-tools", "tilde", "empty-text", "empty-list"}
FILES = {
    "dashes": b"---\nname: dashes\ndescription: d\n-------\nBODY dashes\n",
    "tail": b"---\nname: tail\ndescription: d\n--- x\nBODY tail\n",
    "close": b"---\nname: close\ndescription: d\n---BODY close\n",
    "latin": b"---\nname: latin\ndescription: caf\xe9\n---\nBODY caf\xe9\n",
}
"""Each definition: its name and its whole file."""


def write_definitions(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / f"{name}.md").write_bytes(content)
    for name, fields in FIELDS.items():
        head = (
            f"name: {name}\ndescription: d\n" if "description" not in fields else f"name: {name}\n"
        )
        (folder / f"{name}.md").write_text(f"---\n{head}{fields}\n---\nBODY {name}\n")


def test_definitions_with_slips_mean_the_same_as_in_the_cli(tmp_path: Path) -> None:
    write_definitions(tmp_path / ".claude" / "agents")
    catalog = Catalog(Settings(project_dir=tmp_path), {"HOME": str(tmp_path / "home")})
    ours = {one.name: one for one in catalog.scan() if isinstance(one, Agent)}

    async def main() -> None:
        async with LoopbackAPI(echo_task) as api, stream_json_cli(tmp_path, api.url) as cli:
            await cli.initialize()
            stamp, frames = await cli.prompt("which agents are there?")
            (init,) = of_type(frames, "system", "init")
            loaded = {name for name in init["agents"] if name in FIELDS or name in FILES}
            assert loaded == {*FIELDS, *FILES} - REFUSED == set(ours)
            for name in sorted(loaded):
                # The system prompt of a conversation that has begun does not change any more.
                await cli.control(subtype="rewind_conversation", target_message_uuid=stamp)
                answer = await cli.control(subtype="apply_flag_settings", settings={"agent": name})
                assert answer["subtype"] == "success"
                before = len(api.requests)
                stamp, _ = await cli.prompt("hello")
                request = api.requests[before]
                assert request.body["system"][-1]["text"] == ours[name].prompt
                assert (not request.tools) == (name in WITHOUT_TOOLS) == (ours[name].tools == ())

    run(main())
