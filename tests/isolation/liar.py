"""A stand-in for the CLI that answers honestly, but for the lies that it was installed with.

It keeps a conversation, sends it to the model and forgets it at `/clear`, as the real one does, so
the canary believes it. Towards the canary it is honest unless `canary` is among its lies.

Only the standard library is imported.
"""

from __future__ import annotations

import json
import os
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

MARK = "TEST_MARK"
"""In the environment of all processes of a test but the canary's, which starts with its own."""
NOTICE = "a notice that nobody asked for"


def install(folder: Path, *lies: str, version: str = "2.1.330") -> Path:
    """Make an executable in `folder` that tells these lies; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    launcher = folder / "claude"
    told = ",".join(lies)
    launcher.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -ISE "{__file__}" "{told}" {version} "$@"\n'
    )
    launcher.chmod(0o755)
    return launcher


LIES: Final = {
    "unstamped": "an older version: no stamps and no conversation_reset",
    "canary": "the other lies are told to the canary too",
    "remembers": "/clear gives a new session id and forgets nothing",
    "same-session": "/clear keeps the session id",
    "text": "/clear is answered by the model",
    "error": "/clear fails",
    "other-command": "/clear is taken for another command",
    "unannounced": "no conversation_reset comes",
    "silent": "/clear is never answered",
    "twice": "/clear is answered twice",
    "dies": "/clear ends the process",
    "turn-after-clear": "a turn starts by itself right after /clear, and ends",
    "turn-across-clear": "one starts right after /clear and ends when the next task has come",
    "turn-before": "a turn starts by itself and ends before that of the task",
    "turn-after": "a turn starts by itself after that of the task",
    "stranger": "a result with a stranger's stamp comes before that of the task",
    "model": "each turn runs on another model",
    "mode": "each turn runs in another permission mode",
    "cwd": "each turn runs in another folder",
}


class Liar:
    """One process; see `LIES` for what it may be told to do."""

    def __init__(self, lies: set[str], version: str) -> None:
        assert lies <= set(LIES), lies
        is_probed = MARK not in os.environ and "canary" not in lies
        self._lies = lies & {"unstamped"} if is_probed else lies
        self._version = version
        self._messages: list[dict[str, str]] = []
        self._session = 0
        self._turns = 0
        self._owes_notice = False

    def serve(self) -> None:
        """Answer until stdin ends."""
        for line in sys.stdin.buffer:
            frame = json.loads(line)
            if frame["type"] == "control_request":
                body = {"subtype": "success", "request_id": frame["request_id"], "response": {}}
                self._send(type="control_response", response=body)
            elif frame["type"] == "user" and frame["message"]["content"] == "/clear":
                self._on_clear(frame["uuid"])
            elif frame["type"] == "user":
                self._on_prompt(frame["uuid"], frame["message"]["content"])

    def _on_prompt(self, stamp: str, text: str) -> None:
        if self._owes_notice:
            self._end_notice()
        if self._tells("turn-before"):
            self._notice()
        if self._tells("stranger"):
            self._result("00000000-0000-4000-8000-00000000dead", NOTICE)
        self._messages.append({"role": "user", "content": text})
        self._begin(stamp)
        answer = self._ask_model()
        self._messages.append({"role": "assistant", "content": answer})
        self._say(answer)
        self._result(stamp, answer)
        if self._tells("turn-after"):
            self._notice()

    def _on_clear(self, stamp: str) -> None:
        if self._tells("dies"):
            os._exit(3)
        if self._tells("silent"):
            return
        if not self._tells("remembers"):
            self._messages.clear()
        self._session += not self._tells("same-session")
        if not self._tells("unannounced") and not self._tells("unstamped"):
            self._send(type="conversation_reset", user_message_uuid=stamp)
        self._begin(stamp)
        answer = "All clear now!" if self._tells("text") else ""
        command = {} if self._tells("unstamped") else {"local_command": "clear"}
        if self._tells("other-command"):
            command = {"local_command": "help"}
        failed = self._tells("error")
        how = {"subtype": "error_during_execution" if failed else "success", "is_error": failed}
        for _ in range(2 if self._tells("twice") else 1):
            self._result(stamp, answer, **command, **how)
        if self._tells("turn-after-clear"):
            self._notice()
        if self._tells("turn-across-clear"):
            self._begin("")
            self._owes_notice = True

    def _notice(self) -> None:
        self._begin("")
        self._end_notice()

    def _end_notice(self) -> None:
        self._owes_notice = False
        self._say(NOTICE)
        self._result("", NOTICE)

    def _ask_model(self) -> str:
        url = urlsplit(os.environ["ANTHROPIC_BASE_URL"])
        connection = HTTPConnection(str(url.hostname), url.port)
        asked = {"model": "liar", "max_tokens": 100, "messages": self._messages}
        head = {"content-type": "application/json", "x-api-key": "none"}
        connection.request("POST", "/v1/messages", json.dumps(asked), head)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return str(answer["content"][0]["text"])

    def _begin(self, stamp: str) -> None:
        self._turns += 1
        told = {"model": "liar", "permissionMode": "bypassPermissions", "cwd": str(Path.cwd())}
        for lie, field in (("model", "model"), ("mode", "permissionMode"), ("cwd", "cwd")):
            if self._tells(lie):
                told[field] = f"number {self._turns}"
        self._send(
            type="system",
            subtype="init",
            claude_code_version=self._version,
            **told,
            **self._stamped(stamp),
        )

    def _say(self, text: str) -> None:
        content = [{"type": "text", "text": text}]
        self._send(type="assistant", parent_tool_use_id=None, message={"content": content})

    def _result(self, stamp: str, text: str, **fields: object) -> None:
        frame = {"subtype": "success", "is_error": False, "num_turns": 1, "result": text}
        self._send(type="result", **{**frame, **fields}, **self._stamped(stamp))

    def _stamped(self, stamp: str) -> dict[str, object]:
        session = f"00000000-0000-4000-8000-{os.getpid():06}{self._session:06}"
        if not stamp or self._tells("unstamped"):
            return {"session_id": session}
        return {"session_id": session, "user_message_uuids": [stamp]}

    def _tells(self, lie: str) -> bool:
        return lie in self._lies

    def _send(self, **frame: object) -> None:
        sys.stdout.buffer.write(json.dumps(frame).encode() + b"\n")
        sys.stdout.buffer.flush()


def main(arguments: list[str]) -> None:
    """The lies come first, then the version, then the CLI's own arguments."""
    lies, version, *options = arguments
    if "--version" in options:
        sys.stdout.write(f"{version} (Claude Code)\n")
        return
    Liar(set(filter(None, lies.split(","))), version).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
