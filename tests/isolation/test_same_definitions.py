"""The CLI itself and the pool read the same definitions, and make the same requests of them.

The projects have three shapes: plain, subfolder of a repository, linked worktree.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from agent_pool.agents import Agent, Catalog
from agent_pool.loopback import LoopbackAPI, ModelRequest
from agent_pool.settings import Settings
from support.model_scripts import echo_task, tool
from support.pool_harness import PoolHarness
from support.stream_json_cli import StreamJsonCLI, of_type, stream_json_cli
from support.waiting import run

pytestmark = pytest.mark.long

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
CUT: dict[str, bytes] = {
    "mid": b"---\nname: mid\ndescription: one --- two\ntools: Read\n---\nBODY\n",
    "inside": b"---\nname: inside\ndescription: d\nnote: a---b\ntools: Read\n---\nBODY\n",
    "comment": b"---\nname: comment\ndescription: d\n# -----\ntools: Read\n---\nBODY\n",
    "block": b"---\nname: block\ndescription: |\n  a\n  ---\n  b\ntools: Read\n---\nBODY\n",
    "quoted": b'---\nname: quoted\ndescription: "one --- two"\ntools: Read\n---\nBODY\n',
    "crlf": b"---\r\nname: crlf\r\ndescription: d --- e\r\n---\r\nBODY \r\nmore\r\n",
    "cr": b"---\rname: cr\rdescription: d\r---\rBODY\r",
    "space": "---\xa0\f\n\nname: space\ndescription: d\n---\nBODY\t\n\u200bx\ufeff\n".encode(),
    "bare": "---\nname: bare\ndescription: d\n---\n\x85BODY\x1c\n".encode(),
}
"""Files whose frontmatter ends inside a line, or that have odd white space."""
SHAPES = ("plain", "repository", "worktree")
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
    for file, content in (FILES | {f"cut/{name}.md": text for name, text in CUT.items()}).items():
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


def lay_out(root: Path, shape: str, home: Path | None = None) -> Path:
    """Build a project of a shape; return the folder in which the work is done."""
    folders = {
        "top": root / "top",
        "work": root / "top" / "work",
        "sub": root / "top" / "work" / "sub",
        "user": home or root / "home",
    }
    for place, folder in folders.items():
        agents = folder / ".claude" / "agents"
        write(agents / "e.md", definition("everywhere", f"BODY {place}"))
        write(agents / f"{place}.md", definition(f"only-{place}", f"BODY {place}"))
    write(folders["user"] / ".claude/agents/both.md", definition("both", "BODY of the user"))
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


@pytest.mark.parametrize("shape", SHAPES)
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


# Whole requests

COMPARED = {
    "unlisted": "",
    "shell": "tools: Bash, Grep, Glob, Read",
    "leader": "tools: Agent, Read",
    "quick": "tools: Read\nmodel: haiku",
    "blank": "tools: []",
}
"""Definitions whose requests are compared; the one without a list of tools is the first."""
MAIN_AGENT_STYLE_LANGUAGE = {"agent": "main", "outputStyle": "Mine", "language": "german"}
KEPT_OUT = {"ListAgents", "ReportFindings", "ScheduleWakeup", "Skill", "Workflow"}
"""Tools that the pool keeps from agents which do not name them. Claude Code sends them at once."""
KEPT_OUT_LATER = {
    *("AskUserQuestion", "CronCreate", "CronDelete", "CronList", "EnterPlanMode", "EnterWorktree"),
    *("ExitPlanMode", "ExitWorktree", "Monitor", "ProposeGoal", "PushNotification"),
    *("RemoteTrigger", "RunWorkflow", "SendMessage", "SetGoal", "TeamCreate", "TeamDelete"),
}
"""Others of them, which it only announces, or has elsewhere."""
WITHOUT_KEPT_OUT = f"--disallowedTools={','.join(sorted(KEPT_OUT | KEPT_OUT_LATER))}"


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    """Open a pool for projects whose user has an agent and an output style; it has had a task."""
    harness = open_harness(
        environ={"CLAUDE_CODE_ATTRIBUTION_HEADER": "0"}, max_workers=2, attribution=False
    )
    user = harness.project.home / ".claude"
    write(user / "agents/main.md", definition("main", "MAIN", "tools: Bash, Write\nmodel: haiku"))
    write(user / "output-styles/mine.md", definition("Mine", "Write in my style."))
    for name, fields in COMPARED.items():
        write(user / f"agents/{name}.md", definition(name, f"You are {name}.", fields))
    # From the second task on the pool knows that this CLI takes prompts as they are written.
    harness.run(harness.ask(harness.plan()))
    harness.run(harness.wait_until_idle())
    return harness


def native_cli(
    harness: PoolHarness, folder: Path, url: str, *flags: str
) -> AbstractAsyncContextManager[StreamJsonCLI]:
    """Start a CLI without a pool, for the same user."""
    home = harness.project.home
    return stream_json_cli(
        folder,
        url,
        *flags,
        HOME=str(home),
        CLAUDE_CONFIG_DIR=str(home / ".claude"),
        CLAUDE_CODE_ATTRIBUTION_HEADER="0",
        CLAUDE_CODE_DISABLE_BACKGROUND_TASKS="1",
    )


async def started_natively(
    harness: PoolHarness, folder: Path, tasks: dict[str, str], *flags: str
) -> dict[str, ModelRequest]:
    """Give each agent its task in a new process of `claude -p --agent`; return its request."""
    two = asyncio.Semaphore(2)

    async def start(api: LoopbackAPI, name: str, task: str) -> None:
        options = ("--agent", name, *flags)
        async with two, native_cli(harness, folder, api.url, *options) as cli:
            await cli.initialize()
            await cli.prompt(task, client_composed=True)

    async with LoopbackAPI(echo_task) as api:
        await asyncio.gather(*(start(api, name, task) for name, task in tasks.items()))
        asked = {request.last_user_text: request for request in api.requests}
        return {name: asked[task] for name, task in tasks.items()}


def body(request: ModelRequest) -> dict[str, Any]:
    """Return a request without what names its process."""
    return {key: value for key, value in request.body.items() if key != "metadata"}


def body_without_messages(request: ModelRequest) -> dict[str, Any]:
    return {**body(request), "messages": None}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pool_sends_the_request_of_claude_itself_in_each_project(
    harness: PoolHarness, shape: str, tmp_path: Path
) -> None:
    folder = lay_out(tmp_path, shape, harness.project.home)
    write(folder / ".claude" / "settings.json", json.dumps(MAIN_AGENT_STYLE_LANGUAGE))
    tasks = {name: harness.plan("done") for name in [*COMPARED, "everywhere"]}

    async def main() -> None:
        native = await started_natively(harness, folder, tasks, WITHOUT_KEPT_OUT)
        pids: set[int] = set()
        for name, task in tasks.items():
            outcome = await harness.ask(task, name, project=str(folder))
            (ours,) = outcome.requests
            assert body_without_messages(ours) == body_without_messages(native[name]), name
            if not pids:  # later ones begin with the note of the CLI about `/clear`
                assert body(ours) == body(native[name])
            pids.add(outcome.pid)
        assert len(pids) == 1

    harness.run(main())


async def switched_natively(
    harness: PoolHarness, folder: Path, tasks: dict[str, str]
) -> dict[str, ModelRequest]:
    """Give the tasks to one process of the CLI that becomes each agent, cleared between them."""
    asked = {}
    async with (
        LoopbackAPI(echo_task) as api,
        native_cli(harness, folder, api.url, WITHOUT_KEPT_OUT) as cli,
    ):
        await cli.initialize()
        for name, task in tasks.items():
            await cli.control(subtype="apply_flag_settings", settings={"agent": name})
            await cli.prompt(task, client_composed=True)
            asked[name] = api.requests[-1]
            await cli.prompt("/clear")
    return asked


def test_tools_models_and_prompts_are_sent_as_claude_sends_them(
    harness: PoolHarness, tmp_path: Path
) -> None:
    folder = lay_out(tmp_path, "plain", harness.project.home)
    # Tools and models, odd files and names. The field `effort` counts for sub-agents only, so the
    # CLI's request has no trace of it; the other fields are not in a request.
    chosen = [name for name in FIELDS if name.startswith(("t-", "m-"))]
    odd = ["dashes", "tail", "latin", "mark", "in", "Roads/Rails Planner", "../x", "Prüfer"]
    odd += [name for name in CUT if name not in ("quoted", "cr")]
    # The first model of a process decides about a line in the description of its Bash.
    tasks = {name: harness.plan("done") for name in ["plain", *chosen, *odd]}

    async def main() -> None:
        native = await switched_natively(harness, folder, tasks)
        for name, task in tasks.items():
            (ours,) = (await harness.ask(task, name, project=str(folder))).requests
            assert body_without_messages(ours) == body_without_messages(native[name]), name

    harness.run(main())


def test_the_pool_keeps_only_the_documented_tools_from_an_agent(
    harness: PoolHarness, tmp_path: Path
) -> None:
    tasks = {"unlisted": harness.plan("done")}

    async def main() -> None:
        native = await started_natively(harness, harness.project.root, tasks)
        (ours,) = (await harness.ask(tasks["unlisted"], "unlisted")).requests
        assert set(native["unlisted"].tools) - set(ours.tools) == KEPT_OUT
        assert not set(ours.tools) - set(native["unlisted"].tools)

    harness.run(main())
