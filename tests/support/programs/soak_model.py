"""The offline model of the soak test, in a process of its own.

    python soak_model.py

It writes its URL to stdout and serves until stdin ends. A task is ``TOKEN KIND``. The answer is
``TOKEN edition N`` with the N of the agent's prompt; but if the request contains the token of
another task, the answer names that token. The kinds:

    plain        answered at once
    shell        after a command that prints the token
    big          after a command that writes 340 KB
    background   while a background command goes on
    daemon       while a daemonised command goes on
    asks         after a command for which a rule asks, and which is denied: nobody can answer
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

from agent_pool.loopback import (
    DroppedConnection,
    ErrorResponse,
    LoopbackAPI,
    ModelReply,
    ModelRequest,
    ToolUseBlock,
    get_result_text,
)

TOKEN = re.compile(r"tok-[0-9a-f]{12}")

COMMANDS: dict[str, dict[str, Any]] = {
    "shell": {"command": "echo {token}"},
    "big": {"command": "seq 1 60000; echo {token}"},
    "background": {"command": "sleep 1000", "run_in_background": True},
    "daemon": {"command": "(setsid nohup sleep 1000 >/dev/null 2>&1 &); echo {token}"},
    "asks": {"command": "curl --version; echo {token}"},
}
REFUSALS = {"overload": ErrorResponse(529), "cut": DroppedConnection(), "error": ErrorResponse(400)}


class SoakModel:
    """Answer tasks; remember which were refused once."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    async def __call__(self, request: ModelRequest) -> Any:
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
            return ModelReply(
                [ToolUseBlock("Bash", {**given, "command": command, "description": "Soaks."})]
            )
        return self._answer(request, token, kind)

    @staticmethod
    def _answer(request: ModelRequest, token: str, kind: str) -> str:
        said = "".join(get_result_text(result) for result in request.tool_results)
        if kind in ("shell", "daemon") and said.strip() != token:
            return f"{token} WRONG TOOL {said[:80]!r}"
        if kind == "asks" and "not permitted" not in said:
            return f"{token} WRONG DENIAL {said[:80]!r}"
        edition = re.search(r"edition (\d+)", request.system_text)
        return f"{token} edition {edition[1] if edition else 'none'}"


async def main() -> None:
    """Serve until stdin ends."""
    async with LoopbackAPI(SoakModel(), keep_requests=1) as api:
        print(api.url, flush=True)  # noqa: T201 - the test reads it
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
