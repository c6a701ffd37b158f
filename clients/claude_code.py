"""Claude Code as a client: `-p`, and the interactive one in a pseudo-terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from agent_pool.claude.binary import bundled_cli
from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock, get_result_text
from clients.coding_agents import (
    ALL_CHECKS,
    CANCEL_TIMEOUT,
    ENDED_TIMEOUT,
    HOLD,
    RUN_TIMEOUT,
    Seen,
    Session,
    appears,
    interrupt,
    judge,
    kill,
    run_to_end,
)
from clients.dialog import FINISHED, Conversation
from clients.environments import Environment, Packages
from clients.libraries import server_of
from clients.outcomes import ClientRun
from clients.site import Site

KEY: Final = "dummy-key-that-cannot-be-taken-for-a-real-one"
LINES, COLUMNS = 50, 150
STOP: Final = "Stop the task in the background."


class ClaudeModel:
    """The model behind Claude Code.

    Attributes:
        conversation: the longest one so far.
        texts: every text that came from the server, also later than as the result of its call.
    """

    def __init__(self) -> None:
        self.conversation = Conversation("", (), ())
        self.texts: list[str] = []

    def __call__(self, request: ModelRequest) -> Any:
        if request.is_side:
            return "a title"
        seen = self._read(request)
        try:
            calls = seen.next_calls()
        except LookupError:
            # The interactive one asks its model before a server is connected.
            return ToolUseBlock("Bash", {"command": "sleep 0.5"})
        if calls:
            return [ToolUseBlock(call.tool, call.arguments) for call in calls]
        return self._stop_task(request) or FINISHED

    def _read(self, request: ModelRequest) -> Conversation:
        blocks = [block for message in request.messages for block in _blocks(message)]
        ours = {
            block["id"]
            for block in blocks
            if block["type"] == "tool_use" and "agent-pool" in block["name"]
        }
        results = [
            get_result_text(block)
            for block in blocks
            if block["type"] == "tool_result" and block["tool_use_id"] in ours
        ]
        typed = [block["text"] for block in blocks if block["type"] == "text"]
        # A result comes as a message of the user or, during a turn, of the system.
        later = [text for text in typed if "<task-notification>" in text]
        seen = Conversation("\n".join(typed), request.tools, tuple(results))
        if len(results) + len(later) >= len(self.texts):
            self.texts, self.conversation = [*results, *later], seen
        return seen

    def _stop_task(self, request: ModelRequest) -> ToolUseBlock | None:
        """Stop the task that Claude Code has put into the background, if the person wants it."""
        whole = json.dumps(request.messages)
        if STOP not in whole or '"name": "TaskStop"' in whole:
            return None
        found = [text.split()[-1] for text in _task_lines(self.texts)]
        return ToolUseBlock("TaskStop", {"task_id": found[-1]}) if found else None


def _task_lines(texts: list[str]) -> list[str]:
    mark = "background as task "
    return [mark + text.split(mark)[1].split()[0].strip(".,") for text in texts if mark in text]


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def bundled_version() -> str:
    """Return the version of the CLI that claude-agent-sdk brings."""
    run = subprocess.run([str(bundled_cli()), "--version"], capture_output=True, text=True)
    return run.stdout.split()[0]


class ClaudePrint:
    """`claude -p`."""

    name = "Claude Code -p"
    packages = Packages()
    transports = ("stdio", "http")

    @property
    def version(self) -> str:
        """Return the version of the CLI."""
        return bundled_version()

    async def run(
        self, site: Site, url: str, transport: str, environment: Environment
    ) -> ClientRun:
        """Make all checks over one transport, in two sessions."""
        run = ClientRun(self.name, self.version, transport)
        site.new_record()
        model = ClaudeModel()
        async with LoopbackAPI(model) as api:
            server = server_of(site, url, transport)

            def session(prompt: str) -> Session:
                options = ("--output-format", "stream-json", "--verbose")
                return claude_session(site, api.url, server, "-p", prompt, *options)

            screen = await run_to_end(session(ALL_CHECKS))
            judge(run, Seen(model.conversation.tools, model.texts, screen), site)
            run.servers = site.servers_started()
            run.add("cancel", *await interrupt(session(HOLD), site.folder))
            run.read_wire(site.wire())
        return run


class ClaudeInteractive:
    """Claude Code in a terminal."""

    name = "Claude Code"
    packages = Packages()
    transports = ("stdio", "http")

    @property
    def version(self) -> str:
        """Return the version of the CLI."""
        return bundled_version()

    async def run(
        self, site: Site, url: str, transport: str, environment: Environment
    ) -> ClientRun:
        """Make all checks over one transport, in two sessions."""
        run = ClientRun(self.name, self.version, transport)
        site.new_record()
        answer_first_questions(site)
        model = ClaudeModel()
        async with LoopbackAPI(model) as api:
            server = server_of(site, url, transport)
            async with terminal(claude_session(site, api.url, server, ALL_CHECKS)) as screen:
                await _settle(model)
            judge(run, Seen(model.conversation.tools, model.texts, "".join(screen)), site)
            run.servers = site.servers_started()
            api.script = ClaudeModel()
            async with terminal(claude_session(site, api.url, server, f"{HOLD} {STOP}")):
                began = await appears(site.folder / "held-me", CANCEL_TIMEOUT)
                ended = began and await appears(site.folder / "ended-me", ENDED_TIMEOUT)
            run.add("cancel", ended, "TaskStop interrupts the agent" if ended else "it goes on")
            run.read_wire(site.wire())
        return run


async def _settle(model: ClaudeModel) -> None:
    """Wait until the model has the last answers, or for the longest time of a session."""
    wanted = ("echo: echo later", "slow but done", "echo: echo pear", "echo: steps")
    try:
        async with asyncio.timeout(RUN_TIMEOUT):
            while not all(word in "\n".join(model.texts) for word in wanted):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    except TimeoutError:
        return


def claude_session(site: Site, url: str, server: dict[str, Any], *arguments: str) -> Session:
    """Return a session of Claude Code in the project, in a home folder of its own."""
    home = site.folder / "client"
    home.mkdir(exist_ok=True)
    entry = {"type": "http", **server} if "url" in server else _without_cwd(server)
    servers = json.dumps({"mcpServers": {"agent-pool": entry}})
    options = ("--mcp-config", servers, "--strict-mcp-config", "--dangerously-skip-permissions")
    env = {
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": KEY,
        "IS_SANDBOX": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return Session([str(bundled_cli()), *arguments, *options], env, site.root)


def _without_cwd(server: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in server.items() if key != "cwd"}


def answer_first_questions(site: Site) -> None:
    """Answer the first-run questions: theme, trust, API key, and bypassed permissions."""
    answers = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "bypassPermissionsModeAccepted": True,
        "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
        "projects": {str(site.root): {"hasTrustDialogAccepted": True}},
    }
    folder = site.folder / "client" / ".claude"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".claude.json").write_text(json.dumps(answers), encoding="utf-8")


@asynccontextmanager
async def terminal(session: Session) -> AsyncIterator[list[str]]:
    """Start a session in a pseudo-terminal; yield what it draws; kill it at the end."""
    screen, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *session.command,
        env=session.env,
        cwd=session.cwd,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(inner)
    loop = asyncio.get_running_loop()
    drawn: list[str] = []

    def read() -> None:
        try:
            drawn.append(os.read(screen, 65536).decode(errors="replace"))
        except OSError:  # EIO: no process has the terminal open any more
            loop.remove_reader(screen)

    loop.add_reader(screen, read)
    try:
        yield drawn
    finally:
        loop.remove_reader(screen)
        await kill(process)
        os.close(screen)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
