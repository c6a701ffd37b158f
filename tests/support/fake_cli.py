"""A scripted stand-in for the Claude Code CLI: it speaks its protocol, and misbehaves on request.

The real CLI does what it should; this program does what it should not. It is started through a
launcher that `install` writes, and reads a JSON script with these keys:

    version   the answer to `--version`
    journal   a file to which each process adds a line for each event
    claims    a folder in which the processes share out the `times` of the acts
    model     echo: answer with the task; api: keep a conversation, send it to the model at
              ANTHROPIC_BASE_URL, and forget it at /clear, so that the canary trusts this CLI
    stamps    false: leave out stamps and conversation_reset, as older versions do
    honest_to_canary  true: play no acts in the canary's processes, which lack the test's mark
    acts      the differences from the real CLI: a list of objects, each with

        at      version, start, initialize, prompt, clear, interrupt, control, eof
        do      the name of a method of `Acts`, and its arguments beside it
        times   how often, all processes together; without it always
        match   only for prompts and control requests that contain this text

Hundreds of processes of it start in a run of all tests. So it imports little, and nothing but the
standard library: `pathlib` alone costs a quarter of a start.
"""

from __future__ import annotations

import json
import os
import signal
import sys

TYPE_CHECKING = False  # that of `typing`, whose import takes as long as all others together
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import TypeAlias

_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); import fake_cli; fake_cli.main()"
"""It imports this module instead of running it, since Python compiles a program at each start."""

Act: TypeAlias = "Mapping[str, object]"
"""A difference from the real CLI; the module's docstring describes its keys."""

SESSION = "00000000-0000-4000-8000-"
MARK = "TEST_MARK"
"""The variable `environment.MARK`; this program cannot import that module."""
UNASKED_TEXT = "a notice that nobody asked for"
"""The text of turns that start by themselves."""

FAULTS: dict[str, tuple[Act, ...]] = {
    "remembers": ({"at": "clear", "do": "remember"},),
    "rewinds": ({"at": "control", "do": "pretend_to_rewind", "match": "rewind_conversation"},),
    "honest-rewinds": ({"at": "control", "do": "rewind", "match": "rewind_conversation"},),
    "dies-of-text": ({"at": "prompt", "do": "exit", "code": 3, "match": "/clear canary"},),
    "never-idle": ({"at": "start", "do": "stay_busy"},),
    "same-session": ({"at": "clear", "do": "keep_session"},),
    "text": ({"at": "clear", "do": "reply", "result": "All clear now!"},),
    "error": (
        {"at": "clear", "do": "reply", "subtype": "error_during_execution", "is_error": True},
    ),
    "other-command": ({"at": "clear", "do": "reply", "local_command": "help"},),
    "unannounced": ({"at": "clear", "do": "omit_conversation_reset"},),
    "silent": ({"at": "clear", "do": "hang"},),
    "twice": ({"at": "clear", "do": "answer_twice"},),
    "dies": ({"at": "clear", "do": "exit", "code": 3},),
    "turn-after-clear": ({"at": "clear", "do": "unasked_turn", "when": "after"},),
    "turn-across-clear": ({"at": "clear", "do": "unasked_turn", "when": "until next prompt"},),
    "turn-before": ({"at": "prompt", "do": "unasked_turn", "when": "before"},),
    "turn-after": ({"at": "prompt", "do": "unasked_turn", "when": "after"},),
    "stranger": ({"at": "prompt", "do": "answer_stranger"},),
    "model": ({"at": "start", "do": "vary", "field": "model"},),
    "mode": ({"at": "start", "do": "vary", "field": "permissionMode"},),
    "cwd": ({"at": "start", "do": "vary", "field": "cwd"},),
    "other-agent": ({"at": "prompt", "do": "show_tools", "tools": ["Read", "Bash"], "times": 1},),
    "claims": ({"at": "control", "do": "follow_claim", "match": "claim_session"},),
    "dies-of-roles": ({"at": "control", "do": "exit", "code": 3, "match": "apply_flag_settings"},),
    "refuses-roles": (
        {
            **{"at": "control", "do": "reply", "match": "apply_flag_settings"},
            **{"subtype": "error", "error": "no such agent"},
        },
    ),
}
"""Acts that break the promises on which a reset depends, by a short name."""


def install(
    folder: Path, *acts: Act, version: str = "2.1.330", model: str = "echo", **options: bool
) -> Path:
    """Make an executable in `folder` that plays these acts; return its path."""
    claims = folder / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    script = folder / "script.json"
    given = {
        "version": version,
        "journal": str(folder / "journal"),
        "claims": str(claims),
        "model": model,
        "stamps": True,
        "honest_to_canary": False,
        "acts": acts,
    }
    script.write_text(json.dumps({**given, **options}))
    launcher = folder / "claude"
    launcher.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -ISE -c "{_PROGRAM}" "{os.path.dirname(__file__)}" '
        f'"{script}" "$@"\n'
    )
    launcher.chmod(0o755)
    return launcher


def install_faulty(folder: Path, *faults: str, version: str = "2.1.330") -> Path:
    """Make an executable in `folder` that asks the model and has these faults; return its path.

    Args:
        folder: where it is written.
        faults: names in `FAULTS`; `unstamped` for an older version without stamps; `canary` to
            show the faults to the canary too.
        version: the version that it reports.
    """
    acts = [
        act for fault in faults if fault not in ("unstamped", "canary") for act in FAULTS[fault]
    ]
    options = {"stamps": "unstamped" not in faults, "honest_to_canary": "canary" not in faults}
    return install(folder, *acts, version=version, model="api", **options)


def journal(folder: Path) -> list[tuple[int, str]]:
    """Return the events of this fake's processes so far: pid and event."""
    path = folder / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(pid), event) for pid, _, event in (line.partition(" ") for line in lines)]


class Script:
    """The script: the acts, and the files that the processes share."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            given = json.load(file)
        self.version: str = given["version"]
        self._journal: str = given["journal"]
        self._claims: str = given["claims"]
        self.keeps_conversation: bool = given["model"] == "api"
        self.stamps: bool = given["stamps"]
        is_honest = given["honest_to_canary"] and MARK not in os.environ
        self._acts: list[dict[str, object]] = [] if is_honest else given["acts"]

    def note(self, event: str) -> None:
        """Add a line to the journal."""
        fd = os.open(self._journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{os.getpid()} {event}\n".encode())
        os.close(fd)

    def acts_at(self, at: str, text: str) -> list[dict[str, object]]:
        """Return the acts to be played now."""
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
    """The faults; each method returns whether the real CLI's answer still follows."""

    def __init__(self) -> None:
        self.answer: dict[str, object] = {}
        """Changes of the next frame that answers."""
        self.response: dict[str, object] = {}
        """More content of the next answer to a control request."""
        self.extra: list[dict[str, object]] = []
        """Frames to be written after the answer."""
        self.afterwards: Callable[[], object] | None = None
        """A function to be called after the answer."""
        self.flags: set[str] = set()
        """Faults of the next answer: remembers, unannounced, twice, stranger, turn WHEN."""
        self.conversation = 0
        """Part of the session id."""
        self.varying: set[str] = set()
        """Fields of the init frame that are different in each turn."""
        self.tools: list[str] | None = None
        """The tools in the next init frame; None to leave them out."""
        self.version = ""
        """The version in the answer to `initialize`; empty to leave it out."""
        self.is_busy = False
        """Each turn reports that the CLI works, and nothing that it is idle."""

    def begin(self) -> None:
        """Forget the faults of the last answer."""
        self.answer, self.response, self.extra, self.flags = {}, {}, [], set()

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
        """Read no more input, for ever."""
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
        """Answer with these fields changed; None leaves a field out."""
        self.answer |= fields
        return True

    def respond(self, **fields: object) -> bool:
        """Answer a control request with these fields in its content."""
        self.response |= fields
        return True

    def report_version(self, version: str) -> bool:
        """Report another version than the command does."""
        self.version = version
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

    def remember(self) -> bool:
        """Answer as if the conversation were new, but keep its messages."""
        self.flags.add("remembers")
        return True

    def pretend_to_rewind(self) -> bool:
        """Answer as if the prompt were taken back, but keep its messages."""
        self.flags.add("pretends to rewind")
        return True

    def rewind(self) -> bool:
        """Take the only prompt back."""
        self.flags |= {"pretends to rewind", "rewinds"}
        return True

    def stay_busy(self) -> bool:
        """Report with each turn that the CLI works, and never that it is idle."""
        self.is_busy = True
        return True

    def omit_conversation_reset(self) -> bool:
        """Answer without the frame that announces a new conversation."""
        self.flags.add("unannounced")
        return True

    def answer_twice(self) -> bool:
        """Write the result two times."""
        self.flags.add("twice")
        return True

    def answer_stranger(self) -> bool:
        """Write a result with another prompt's stamp before the answer."""
        self.flags.add("stranger")
        return True

    def unasked_turn(self, when: str) -> bool:
        """Run a turn without a prompt: before the answer, after it, or until the next prompt."""
        self.flags.add(f"turn {when}")
        return True

    def vary(self, field: str) -> bool:
        """Report another value of this field at the start of each turn from now on."""
        self.varying.add(field)
        return True

    def follow_claim(self) -> bool:
        """Work in the folder of this claim; without this act a claim changes nothing."""
        self.flags.add("follows claim")
        return True

    def show_tools(self, tools: list[str]) -> bool:
        """Report these tools at the start of this turn."""
        self.tools = tools
        return True

    def outlive_sigterm(self) -> bool:
        """Ignore SIGTERM from now on."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return True

    def leave_child(self, path: str, tool: str = "") -> bool:
        """Start a child in a session of its own that holds all pipes; its pid goes to `path`.

        A call of `tool` is reported before, if there is a name.
        """
        if tool:
            call = {"type": "tool_use", "id": "toolu_1", "name": tool, "input": {}}
            send({"type": "assistant", "parent_tool_use_id": None, "message": {"content": [call]}})
        child = os.fork()
        if child == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.deaf()
        with open(path, "w") as file:
            file.write(str(child))
        return True


class FakeCLI:
    """One process of the fake: read frames, play the acts, answer as the real CLI does."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._acts = Acts()
        self._held = ""
        self._messages: list[dict[str, str]] = []
        self._turns = 0
        self._is_unasked_turn_open = False

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

    def print_version(self) -> None:
        """Answer `--version`."""
        if self._play("version"):
            write(f"{self._script.version} (Claude Code)\n".encode())

    def _play(self, at: str, text: str = "", more: str = "") -> bool:
        self._script.note(f"{at} {text.strip()}"[:200].rstrip())
        self._acts.begin()
        goes_on = True
        for act in self._script.acts_at(at, f"{text} {more}"):
            given = {k: v for k, v in act.items() if k not in ("at", "do", "times", "match")}
            goes_on &= getattr(self._acts, str(act["do"]))(**given)
        return goes_on

    def _on_control(self, request_id: str, request: dict[str, object]) -> None:
        kind = str(request["subtype"])
        is_own = kind in ("initialize", "interrupt")
        if not self._play(kind if is_own else "control", kind, json.dumps(request)):
            return
        if "follows claim" in self._acts.flags and kind == "claim_session":
            os.chdir(str(request["cwd"]))
        answer = {**self._acts.response}
        if kind == "initialize" and self._acts.version:
            answer["claude_code_version"] = self._acts.version
        if "rewinds" in self._acts.flags:
            self._messages.clear()
        if "pretends to rewind" in self._acts.flags:
            target = request["target_message_uuid"]
            answer = {"rewound": True, "targetMessageUuid": target, "precedingAssistantUuid": None}
        body = {"subtype": "success", "request_id": request_id, "response": answer}
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
        flags = self._acts.flags
        if self._is_unasked_turn_open:
            self._end_unasked_turn()
        if "turn before" in flags:
            self._run_unasked_turn()
        if "stranger" in flags:
            send(self._result_frame(f"{SESSION}00000000dead", result=UNASKED_TEXT))
        self._begin(stamp)
        said = self._ask_model(text) if self._script.keeps_conversation else f"echo: {text.strip()}"
        self._say(said)
        self._result(stamp, result=said)
        if "turn after" in flags:
            self._run_unasked_turn()

    def _on_clear(self, stamp: str) -> None:
        if not self._play("clear"):
            return
        flags = self._acts.flags
        if "remembers" not in flags:
            self._messages.clear()
        self._acts.conversation += 1
        if self._script.stamps and "unannounced" not in flags:
            send({"type": "conversation_reset", "user_message_uuid": stamp})
        self._begin(stamp)
        command = {"local_command": "clear"} if self._script.stamps else {}
        for _ in range(2 if "twice" in flags else 1):
            self._result(stamp, result="", **command)
        if "turn after" in flags:
            self._run_unasked_turn()
        if "turn until next prompt" in flags:
            self._begin("")
            self._is_unasked_turn_open = True

    def _run_unasked_turn(self) -> None:
        self._begin("")
        self._end_unasked_turn()

    def _end_unasked_turn(self) -> None:
        self._is_unasked_turn_open = False
        self._say(UNASKED_TEXT)
        send(self._result_frame("", result=UNASKED_TEXT))

    def _ask_model(self, text: str) -> str:
        # Imported late: most tests do not need it, and it makes each start slower.
        from http.client import HTTPConnection

        self._messages.append({"role": "user", "content": text})
        host = os.environ["ANTHROPIC_BASE_URL"].removeprefix("http://").rstrip("/")
        connection = HTTPConnection(host)
        asked = {"model": "fake", "max_tokens": 100, "messages": self._messages}
        head = {"content-type": "application/json", "x-api-key": "none"}
        connection.request("POST", "/v1/messages", json.dumps(asked), head)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        said = str(answer["content"][0]["text"])
        self._messages.append({"role": "assistant", "content": said})
        return said

    def _begin(self, stamp: str) -> None:
        self._turns += 1
        told: dict[str, object] = {
            "model": "fake",
            "permissionMode": "bypassPermissions",
            "cwd": os.getcwd(),
            **({} if self._acts.tools is None else {"tools": self._acts.tools}),
        }
        self._acts.tools = None
        told.update(dict.fromkeys(self._acts.varying, f"number {self._turns}"))
        frame = {"type": "system", "subtype": "init", "session_id": self._session_id, **told}
        version = {"claude_code_version": self._script.version}
        stamps = {"user_message_uuids": [stamp]} if stamp and self._script.stamps else {}
        send({**frame, **version, **stamps})
        if self._acts.is_busy:
            send({"type": "system", "subtype": "session_state_changed", "state": "running"})

    def _say(self, text: str) -> None:
        content = [{"type": "text", "text": text}]
        send({"type": "assistant", "parent_tool_use_id": None, "message": {"content": content}})

    def _result(self, stamp: str, **fields: object) -> None:
        self._held = ""
        self._answer(self._result_frame(stamp, **fields))

    def _result_frame(self, stamp: str, **fields: object) -> dict[str, object]:
        # The real CLI writes both forms of the stamp here; a single one can be changed by `reply`.
        is_stamped = stamp and self._script.stamps
        return {
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "num_turns": 1,
            "session_id": self._session_id,
            "total_cost_usd": 0.0,
            "modelUsage": {},
            **({"user_message_uuid": stamp} if is_stamped else {}),
            **fields,
        }

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


def main() -> None:
    """Play the script named first, with the CLI's own arguments after it."""
    arguments = sys.argv[1:]
    cli = FakeCLI(Script(arguments[0]))
    if "--version" in arguments:
        cli.print_version()
    else:
        cli.serve()
