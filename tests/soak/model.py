"""The offline model of the soak test, in a process of its own.

    python model.py

Says its URL on stdout and serves until stdin ends. A task is ``TOKEN KIND``; the answer is
``TOKEN edition N``, N being what the agent's prompt says, unless the request holds the token of
another task: then the answer says which. The kinds:

    plain        answered at once
    shell        after a command that says the token back
    big          after a command that writes 340 KB
    background   while a background command goes on
    daemon       while a daemonised command goes on
    hold         never
    overload     at the second try; the first is refused with a 529
    cut          at the second try; the connection of the first is cut
    error        refused with a 400
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

from agent_pool.loopback import Cut, Failure, LoopbackAPI, Reply, Request, ToolUse, text_of

TOKEN = re.compile(r"tok-[0-9a-f]{12}")

COMMANDS: dict[str, dict[str, Any]] = {
    "shell": {"command": "echo {token}"},
    "big": {"command": "seq 1 60000; echo {token}"},
    "background": {"command": "sleep 1000", "run_in_background": True},
    "daemon": {"command": "(setsid nohup sleep 1000 >/dev/null 2>&1 &); echo {token}"},
}
REFUSALS = {"overload": Failure(529), "cut": Cut(), "error": Failure(400)}


class Model:
    """Answers; remembers who was refused."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    async def __call__(self, request: Request) -> Any:
        token, kind = request.last_user_text.split()
        others = set(TOKEN.findall(str(request.messages))) - {token}
        if others:
            return f"{token} CROSSED {sorted(others)}"
        if kind == "hold":
            await asyncio.Event().wait()
        if kind in REFUSALS and (token not in self._refused or kind == "error"):
            self._refused.add(token)
            return REFUSALS[kind]
        if kind in COMMANDS and not request.tool_results:
            given = COMMANDS[kind]
            command = given["command"].format(token=token)
            return Reply([ToolUse("Bash", {**given, "command": command, "description": "Soaks."})])
        return self._answer(request, token, kind)

    @staticmethod
    def _answer(request: Request, token: str, kind: str) -> str:
        said = "".join(text_of(result) for result in request.tool_results)
        if kind in ("shell", "daemon") and said.strip() != token:
            return f"{token} WRONG TOOL {said[:80]!r}"
        edition = re.search(r"edition (\d+)", request.system_text)
        return f"{token} edition {edition[1] if edition else 'none'}"


async def main() -> None:
    """Serve until stdin ends."""
    async with LoopbackAPI(Model(), keep_requests=1) as api:
        print(api.url, flush=True)  # noqa: T201 - the test reads it
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
