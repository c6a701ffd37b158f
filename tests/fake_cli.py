"""A stand-in for the Claude Code CLI that speaks its protocol and misbehaves on request.

The real CLI does what it should; this program does what it should not. It is started through a
launcher that `install` writes, and reads a JSON script with these keys:

    version   what `--version` says
    journal   a file to which each process adds a line for each thing that happens to it
    claims    a folder in which the processes share out the `times` of the acts
    acts      what to do otherwise than the real one: a list of objects, each with

        at      version, start, initialize, prompt, clear, interrupt, control, eof
        do      the name of a method of `Acts`, and its arguments beside it
        times   how often, all processes together; without it always
        match   only for prompts that contain this text

Only the standard library is imported, and little of it, so that it starts in some milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SESSION = "00000000-0000-4000-8000-"


def install(folder: Path, *acts: Mapping[str, object], version: str = "2.1.330") -> Path:
    """Make an executable in `folder` that acts so; returns its path."""
    claims = folder / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    script = folder / "script.json"
    script.write_text(
        json.dumps(
            {
                "version": version,
                "journal": str(folder / "journal"),
                "claims": str(claims),
                "acts": acts,
            }
        )
    )
    launcher = folder / "claude"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -ISE "{__file__}" "{script}" "$@"\n')
    launcher.chmod(0o755)
    return launcher


def journal(folder: Path) -> list[tuple[int, str]]:
    """What has happened to the processes of this fake so far: pid and event."""
    path = folder / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(pid), event) for pid, _, event in (line.partition(" ") for line in lines)]


class Script:
    """The acts, and which of them are still to be played."""

    def __init__(self, path: str) -> None:
        given = json.loads(Path(path).read_text())
        self.version: str = given["version"]
        self._journal: str = given["journal"]
        self._claims: str = given["claims"]
        self._acts: list[dict[str, object]] = given["acts"]

    def note(self, event: str) -> None:
        """Add a line to the journal."""
        fd = os.open(self._journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{os.getpid()} {event}\n".encode())
        os.close(fd)

    def acts_at(self, at: str, text: str) -> list[dict[str, object]]:
        """The acts to be played now."""
        return [
            act
            for number, act in enumerate(self._acts)
            if act["at"] == at and str(act.get("match", "")) in text and self._claim(number, act)
        ]

    def _claim(self, number: int, act: dict[str, object]) -> bool:
        times = act.get("times")
        if times is None:
            return True
        for turn in range(int(str(times))):
            try:
                os.close(os.open(f"{self._claims}/{number}.{turn}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False


class Acts:
    """What can go wrong; each returns whether the real one's answer follows all the same."""

    def __init__(self) -> None:
        self.answer: dict[str, object] = {}
        """Changes of the next frame that answers."""
        self.extra: list[dict[str, object]] = []
        """Frames to be written after the answer."""
        self.afterwards: Callable[[], object] | None = None
        """What is done after the answer."""
        self.conversation = 0
        """Part of the session id."""

    def exit(self, code: int = 1, stderr: str = "") -> bool:
        """End at once."""
        sys.stderr.write(stderr)
        sys.stderr.flush()
        os._exit(code)

    def die(self) -> bool:
        """Be killed."""
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    def hang(self) -> bool:
        """Never answer this."""
        return False

    def deaf(self) -> bool:
        """Read nothing more, for ever."""
        while True:
            signal.pause()

    def mute(self) -> bool:
        """Close stdout and stderr, and live on."""
        os.close(1)
        os.close(2)
        return self.deaf()

    def say(self, text: str) -> bool:
        """Write this to stdout before the answer."""
        write(text.encode())
        return True

    def line(self, size: int) -> bool:
        """Write a frame of this many bytes before the answer."""
        write(b'{"type":"padding","text":"' + b"x" * size + b'"}\n')
        return True

    def stream(self, size: int) -> bool:
        """Write this many bytes to stdout that never end a line; no answer follows."""
        write(b"x" * size)
        return False

    def complain(self, size: int, text: str = "") -> bool:
        """Write this many bytes, then this text, to stderr before the answer."""
        sys.stderr.write("noise " * (size // 6) + text)
        sys.stderr.flush()
        return True

    def reply(self, **fields: object) -> bool:
        """Answer, with these fields otherwise; None leaves a field out."""
        self.answer = fields
        return True

    def add(self, **frame: object) -> bool:
        """Write this frame after the answer."""
        self.extra.append(frame)
        return True

    def answer_and_exit(self) -> bool:
        """Answer, and end at once after it."""
        self.afterwards = self.exit
        return True

    def answer_and_read_no_more(self) -> bool:
        """Answer, and never read again."""
        self.afterwards = self.deaf
        return True

    def keep_session(self) -> bool:
        """Answer as if the conversation were new, with the session id of the old one."""
        self.conversation -= 1
        return True

    def outlive_sigterm(self) -> bool:
        """Ignore SIGTERM from now on."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return True

    def leave_child(self, path: str) -> bool:
        """Start a child in a session of its own that holds all pipes; its pid goes to `path`."""
        child = os.fork()
        if child == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.deaf()
        Path(path).write_text(str(child))
        return True


class FakeCLI:
    """One process of the fake: reads frames, plays its acts, answers as the real one does."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._acts = Acts()
        self._held = ""

    def serve(self) -> None:
        """Answer until stdin ends."""
        self._play("start")
        for line in sys.stdin.buffer:
            frame = json.loads(line)
            if frame["type"] == "user":
                self._on_prompt(frame["uuid"], frame["message"]["content"])
            elif frame["type"] == "control_request":
                self._on_control(frame["request_id"], frame["request"])
        self._play("eof")

    def _play(self, at: str, text: str = "") -> bool:
        self._script.note(f"{at} {text.strip()}"[:200].rstrip())
        self._acts.answer, self._acts.extra = {}, []
        goes_on = True
        for act in self._script.acts_at(at, text):
            given = {k: v for k, v in act.items() if k not in ("at", "do", "times", "match")}
            goes_on &= getattr(self._acts, str(act["do"]))(**given)
        return goes_on

    def _on_control(self, request_id: str, request: dict[str, object]) -> None:
        kind = str(request["subtype"])
        if not self._play(kind if kind in ("initialize", "interrupt") else "control", kind):
            return
        body = {"subtype": "success", "request_id": request_id, "response": {}}
        self._answer({"type": "control_response", "response": {**body, **self._acts.answer}})
        if kind == "interrupt" and self._held:
            self._result(self._held, subtype="error_during_execution", is_error=True, result="")

    def _on_prompt(self, stamp: str, text: str) -> None:
        if text == "/clear":
            self._on_clear(stamp)
            return
        if not self._play("prompt", text):
            self._held = stamp
            return
        said = f"echo: {text.strip()}"
        self._begin(stamp)
        content = [{"type": "text", "text": said}]
        send({"type": "assistant", "parent_tool_use_id": None, "message": {"content": content}})
        self._result(stamp, result=said)

    def _on_clear(self, stamp: str) -> None:
        if not self._play("clear"):
            return
        self._acts.conversation += 1
        send({"type": "conversation_reset", "user_message_uuid": stamp})
        self._begin(stamp)
        self._result(stamp, result="", local_command="clear")

    def _begin(self, stamp: str) -> None:
        version = self._script.version
        send(
            {
                "type": "system",
                "subtype": "init",
                "session_id": self._session_id,
                "claude_code_version": version,
                "user_message_uuid": stamp,
            }
        )

    def _result(self, stamp: str, **fields: object) -> None:
        self._held = ""
        self._answer(
            {
                "type": "result",
                "subtype": "success",
                "is_error": False,
                "num_turns": 1,
                "session_id": self._session_id,
                "user_message_uuid": stamp,
                "total_cost_usd": 0.0,
                "modelUsage": {},
                **fields,
            }
        )

    def _answer(self, frame: dict[str, object]) -> None:
        changed = {**frame, **self._acts.answer}
        send({name: value for name, value in changed.items() if value is not None})
        for extra in self._acts.extra:
            send(extra)
        if self._acts.afterwards is not None:
            self._acts.afterwards()
        self._acts.answer, self._acts.extra = {}, []

    @property
    def _session_id(self) -> str:
        return f"{SESSION}{os.getpid():06}{self._acts.conversation:06}"


def send(frame: dict[str, object]) -> None:
    """Write one frame."""
    write(json.dumps(frame).encode() + b"\n")


def write(data: bytes) -> None:
    """Write all of it to stdout."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main(arguments: list[str]) -> None:
    """Play the script named first, with the CLI's own arguments after it."""
    script = Script(arguments[0])
    cli = FakeCLI(script)
    if "--version" in arguments:
        if cli._play("version"):
            write(f"{script.version} (Claude Code)\n".encode())
        return
    cli.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
