"""What every Python program of a client does with its connection. Standard library only.

A program is started with one argument, JSON: `server` (command, args, env, cwd; or url and
headers), `folder` for marks, `records` for the lines of servers on stdio. It prints one line of
JSON for each check.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

TOOLS = {"invoke", "invoke_many", "result", "agents", "read_answer", "list", "stats", "reset"}
CANCEL_TIMEOUT = 8.0


class Connection(Protocol):
    """A connected client."""

    async def names(self) -> list[str]:
        """Return the names of the tools."""

    async def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """Call a tool; return the text of the answer. Any exception is a failure."""

    async def call_with_progress(
        self, tool: str, arguments: dict[str, Any], lines: list[str]
    ) -> str:
        """Do the same, and add the lines of progress to `lines`."""


def settings() -> dict[str, Any]:
    """Return the argument of the program."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def report(check: str, ok: bool | None, detail: str = "") -> None:
    """Print the outcome of one check; None: the client cannot do it."""
    line = json.dumps({"check": check, "ok": ok, "detail": detail[:300]})
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def attempt(check: str, run: Callable[[], Awaitable[tuple[bool | None, str]]]) -> None:
    """Run one check; report an exception as its failure."""
    try:
        async with asyncio.timeout(40):
            ok, detail = await run()
    except BaseException as error:
        traceback.print_exc()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        ok, detail = False, f"{type(error).__name__}: {error}"
    report(check, ok, detail)


async def run_checks(client: Connection, folder: Path) -> None:
    """Make all checks, one after another."""
    checks = Checks(client, folder)
    names = ("listed", "invoked", "invoked_many", "side_by_side", "progress", "slow", "long")
    for name in (*names, "background", "cancel"):
        await attempt(name, getattr(checks, name))


class Checks:
    """The checks of one connection; each returns whether it works, and what was seen."""

    def __init__(self, client: Connection, folder: Path) -> None:
        self._client = client
        self._folder = folder

    async def listed(self) -> tuple[bool, str]:
        """List the tools."""
        names = set(await self._client.names())
        return names >= TOOLS, f"{len(names)} tools"

    async def invoked(self) -> tuple[bool, str]:
        """Give a task to an agent."""
        text = await self._client.call("invoke", task("echo quince"))
        return text == "echo: echo quince", text

    async def invoked_many(self) -> tuple[bool, str]:
        """Give two tasks in one call."""
        tasks = {"tasks": [task("echo apple"), task("echo pear")]}
        text = await self._client.call("invoke_many", tasks)
        return "echo: echo apple" in text and "echo: echo pear" in text, text

    async def side_by_side(self) -> tuple[bool, str]:
        """Make two calls at the same time, whose tasks wait for each other."""
        calls = [self._client.call("invoke", task(f"together pair {n}")) for n in (1, 2)]
        texts = await asyncio.gather(*calls)
        return texts == ["together"] * 2, ", ".join(texts)

    async def progress(self) -> tuple[bool | None, str]:
        """Receive the lines of progress."""
        lines: list[str] = []
        try:
            await self._client.call_with_progress("invoke", task("steps"), lines)
        except NotImplementedError as error:
            return None, str(error)
        return bool(lines), "; ".join(lines)

    async def slow(self) -> tuple[bool, str]:
        """Wait eight seconds for an answer, with the default settings."""
        text = await self._client.call("invoke", task("slow"))
        return text == "slow but done", text

    async def long(self) -> tuple[bool, str]:
        """Receive an answer of 60,000 characters."""
        text = await self._client.call("invoke", task("long"))
        return len(text) >= 60_000, f"{len(text)} characters"

    async def background(self) -> tuple[bool, str]:
        """Begin a task in the background, and fetch its answer."""
        text = await self._client.call("invoke", {**task("echo later"), "background": True})
        found = re.search('id="([^"]+)"', text)
        if found is None:
            return False, text
        answer = await self._client.call("result", {"id": found[1], "wait_seconds": 20})
        return answer == "echo: echo later", answer

    async def cancel(self) -> tuple[bool, str]:
        """Give up a call while its agent works."""
        running = asyncio.ensure_future(self._client.call("invoke", task("hold me")))
        await file_appears(self._folder / "held-me")
        running.cancel()
        await asyncio.wait([running], timeout=CANCEL_TIMEOUT)
        has_ended = await file_appears(self._folder / "ended-me", CANCEL_TIMEOUT)
        return has_ended, "the agent was interrupted" if has_ended else "the agent goes on"


def task(text: str) -> dict[str, Any]:
    """Return the arguments of a call."""
    return {"agent": "reviewer", "task": text}


async def file_appears(path: Path, within: float = 30.0) -> bool:
    """Wait for a file; return whether it came in time."""
    try:
        async with asyncio.timeout(within):
            while not path.exists():
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False
    return True


def texts(content: Any) -> str:
    """Return the texts of content blocks, objects or dictionaries."""
    if isinstance(content, str):
        return content
    blocks = [block if isinstance(block, dict) else vars(block) for block in content]
    return "\n".join(str(block.get("text", "")) for block in blocks)
