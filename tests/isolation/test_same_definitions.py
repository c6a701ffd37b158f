"""The CLI itself and the pool's catalog read the same definitions in projects of three shapes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agent_pool.agents import Agent, Catalog
from agent_pool.loopback import LoopbackAPI
from agent_pool.settings import Settings
from support.model_scripts import echo_task, tool
from support.stream_json_cli import of_type, stream_json_cli
from support.waiting import run

BUILT_IN = {
    *("claude", "claude-code-guide", "Explore", "fork", "general-purpose", "Plan"),
    "statusline-setup",
}
FIELDS = {
    "plain": "",
    "t-comma": "tools: Read, Grep",
    "t-blank": "tools: Read Grep",
    "t-list": "tools: [Read, Grep]",
    "t-block": "tools:\n  - Read\n  - Glob",
    "t-tab": "tools:\n\t- Read",
    "t-twice": "tools: Read\ntools: Read, Write",
    "t-none": "tools:",
    "t-empty": "tools: ''",
    "t-brackets": "tools: []",
    "t-number": "tools: 7",
    "t-true": "tools: true",
    "t-mixed": "tools: [Read, 7]",
    "t-mapping": "tools: {a: b}",
    "t-star": "tools: '*'",
    "t-case": "tools: Read, bash",
    "t-strange": "tools: Read, edit/files, shelf:find",
    "t-quoted": 'tools: "Read, Write"',
    "m-alias": "model: sonnet",
    "m-inherit": "model: inherit",
    "m-number": "model: 7",
    "m-id": "model: claude-haiku-4-5",
    "m-quoted": "model: 'opus'",
    "m-null": "model:",
    "e-low": "effort: low",
    "e-high": "effort: HIGH",
    "e-wrong": "effort: extreme",
    "e-list": "effort: [low]",
    "h-unknown": "hooks:\n  pre: echo up",
    "h-other": "hooks:\n  Stop: x",
    "h-empty": "hooks: {}",
    "h-null": "hooks:",
    "h-text": "hooks: x",
    "h-list": "hooks: []",
    "h-strict": "hooks:\n  PreToolUse: x",
    "h-permission": "hooks: {PermissionRequest: x}",
    "h-untyped": "hooks: {PreToolUse: [{hooks: [{command: x}]}]}",
    "h-no-list": "hooks: {PreToolUse: [{matcher: x}]}",
    "h-none-in-it": "hooks: {PreToolUse: []}",
    "s-missing": "skills: nowhere",
    "s-number": "skills: 7",
    "x-colour": "color: [blue]",
    "x-memory": "memory: true",
    "x-turns": "maxTurns: lots",
    "x-isolation": "isolation: none",
    "x-background": "background: maybe",
    "x-omit": "omitClaudeMd: sure",
    "x-initial": "initialPrompt: 7",
    "x-unknown": "no-such-key: {a: [1]}",
    "y-colon": "note: Use this when: you must",
    "y-hash": "note: a # b",
    "y-anchor": "note: &a x\nother: *a",
}
"""Each definition: its name and its fields."""
NAMES = {
    "slash": "Roads/Rails Planner",
    "dots": "../x",
    "back": "a\\b",
    "colon": "a:b",
    "dash": "-a",
    "number": "12",
    "bool": "true",
    "null": "",
    "date": "2020-01-01",
    "quoted": "'  spaced  '",
    "inner": "  trimmed  ",
    "long": "n" * 256,
    "too-long": "n" * 257,
    "umlaut": "Prüfer",
    "comma": "a,b",
    "twice\nname: second": "first",
}
"""Each definition: its file and the value of `name`."""
FILES: dict[str, bytes] = {
    "dashes.md": b"---\nname: dashes\ndescription: d\n-------\nBODY\n",
    "tail.md": b"---\nname: tail\ndescription: d\n--- x\nBODY\n",
    "latin.md": b"---\nname: latin\ndescription: caf\xe9\n---\nBODY caf\xe9\n",
    "mark.md": b"\xef\xbb\xbf---\r\nname: mark\r\ndescription: d\r\n---\r\nBODY\r\n",
    "UP.MD": b"---\nname: up\ndescription: d\n---\nBODY\n",
    ".hidden.md": b"---\nname: hidden\ndescription: d\n---\nBODY\n",
    "folder.md/in.md": b"---\nname: in\ndescription: d\n---\nBODY\n",
    "tester.md": b"---\nname: qa\ndescription: d\n---\nBODY qa\n",
    "x.md": b"---\nname: tester\ndescription: d\n---\nBODY tester\n",
    "refused.md": b"---\nname: both\ndescription: d\nhooks: x\n---\nBODY refused\n",
}
CLASHES = [("B", "a"), ("a-b", "a/x"), ("a/x", "a0"), ("Z", "é"), ("_", "a"), ("😀", "￮")]


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def definition(name: str, body: str, fields: str = "") -> str:
    return f"---\nname: {name}\ndescription: d\n{fields}\n---\n{body}\n"


def write_definitions(agents: Path, elsewhere: Path) -> None:
    """Write all definitions into a folder; some are links to another one."""
    for name, fields in FIELDS.items():
        write(agents / f"{name}.md", definition(name, f"BODY {name}", fields))
    for file, name in NAMES.items():
        stem = file.partition("\n")[0]
        more = file.partition("\n")[2]
        write(agents / f"n-{stem}.md", definition(name, f"BODY n-{stem}", more))
    for file, content in FILES.items():
        write(agents / file, content)
    for number, clash in enumerate(CLASHES):
        for stem in clash:
            write(agents / f"c{number}/{stem}.md", definition(f"clash{number}", f"BODY {stem}"))
    write(elsewhere / "one.md", definition("linked-file", "BODY linked"))
    write(elsewhere / "more" / "two.md", definition("linked-folder", "BODY linked folder"))
    (agents / "link.md").symlink_to(elsewhere / "one.md")
    (agents / "links").symlink_to(elsewhere / "more")
    (agents / "circle").symlink_to(agents)
    (agents / "gone.md").symlink_to(agents / "nothing")
    (agents / "self.md").symlink_to(agents / "self.md")


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=n@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def lay_out(root: Path, shape: str) -> Path:
    """Build a project of a shape; return the folder in which the work is done."""
    folders = {
        "top": root / "top",
        "work": root / "top" / "work",
        "sub": root / "top" / "work" / "sub",
        "user": root / "home",
    }
    for place, folder in folders.items():
        agents = folder / ".claude" / "agents"
        write(agents / "e.md", definition("everywhere", f"BODY {place}"))
        write(agents / f"{place}.md", definition(f"only-{place}", f"BODY {place}"))
    write(root / "home/.claude/agents/both.md", definition("both", "BODY of the user"))
    chosen = folders["sub" if shape != "worktree" else "work"]
    write_definitions(chosen / ".claude" / "agents", root / "elsewhere")
    if shape == "plain":
        return folders["sub"]
    git(folders["work"], "init")
    if shape == "repository":
        return folders["sub"]
    write(folders["work"] / "deep" / "file", "x")
    git(folders["work"], "add", "deep")
    git(folders["work"], "commit", "-m", "x")
    git(folders["work"], "worktree", "add", str(root / "top" / "tree"))
    return root / "top" / "tree" / "deep"


def environment(root: Path) -> dict[str, str]:
    home = root / "home"
    return {"HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude")}


class NativeRun:
    """One process of the CLI that makes itself one agent after another, as the Agent tool does.

    Attributes:
        loaded: the names of the agents that it has loaded.
        requests: the first request of each agent, by name; missing if it was refused.
    """

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.requests: dict[str, Any] = {}
        self._asked = ""

    def answer(self, request: Any) -> Any:
        """Call the agent that is asked for; keep the request that it makes."""
        if "SUBTASK" in request.last_user_text and not request.tool_results:
            self.requests[self._asked] = request
            return "done"
        if request.tool_results or not self._asked:
            return echo_task(request)
        return tool("Agent", description="d", prompt="SUBTASK", subagent_type=self._asked)

    async def ask(self, folder: Path, root: Path, names: Iterable[str]) -> None:
        """Run the agents of these names."""
        home = root / "home"
        async with (
            LoopbackAPI(self.answer) as api,
            stream_json_cli(
                folder,
                api.url,
                HOME=str(home),
                CLAUDE_CONFIG_DIR=str(home / ".claude"),
                CLAUDE_CODE_DISABLE_BACKGROUND_TASKS="1",
            ) as cli,
        ):
            await cli.initialize()
            _, frames = await cli.prompt("which agents are there?")
            (init,) = of_type(frames, "system", "init")
            self.loaded = set(init["agents"]) - BUILT_IN
            for self._asked in names:
                await cli.prompt("go")


@pytest.mark.parametrize("shape", ["plain", "repository", "worktree"])
def test_the_catalog_reads_every_definition_as_the_cli_does(shape: str, tmp_path: Path) -> None:
    folder = lay_out(tmp_path, shape)
    catalog = Catalog(Settings(project_dir=folder), environment(tmp_path))
    ours = {one.name: one for one in catalog.scan() if isinstance(one, Agent)}
    native = NativeRun()
    # What a file means does not depend on its place, so one shape is enough for most of them.
    asked = [name for name in sorted(ours) if shape == "plain" or name not in FIELDS]
    run(native.ask(folder, tmp_path, ["plain", *asked]))
    # The pool gives a file without a name that of the file (`n-null`); the CLI skips it.
    assert native.loaded == set(ours) - {"n-null"}
    for name in native.loaded.intersection(asked):
        request, agent = native.requests[name], ours[name]
        text = request.body["system"][-1]["text"]
        assert text.startswith(agent.prompt), name
        if agent.tools is not None:
            expected = {tool for tool in agent.tools if tool[0].isupper()}
            assert set(request.tools) == expected, name
        if agent.model is not None:
            assert agent.model.removeprefix("claude-") in request.model, name
        else:
            assert request.model == native.requests["plain"].model, name
        effort = request.body.get("output_config", {}).get("effort")
        default = native.requests["plain"].body.get("output_config", {}).get("effort")
        if agent.model is None:  # other models have other defaults
            assert effort == (agent.effort or default), name
