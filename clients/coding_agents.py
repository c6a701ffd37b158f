"""Coding agents in the terminal: their model is offline and lets them call the tools."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from clients.dialog import TASK, Conversation, ToolCall, prompt_for
from clients.environments import Environment, Packages
from clients.libraries import server_of
from clients.openai_model import OpenAIModel
from clients.outcomes import ClientRun
from clients.site import AGENT, LONG, Site

RUN_TIMEOUT: Final = 120.0
CANCEL_TIMEOUT: Final = 30.0
ENDED_TIMEOUT: Final = 8.0
TOOLS: Final = {
    "invoke",
    "invoke_many",
    "result",
    "agents",
    "read_answer",
    "list",
    "stats",
    "reset",
}


def task(text: str, **more: Any) -> ToolCall:
    """Return a call of `invoke`."""
    return ToolCall("invoke", {"agent": AGENT, "task": text, **more})


NEEDED: Final = {"invoke", "invoke_many", "result"}
MANY: Final = {"tasks": [{"agent": AGENT, "task": text} for text in ("echo apple", "echo pear")]}
ALL_CHECKS: Final = prompt_for(
    [task("echo quince")],
    [ToolCall("invoke_many", MANY)],
    [task("together pair 1"), task("together pair 2")],
    [task("steps")],
    [task("slow")],
    [task("long")],
    [task("echo later", background=True)],
    [ToolCall("result", {"id": TASK, "wait_seconds": 20})],
)
"""One session that makes all checks but the last."""
HOLD: Final = prompt_for([task("hold me")])


@dataclass
class Session:
    """One run of a coding agent, ready to be started.

    Attributes:
        command: its program and arguments.
        env: its whole environment.
        cwd: its working directory.
    """

    command: list[str]
    env: dict[str, str]
    cwd: Path


@dataclass
class Seen:
    """What the model of a client has seen by the end of a session.

    Attributes:
        tools: the tools that it could call.
        texts: the results of tools, and what came later in their place.
        screen: what the client printed.
    """

    tools: tuple[str, ...] = ()
    texts: list[str] = field(default_factory=list)
    screen: str = ""

    def has(self, *words: str) -> bool:
        """Check whether every word is in a text."""
        whole = "\n".join(self.texts)
        return all(word in whole for word in words)


class CodingAgent(ABC):
    """A coding agent that runs one prompt and ends.

    Attributes:
        name: its name.
        version: as in `packages`.
        packages: its environment.
    """

    name: str
    version: str
    packages: Packages
    transports: tuple[str, ...] = ("stdio", "http")

    @abstractmethod
    def session(
        self, environment: Environment, home: Path, server: dict[str, Any], url: str, prompt: str
    ) -> Session:
        """Write the client's settings into its home folder, and return how to start it.

        Args:
            environment: where it is installed.
            home: its home folder.
            server: how it reaches agent-pool, see `server_of`.
            url: of its model.
            prompt: what the person types.
        """

    async def run(
        self, site: Site, url: str, transport: str, environment: Environment
    ) -> ClientRun:
        """Make all checks over one transport, in two sessions."""
        run = ClientRun(self.name, self.version, transport)
        site.new_record()
        model = OpenAIModel()
        await model.start()
        try:
            home = site.folder / "client"
            home.mkdir()
            server = server_of(site, url, transport)

            def session(prompt: str) -> Session:
                made = self.session(environment, home, server, model.url, prompt)
                made.cwd = site.root
                return made

            screen = await run_to_end(session(ALL_CHECKS))
            judge(run, see(model.seen, screen), site)
            run.servers = site.servers_started()
            run.add("cancel", *await interrupt(session(HOLD), site.folder))
            run.read_wire(site.wire())
        finally:
            await model.stop()
        return run


def see(seen: list[Conversation], screen: str) -> Seen:
    """Return what the longest conversation with the model has shown to it."""
    if not seen:
        return Seen(screen=screen)
    last = max(seen, key=lambda one: len(one.results))
    tools = max((one.tools for one in seen), key=len)
    return Seen(tools, list(last.results), screen)


def judge(run: ClientRun, seen: Seen, site: Site) -> None:
    """Note the outcome of every check of the first session."""
    short = [text for text in seen.texts if len(text) < 1000]
    run.add("listed", *_judge_list(seen.tools))
    run.add("invoked", seen.has("echo: echo quince"), short[0] if short else seen.screen[-300:])
    run.add("invoked_many", seen.has("echo: echo apple", "echo: echo pear"))
    met = "\n".join(seen.texts).count("together")
    run.add("side_by_side", met >= 2, f"{met} of 2 calls met the other")
    run.add("progress", *judge_progress(site, seen))
    run.add("slow", seen.has("slow but done"))
    longest = max((len(text) for text in seen.texts), default=0)
    run.add("long", longest >= LONG, f"{longest} characters")
    run.add("background", seen.has("echo: echo later"), short[-1] if short else "")


def _judge_list(tools: tuple[str, ...]) -> tuple[bool, str]:
    found = {name for name in TOOLS if any(re.search(rf"(^|[^a-z]){name}$", one) for one in tools)}
    return found >= NEEDED, f"{len(found)} tools" + ("" if found >= TOOLS else ", others deferred")


def judge_progress(site: Site, seen: Seen) -> tuple[bool | None, str]:
    """Return whether the person sees the lines of progress; None if the client asks for none."""
    sent = [m for side, m in site.wire() if m.get("method") == "notifications/progress"]
    if not sent:
        return None, "not asked for"
    if "Bash: sleep 1" in seen.screen:
        return True, f"{len(sent)} lines, shown"
    return False, f"{len(sent)} lines asked for, not shown"


async def run_to_end(session: Session) -> str:
    """Run a session; return what it printed."""
    process = await start(session)
    try:
        async with asyncio.timeout(RUN_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        await kill(process)
        return "it did not end"
    return output.decode(errors="replace")


async def interrupt(session: Session, folder: Path) -> tuple[bool, str]:
    """Press Ctrl+C while an agent works; return whether the agent was interrupted."""
    process = await start(session)
    try:
        if not await appears(folder / "held-me", CANCEL_TIMEOUT):
            return False, "the call did not begin"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it at Ctrl+C
        if not await appears(folder / "ended-me", ENDED_TIMEOUT):
            return False, "after Ctrl+C the agent goes on"
        return True, "Ctrl+C interrupts the agent"
    finally:
        await kill(process)


async def start(session: Session) -> asyncio.subprocess.Process:
    """Start a session in a process group of its own."""
    return await asyncio.create_subprocess_exec(
        *session.command,
        env=session.env,
        cwd=session.cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a session and its process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    await process.wait()


async def appears(path: Path, within: float) -> bool:
    """Wait for a file; return whether it came in time."""
    try:
        async with asyncio.timeout(within):
            while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240, PTH110 - made by a process
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False
    return True


def plain_environment(environment: Environment, home: Path, **more: str) -> dict[str, str]:
    """Return an environment without a variable of this machine but the PATH."""
    return {
        "HOME": str(home),
        "PATH": environment.path,
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        **more,
    }


class Codex(CodingAgent):
    """Codex CLI: `codex exec`, with the Responses API."""

    name = "Codex"
    version = "0.171.0"
    packages = Packages(npm=("@openai/codex@0.171.0",))

    def session(
        self, environment: Environment, home: Path, server: dict[str, Any], url: str, prompt: str
    ) -> Session:
        provider = {"name": "loopback", "base_url": f"{url}/v1", "wire_api": "responses"}
        if "url" in server:
            entry = {"url": server["url"], "http_headers": server["headers"]}
        else:
            entry = {key: server[key] for key in ("command", "args", "env")}
        lines = [
            'model = "loopback"',
            'model_provider = "loopback"',
            f"model_providers.loopback = {_toml({**provider, 'env_key': 'LOOPBACK_KEY'})}",
            f"mcp_servers.agent-pool = {_toml(entry)}",
        ]
        folder = home / ".codex"
        folder.mkdir(exist_ok=True)
        (folder / "config.toml").write_text("\n".join(lines))
        command = [environment.command("codex"), "exec", "--skip-git-repo-check"]
        return Session(
            [*command, "--dangerously-bypass-approvals-and-sandbox", prompt],
            plain_environment(environment, home, LOOPBACK_KEY="none"),
            home,
        )


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


class GeminiCli(CodingAgent):
    """Gemini CLI with a prompt as argument."""

    name = "Gemini CLI"
    version = "0.61.0"
    packages = Packages(npm=("@google/gemini-cli@0.61.0",))

    def session(
        self, environment: Environment, home: Path, server: dict[str, Any], url: str, prompt: str
    ) -> Session:
        if "url" in server:
            entry = {"httpUrl": server["url"], "headers": server["headers"]}
        else:
            entry = {key: server[key] for key in ("command", "args", "env", "cwd")}
        settings = {
            "mcpServers": {"agent-pool": {**entry, "trust": True}},
            "security": {
                "auth": {"selectedType": "gemini-api-key"},
                "folderTrust": {"enabled": False},
            },
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"disableAutoUpdate": True},
        }
        folder = home / ".gemini"
        folder.mkdir(exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(settings))
        env = plain_environment(
            environment, home, GEMINI_API_KEY="none", GOOGLE_GEMINI_BASE_URL=url
        )
        return Session(
            [environment.command("gemini"), "--yolo", "-m", "gemini-2.5-pro", "-p", prompt],
            env,
            home,
        )


class OpenCode(CodingAgent):
    """opencode: `opencode run`, with Chat Completions."""

    name = "opencode"
    version = "1.18.33"
    packages = Packages(npm=("opencode-ai@1.18.33",))

    def session(
        self, environment: Environment, home: Path, server: dict[str, Any], url: str, prompt: str
    ) -> Session:
        if "url" in server:
            entry = {"type": "remote", "url": server["url"], "headers": server["headers"]}
        else:
            command = [server["command"], *server["args"]]
            entry = {"type": "local", "command": command, "environment": server["env"]}
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": f"{url}/v1", "apiKey": "none"},
            "models": {"loopback": {}},
        }
        settings = {
            "autoupdate": False,
            "share": "disabled",
            "model": "loopback/loopback",
            "small_model": "loopback/loopback",
            "provider": {"loopback": provider},
            "mcp": {"agent-pool": {**entry, "enabled": True}},
            "permission": "allow",
        }
        path = home / "opencode.json"
        path.write_text(json.dumps(settings))
        env = plain_environment(
            environment, home, OPENCODE_CONFIG=str(path), OPENCODE_DISABLE_MODELS_FETCH="1"
        )
        return Session([environment.command("opencode"), "run", prompt], env, home)


CODING_AGENTS: Final = (Codex(), GeminiCli(), OpenCode())
