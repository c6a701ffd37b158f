"""One conversation with a Claude Code process, without any IO.

A session receives the bytes that the process writes and returns signals. It makes the bytes to
send and refuses a step that its state does not allow (`states`).

Three rules keep tasks apart:

1. Every prompt is stamped with a uuid, and only a result that carries this stamp ends its turn.
   For versions that do not stamp results, prompts and results alternate strictly instead.
2. A process with a role must show it at the beginning of each turn, or the turn fails.
3. Everything that no reset would undo is recorded in `taints`. A tainted session must not serve
   another task: replacing its process is always correct. What `/clear` undoes and a rewind does
   not is recorded in `rewind_obstacle`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agent_pool.claude.protocol.content import prompt_content
from agent_pool.claude.protocol.frames import (
    Frame,
    blocks_of,
    flat_text,
    mapping_of,
    pays_by_subscription,
    plugin_folders,
    rate_limits_of,
    retry_of,
    stamps_of,
    text_of,
    texts_of,
)
from agent_pool.claude.protocol.framing import LineBuffer, decode, encode
from agent_pool.claude.protocol.resets import COMPACTIONS, clear_problem, rewind_problem
from agent_pool.claude.protocol.results import Spend, read_result, running_totals, usage_totals
from agent_pool.claude.protocol.role import Role, flag_settings
from agent_pool.claude.protocol.signals import (
    BecameIdle,
    CanUseTool,
    Configured,
    ConfigureFailed,
    Initialized,
    InitializeFailed,
    ProtocolBroken,
    RateLimitsReported,
    ResetFailed,
    ResetFinished,
    RewindRefused,
    RoleMissed,
    Signal,
    StartHookBegan,
    StartHookEnded,
    StrayFinished,
    ToolsMissing,
    TurnFinished,
    UnknownRequest,
    UsageGrew,
)
from agent_pool.claude.protocol.states import (
    REWOUND_TOOLS,
    SURVIVING_TOOLS,
    TRANSITIONS,
    SessionState,
    Step,
)
from agent_pool.claude.protocol.turn_record import TurnRecord
from agent_pool.claude.protocol.usage_watch import CAPABILITY, UsageWatch
from agent_pool.claude.protocol.words import is_written_by_cli
from agent_pool.errors import LocalProtocolError, RemoteProtocolError
from agent_pool.events import Spent, Text, ToolOutput, ToolUse, Withdrawn
from agent_pool.models import Attachment

_KEPT_OUTPUT: Final = re.compile(r"/.+/projects/[\w-]+/[0-9a-f-]{36}/tool-results/[^/\n]+")
_SELF_STARTED: Final = "a turn started by itself"

Emit = Callable[[Signal], None]


class Session:
    """The state of one conversation.

    Args:
        max_line: the most bytes that one line of the process can have.
        stamps_results: this CLI is known to stamp its results; otherwise its first stamp shows it.
        stamps_turns: the same for the frame `system/init`, which begins each turn.
        sends_attribution: its requests begin with the CLI's attribution line.

    Attributes:
        state: the state of the conversation.
        session_id: the CLI's id of the conversation; empty before the first turn.
        version: the CLI's version as the process itself reports it; empty until then.
        taints: reasons why this session must not serve another task; usually empty.
        strays: results that no prompt had asked for.
        background: the background tasks that the CLI reports as running: id and description.
        is_idle: the CLI reports that it owes nothing more; always true if it reports no states.
        stamps_results: the CLI stamps its results with the prompts that they answer.
        stamps_turns: the CLI stamps the first frame of each turn, too.
        announced_reset: the last reset was announced by a `conversation_reset` frame.
        plugins: the folders of the plugins that the last turn had, without the built-in ones.
        role: the agent that the process has become; None if it was started as one.
        folders: the paths of the folder that it must work in; empty if that is not checked.
        modes: the permission modes that it can have; empty if that is not checked.
        kept_outputs: the files in which the CLI keeps large outputs of commands.
        servers: the configuration of the MCP servers that it was given, by name.
        server_errors: why some of these could not be started, by name.
        refused_claim: why the last claim was refused; empty if it was not. The process waits for
            another claim then.
        usage: what the turn has used so far, and whether the CLI reports that.
        has_subscription: it is signed in with a subscription, whose tokens cost no money.
    """

    def __init__(
        self,
        *,
        max_line: int,
        stamps_results: bool = False,
        stamps_turns: bool = False,
        sends_attribution: bool = False,
    ) -> None:
        self.state = SessionState.STARTING
        self.session_id = ""
        self.version = ""
        self.taints: list[str] = []
        self.strays = 0
        self.background: dict[str, str] = {}
        self.is_idle = True
        self.stamps_results = stamps_results
        self.stamps_turns = stamps_turns
        self.announced_reset = False
        self.plugins: tuple[str, ...] = ()
        self.role: Role | None = None
        self.folders: frozenset[str] = frozenset()
        self.modes: frozenset[str] = frozenset()
        self.kept_outputs: set[str] = set()
        self.servers: dict[str, Any] = {}
        self.server_errors: dict[str, str] = {}
        self.refused_claim = ""
        self.usage, self.has_subscription = UsageWatch(), False
        self._former_servers: set[str] = set()  # and the present ones
        self._lines = LineBuffer(max_line)
        self._initialize_id = ""
        self._stamp = ""  # of the prompt, or the /clear, that has no result yet
        self._prompts: list[str] = []  # the stamps of all prompts since the last reset
        self._rewind_id = ""  # of the rewind that is not answered yet
        self._configure_id = ""  # of the change of the role that is not answered yet
        self._is_claim = False  # that change is a claim
        self._first_role: Role | None = None  # of the first prompt since the start or `/clear`
        self._last_role: Role | None = None  # of the last prompt
        self._has_changed_role = False  # between the last two prompts
        self._has_start_hooks = False
        self._sends_attribution = sends_attribution
        self._was_cleared = False
        self._obstacle = ""
        self._is_foreign_turn = False  # the CLI works on something else than our prompt
        self._totals = Spend()
        self._record = TurnRecord()
        self._needs_announcement = False
        self._session_before_reset = ""
        self._baseline: dict[str, object] = {}

    # What can be sent

    def initialize(self, request_id: str, *, prompt: str | None, schema: Any = None) -> bytes:
        """Make the request that prepares the process for prompts.

        Args:
            request_id: unique among the requests of this session.
            prompt: the system prompt; `None` if the process has it from a file.
            schema: the JSON schema of the answers; `None` for plain text.

        Raises:
            LocalProtocolError: it was sent before, or the session has ended.
        """
        # A second `initialize` does not change the system prompt of the CLI.
        if self.state is not SessionState.STARTING or self._initialize_id:
            raise LocalProtocolError(f"initialize sent twice, or in state {self.state}")
        self._initialize_id = request_id
        fields: dict[str, Any] = {}
        if prompt is not None:
            fields["systemPrompt"] = [prompt]
        if schema is not None:
            fields["jsonSchema"] = schema
        return self._control(request_id, {"subtype": "initialize", **fields})

    def claim(self, request_id: str, folder: str, mode: str) -> bytes:
        """Make the request to bind a process that waits for its claim to a folder, once.

        Args:
            request_id: unique among the requests of this session.
            folder: the absolute path of the project.
            mode: the permission mode, by the CLI's own name.

        Raises:
            LocalProtocolError: the state does not allow it.
        """
        line = self._configure(
            request_id, {"subtype": "claim_session", "cwd": folder, "permission_mode": mode}
        )
        self._is_claim = True
        return line

    def load_roles(self, request_id: str) -> bytes:
        """Make the request to read the definitions of the process's plugin folder again.

        Raises:
            LocalProtocolError: the state does not allow it.
        """
        return self._configure(request_id, {"subtype": "reload_plugins"})

    def take_role(self, request_id: str, role: Role, loaded: list[str]) -> bytes:
        """Make the request to become another agent.

        Args:
            request_id: unique among the requests of this session.
            role: the agent, whose definition the process has loaded.
            loaded: the full names of all roles that it has loaded.

        Raises:
            LocalProtocolError: the state does not allow it.
        """
        settings = flag_settings(role, loaded)
        line = self._configure(request_id, {"subtype": "apply_flag_settings", "settings": settings})
        self.role = role
        # Another agent can have another model.
        self._baseline.pop("model", None)
        return line

    def set_servers(self, request_id: str, servers: Mapping[str, Any]) -> bytes:
        """Make the request to have these MCP servers and no others.

        Equal ones keep running. The answer comes when the new ones are connected or have failed.

        Args:
            request_id: unique among the requests of this session.
            servers: their configuration by name.

        Raises:
            LocalProtocolError: the state does not allow it.
        """
        line = self._configure(request_id, {"subtype": "mcp_set_servers", "servers": dict(servers)})
        self.servers, self.server_errors = dict(servers), {}
        self._former_servers |= servers.keys()
        return line

    @property
    def needs_clear(self) -> bool:
        """Return whether the tools of an earlier role would still be sent to the model."""
        # The tools of the first request stay until `/clear`; a rewind does not take them back
        # (2.1.332). The system prompt is that of the new role at once.
        return _have_other_tools(self._first_role, self.role)

    def prompt(
        self,
        stamp: str,
        text: str,
        *,
        verbatim: bool = False,
        attachments: Sequence[Attachment] = (),
    ) -> bytes:
        """Make the frame of one task, whose text the CLI cannot take for a command.

        Args:
            stamp: a uuid that the result must carry.
            text: the task.
            verbatim: this CLI is known to take a `client_composed` prompt as it is written.
            attachments: pictures and files of the task.

        Raises:
            LocalProtocolError: the state does not allow a prompt.
        """
        # The CLI looks for a command at the first character only (2.0.77 to 2.1.330), so a line
        # feed before the text makes "/clear" or "!ls" plain words. Behind a picture the text is
        # taken for a command too (2.1.332).
        content = prompt_content(text if verbatim else "\n" + text, attachments)
        composed = {"client_composed": True} if verbatim else {}
        line = self._user_frame(stamp, content, **composed)
        # After the encoding: a text that cannot be sent must leave the state as it is.
        self._step(Step.PROMPT)
        self._stamp = stamp
        self._prompts.append(stamp)
        self._first_role = self._first_role or self.role
        self._has_changed_role = _have_other_tools(self._last_role, self.role)
        self._last_role = self.role
        self._is_foreign_turn = False
        self._record = TurnRecord()
        self.usage.begin_turn()
        return line

    def ask_usage(self, request_id: str) -> bytes:
        """Make the request to report what the turn has used so far; a `Spent` answers it.

        Raises:
            LocalProtocolError: the session has ended.
        """
        self.usage.ask(request_id)
        # Without the two flags the CLI reads transcripts of a week, and holds up an interrupt.
        options = {"skip_behaviors": True, "detached": True}
        return self._control(request_id, {"subtype": "get_usage", **options})

    def interrupt(self, request_id: str) -> bytes:
        """Make the request to end the running turn; the turn's result still follows.

        Raises:
            LocalProtocolError: no turn is running.
        """
        self._step(Step.INTERRUPT)
        return self._control(request_id, {"subtype": "interrupt"})

    def clear(self, stamp: str, *, needs_announcement: bool = False) -> bytes:
        """Make the request to forget the conversation.

        Args:
            stamp: a uuid that the result must carry.
            needs_announcement: this version announces a reset by a `conversation_reset` frame; a
                reset without it then fails.

        Raises:
            LocalProtocolError: the state does not allow a reset.
        """
        # No line feed here: this one is meant as a command.
        line = self._user_frame(stamp, "/clear")
        self._step(Step.CLEAR)
        self._stamp = stamp
        self.announced_reset = False
        self._needs_announcement = needs_announcement
        self._is_foreign_turn = False
        self._session_before_reset = self.session_id
        return line

    def rewind(self, request_id: str) -> bytes:
        """Make the request to take back the only prompt since the last reset.

        Raises:
            LocalProtocolError: the state does not allow a reset, or there is a `rewind_obstacle`.
        """
        if self.rewind_obstacle:
            raise LocalProtocolError(f"no rewind: {self.rewind_obstacle}")
        line = self._control(
            request_id,
            {"subtype": "rewind_conversation", "target_message_uuid": self._prompts[0]},
        )
        self._step(Step.REWIND)
        self._rewind_id = request_id
        return line

    def stop_background_task(self, request_id: str, task_id: str) -> bytes:
        """Make the request to stop one task of `background`.

        Raises:
            LocalProtocolError: the session has ended.
        """
        return self._control(request_id, {"subtype": "stop_task", "task_id": task_id})

    def allow_tool(self, asked: CanUseTool) -> bytes:
        """Make the answer that permits a tool call with its input unchanged.

        Raises:
            LocalProtocolError: the session has ended.
        """
        return self._decide(asked, {"behavior": "allow", "updatedInput": dict(asked.input)})

    def deny_tool(self, asked: CanUseTool, reason: str) -> bytes:
        """Make the answer that refuses a tool call; the agent reads the reason.

        Raises:
            LocalProtocolError: the session has ended.
        """
        return self._decide(asked, {"behavior": "deny", "message": reason})

    def refuse_request(self, request: UnknownRequest) -> bytes:
        """Make the answer to a request that this package does not know.

        Raises:
            LocalProtocolError: the session has ended.
        """
        error = f"agent-pool cannot answer {request.subtype}"
        return self._control_response(request.request_id, {"subtype": "error", "error": error})

    # What arrives

    def receive(self, data: bytes) -> list[Signal]:
        """Return the signals that `data` completes; the last is `ProtocolBroken` if it breaks."""
        signals: list[Signal] = []
        if self.is_over:
            return signals
        try:
            for line in self._lines.feed(data):
                self._receive_line(line, signals.append)
        except RemoteProtocolError as error:
            # A signal and not an exception: an answer in a line before this one must arrive.
            self.state = SessionState.BROKEN
            signals.append(ProtocolBroken(error))
        return signals

    def receive_eof(self) -> None:
        """Note that the process has ended."""
        # A broken protocol stays the cause: the exit is its consequence.
        if self.state is not SessionState.BROKEN:
            self.state = SessionState.CLOSED

    def taint(self, reason: str) -> None:
        """Record a reason why this session must not serve another task."""
        if reason not in self.taints:
            self.taints.append(reason)

    @property
    def words(self) -> str:
        """Return what the agent has said since the last prompt."""
        return self._record.words.all

    @property
    def is_over(self) -> bool:
        """Return whether nothing can be sent any more."""
        return self.state in (SessionState.CLOSED, SessionState.BROKEN)

    @property
    def is_clean(self) -> bool:
        """Return whether a task can be given to this session now."""
        return self.state is SessionState.READY and not self.taints and not self.background

    @property
    def rewind_obstacle(self) -> str:
        """Return why a rewind would not undo all that `/clear` undoes; empty if it would."""
        # The CLI refuses a target with a later turn behind it (2.1.332).
        if len(self._prompts) != 1:
            return f"{len(self._prompts)} prompts since the last reset"
        # The attribution line changes with the first words of a conversation, and nothing behind it
        # could be read from the prompt cache. After a first `/clear` every conversation begins with
        # the CLI's note about it, and the line stays as it is (2.1.332).
        if self._sends_attribution and not self._was_cleared:
            return "the attribution line would change"
        # Only `/clear` runs these hooks again. After a rewind, the next task would read the words
        # that they printed long ago (2.1.332).
        if self._has_start_hooks:
            return "SessionStart hooks"
        # The next task can be of another agent again, which then need not wait for a `/clear`. It
        # leaves no more than the one before this task did.
        if self._has_changed_role:
            return "the agent before had other tools"
        return self._obstacle

    # The state machine

    def _step(self, step: Step) -> None:
        try:
            self.state = TRANSITIONS[self.state][step]
        except KeyError:
            raise LocalProtocolError(f"no {step} in state {self.state}") from None

    def _configure(self, request_id: str, request: Mapping[str, Any]) -> bytes:
        line = self._control(request_id, request)
        self._step(Step.CONFIGURE)
        self._configure_id = request_id
        return line

    def _control(self, request_id: str, request: Mapping[str, Any]) -> bytes:
        self._refuse_if_over()
        return encode({"type": "control_request", "request_id": request_id, "request": request})

    def _control_response(self, request_id: str, body: Mapping[str, Any]) -> bytes:
        self._refuse_if_over()
        return encode({"type": "control_response", "response": {"request_id": request_id, **body}})

    def _decide(self, asked: CanUseTool, decision: Mapping[str, Any]) -> bytes:
        body = {"subtype": "success", "response": decision}
        return self._control_response(asked.request_id, body)

    def _refuse_if_over(self) -> None:
        if self.is_over:
            raise LocalProtocolError(f"nothing can be sent in state {self.state}")

    @staticmethod
    def _user_frame(stamp: str, content: str | list[dict[str, Any]], **flags: bool) -> bytes:
        return encode(
            {
                "type": "user",
                "uuid": stamp,
                "session_id": "",
                "parent_tool_use_id": None,
                "message": {"role": "user", "content": content},
                **flags,
            }
        )

    def _receive_line(self, line: bytes, emit: Emit) -> None:
        frame = decode(line)
        if frame is None:
            return
        kind = frame.get("type")
        receiver = self._RECEIVERS.get(kind) if isinstance(kind, str) else None
        if receiver is not None:  # new versions add frames that need no answer
            receiver(self, frame, emit)

    def _on_system(self, frame: Frame, emit: Emit) -> None:
        subtype = text_of(frame, "subtype")
        if subtype == "init":
            self._on_turn_start(frame, emit)
        elif subtype == "background_tasks_changed":
            self._on_background_tasks(frame)
        elif subtype == "api_retry":
            emit(retry_of(frame))
        elif subtype == "session_state_changed":
            self._on_session_state(frame, emit)
        elif subtype in ("hook_started", "hook_response"):
            self._on_hook(frame, subtype, emit)
        elif subtype == "commands_changed":
            # A skill of a subfolder, found while the task worked there, stays in the list of
            # skills after a rewind, and `/clear` removes it (2.1.332).
            self._obstacle = "the list of commands changed"
        elif subtype in COMPACTIONS:
            self._obstacle = "its conversation was compacted"
        elif self._is_in_our_turn:
            self._note_in_turn(frame, subtype, emit)

    def _on_hook(self, frame: Frame, subtype: str, emit: Emit) -> None:
        if frame.get("hook_event") != "SessionStart":
            return
        self._has_start_hooks = True
        hook_id = text_of(frame, "hook_id")
        if subtype == "hook_started":
            emit(StartHookBegan(hook_id, text_of(frame, "hook_name")))
        else:
            emit(StartHookEnded(hook_id, bool(text_of(frame, "stdout").strip())))

    def _note_in_turn(self, frame: Frame, subtype: str, emit: Emit) -> None:
        _withdraw(self._record.note_system(frame), emit)
        if subtype == "task_progress":  # of a sub-agent, also where it is that of another one
            self._note_usage_grew(emit)
        # The session stays with the other model: `system/init` of `/clear` names it (2.1.332).
        if subtype == "model_refusal_fallback":
            self.taint(f"its model changed to {text_of(frame, 'fallback_model')}")

    def _note_usage_grew(self, emit: Emit) -> None:
        """Have the usage asked for, once the request before is answered."""
        if self.state is SessionState.IN_TURN and self.usage.note_growth():
            emit(UsageGrew())

    def _on_usage_answer(self, body: Frame, emit: Emit) -> None:
        is_old = self.usage.close()
        if body.get("subtype") == "error":
            self.usage.is_possible = False
            return
        spent = usage_totals(mapping_of(body, "response")).since(self._totals)
        context = self.usage.context
        self.usage.note_windows(mapping_of(body, "response"))
        if self._is_in_our_turn and (spent, context) != (self.usage.spent, self.usage.context):
            self.usage.spent = spent
            emit(Spent(spent.usage, spent.cost_usd, *self.usage.context))
        if is_old:
            self._note_usage_grew(emit)

    def _on_session_state(self, frame: Frame, emit: Emit) -> None:
        # Sent if CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS is set; 2.1.332 sends `idle` about 2 ms
        # after a result.
        self.is_idle = frame.get("state") == "idle"
        if self.is_idle:
            emit(BecameIdle())

    def _on_turn_start(self, frame: Frame, emit: Emit) -> None:
        self.version = text_of(frame, "claude_code_version") or self.version
        self.session_id = text_of(frame, "session_id") or self.session_id
        # One stamp is proof: from then on a missing stamp means something.
        stamps = stamps_of(frame)
        # Versions from 2.1.229 to 2.1.300 stamp results but not this frame; later ones both.
        self.stamps_turns |= bool(stamps)
        self.stamps_results |= self.stamps_turns
        # A turn that the CLI starts by itself, e.g. when a background shell ends, has no stamp of
        # ours (2.1.330): its words must not reach the caller.
        self._is_foreign_turn = self.stamps_turns and self._stamp not in stamps
        if self._is_foreign_turn:
            self.taint(_SELF_STARTED)
        self._compare_with_baseline(frame)
        self.plugins = plugin_folders(frame)
        self.usage.model = text_of(frame, "model")
        problem = self._problem_of_turn(frame)
        if problem:
            self.taint(f"it is not its agent: {problem}")
            emit(RoleMissed(problem))
        elif missing := self.role.missing_tools(frame) if self.role is not None else []:
            if any(tool.startswith("mcp__") for tool in missing):
                # A new process starts its MCP servers once more.
                self.taint("its MCP servers offer no tool that its agent names")
            emit(ToolsMissing(tuple(missing)))

    def _problem_of_turn(self, frame: Frame) -> str:
        """Return how a turn differs from the agent and the folder of this session; else empty."""
        folder, mode = text_of(frame, "cwd"), text_of(frame, "permissionMode")
        if self.folders and folder and folder not in self.folders:
            return f"it works in {folder}"
        if self.modes and mode and mode not in self.modes:
            return f"its permission mode is {mode}"
        if surplus := (self._former_servers - self.servers.keys()) & _server_names(frame):
            return f"it has the MCP server {', '.join(sorted(surplus))}"
        return self.role.problem(frame) if self.role is not None else ""

    def _compare_with_baseline(self, frame: Frame) -> None:
        # A task that switched one of these leaves it switched after /clear (2.1.330).
        for name in ("model", "permissionMode", "cwd"):
            if name in frame and self._baseline.setdefault(name, frame[name]) != frame[name]:
                self.taint(f"its {name} changed")

    def _on_background_tasks(self, frame: Frame) -> None:
        # The frame lists all running tasks. 2.1.160 and 2.1.197 do not send it.
        tasks = frame.get("tasks")
        self.background = {
            str(task.get("task_id")): str(task.get("description", ""))
            for task in (tasks if isinstance(tasks, list) else ())
            if isinstance(task, dict)
        }

    def _on_conversation_reset(self, frame: Frame, emit: Emit) -> None:
        stamp = frame.get("user_message_uuid")
        if self._stamp and self.state is SessionState.RESETTING and stamp in (None, self._stamp):
            self.announced_reset = True
        else:
            self.taint("the conversation was reset by itself")

    def _on_assistant(self, frame: Frame, emit: Emit) -> None:
        # No prompt is open. Old versions do not stamp `init`, so only these words show the turn.
        if not self._stamp and frame.get("parent_tool_use_id") is None:
            self.taint(_SELF_STARTED)
        if self._is_in_our_turn:
            self._record.note_assistant(frame)
            if frame.get("parent_tool_use_id") is None and not is_written_by_cli(frame):
                self.usage.note_request(mapping_of(frame, "message"))
            _withdraw(self._record.words.replace(frame), emit)
        for block in blocks_of(frame):
            kind = block.get("type")
            if kind == "tool_use":
                self._on_tool_use(block, emit, frame)
            elif kind == "text" and self._is_for_caller(frame) and not is_written_by_cli(frame):
                text = str(block.get("text", ""))
                self._record.words.add(frame, text)
                emit(Text(text))
        # A message that calls no tool is the last one, and the result of the turn follows it.
        if self._is_in_our_turn and any(one.get("type") == "tool_use" for one in blocks_of(frame)):
            self._note_usage_grew(emit)

    def _on_tool_use(self, block: Frame, emit: Emit, frame: Frame) -> None:
        name = str(block.get("name", ""))
        if name in SURVIVING_TOOLS:  # also when a sub-agent uses it
            self.taint(f"it used {name}, whose effect outlives a reset")
        elif not (name in REWOUND_TOOLS or name.startswith("mcp__")):
            self._obstacle = f"it used {name}"
        if self._is_in_our_turn:
            self._record.note_call(str(block.get("id", "")))
        if self._is_for_caller(frame):
            self._record.words.note_tool_call()
            emit(ToolUse(str(block.get("id", "")), name, mapping_of(block, "input")))

    def _on_user(self, frame: Frame, emit: Emit) -> None:
        # The name of the folder is told nowhere else: it is not the session's id (2.1.332).
        kept = text_of(mapping_of(frame, "tool_use_result"), "persistedOutputPath")
        if _KEPT_OUTPUT.fullmatch(kept):
            self.kept_outputs.add(kept)
        if self._is_for_caller(frame):
            _withdraw(self._record.words.note_user_frame(frame), emit)
        if self._is_in_our_turn:
            self._note_usage_grew(emit)
        for block in blocks_of(frame):
            if block.get("type") != "tool_result":
                continue
            if self._is_in_our_turn and block.get("is_error") is True:
                reason = flat_text(block.get("content"))
                self._record.note_failed_call(str(block.get("tool_use_id", "")), reason)
            if self._is_for_caller(frame):
                emit(
                    ToolOutput(
                        str(block.get("tool_use_id", "")),
                        flat_text(block.get("content")),
                        block.get("is_error") is True,
                    )
                )

    def _is_for_caller(self, frame: Frame) -> bool:
        """Check whether a message belongs to our prompt's turn and to its main agent."""
        return self._is_in_our_turn and frame.get("parent_tool_use_id") is None

    @property
    def _is_in_our_turn(self) -> bool:
        in_turn = self.state in (SessionState.IN_TURN, SessionState.INTERRUPTING)
        return in_turn and not self._is_foreign_turn

    def _on_result(self, frame: Frame, emit: Emit) -> None:
        stamps = stamps_of(frame)
        self.stamps_results |= bool(stamps)
        if self._answers_ours(stamps):
            if self.state is SessionState.RESETTING:
                # `/clear` has a result like every prompt: no caller must get it as an empty answer.
                self._on_reset_result(frame, emit)
            else:
                self._end_turn(frame, emit)
        elif self._can_be_our_error(frame, stamps):
            self.taint("an error came that does not name its task")
            self._end_turn(frame, emit)
        else:
            self.strays += 1
            self.taint("a result came that no task had asked for")
            emit(StrayFinished())

    def _end_turn(self, frame: Frame, emit: Emit) -> None:
        self._stamp = ""
        self.usage.end_turn()
        self.session_id = text_of(frame, "session_id") or self.session_id
        self._step(Step.RESULT)
        emit(TurnFinished(read_result(frame, self._spend_of_turn(frame), self._record)))

    def _answers_ours(self, stamps: list[str]) -> bool:
        if not self._stamp:
            return False
        if stamps:
            return self._stamp in stamps
        # Versions from 2.1.229 to 2.1.260 stamp the results of prompts but not that of `/clear`,
        # which they announce before. A wrong guess ends the worker: a second result is a stray.
        if self.state is SessionState.RESETTING and not self.stamps_turns and self.announced_reset:
            return True
        # A version that stamps leaves the stamp out only where no prompt of ours was meant.
        return not self.stamps_results and not self._is_foreign_turn

    def _can_be_our_error(self, frame: Frame, stamps: list[str]) -> bool:
        # 2.1.229 stamps answers, but not the result of an API error. As a stray it would let its
        # caller wait until the timeout. It holds no words of a task, and its worker is replaced.
        is_open = self._stamp != "" and not stamps and not self.stamps_turns
        in_turn = self.state in (SessionState.IN_TURN, SessionState.INTERRUPTING)
        return is_open and in_turn and frame.get("is_error") is True

    def _spend_of_turn(self, frame: Frame) -> Spend:
        """Return the tokens and cost of the turn: the CLI's totals run on until `/clear`."""
        totals = running_totals(frame)
        spent = totals.since(self._totals)
        self._totals = totals
        return spent

    def _on_reset_result(self, frame: Frame, emit: Emit) -> None:
        self._stamp = ""
        # The CLI's totals start again at `/clear` (2.1.330).
        self._totals = Spend()
        self.session_id = text_of(frame, "session_id") or self.session_id
        problem = self._reset_problem(frame)
        if problem:
            self.taint(problem)
            self.state = SessionState.BROKEN
            emit(ResetFailed(problem))
        else:
            self._was_cleared = True
            self._first_role = None
            self._forget_prompts(emit)

    def _forget_prompts(self, emit: Emit) -> None:
        self._step(Step.RESET)
        self._prompts.clear()
        self._obstacle = ""
        emit(ResetFinished())

    def _reset_problem(self, frame: Frame) -> str:
        """Return the fault in the answer to `/clear`; empty for a correct answer."""
        if problem := clear_problem(frame):
            return problem
        # Necessary, but no proof: 2.1.117 to 2.1.124 give a new id and forget nothing.
        if not self.session_id or self.session_id == self._session_before_reset:
            return "/clear kept the session id"
        if self._needs_announcement and not self.announced_reset:
            return "/clear was not announced by conversation_reset"
        return ""

    def _on_control_response(self, frame: Frame, emit: Emit) -> None:
        body = mapping_of(frame, "response")
        request_id = body.get("request_id")
        if self._rewind_id and request_id == self._rewind_id:
            self._on_rewind_answer(body, emit)
        elif self._configure_id and request_id == self._configure_id:
            self._on_configure_answer(body, emit)
        elif self.usage.is_open(request_id):
            self._on_usage_answer(body, emit)
        # Any other answer is that to an interrupt or a stop: what counts is the result that
        # follows.
        elif request_id == self._initialize_id and self.state is SessionState.STARTING:
            self._on_initialize_answer(body, emit)

    def _on_rewind_answer(self, body: Frame, emit: Emit) -> None:
        self._rewind_id = ""
        if self.state is not SessionState.RESETTING:
            return  # tainted or ended in the meantime
        if problem := rewind_problem(body, self._prompts[0]):
            # Nothing is lost: `/clear` does the same another way.
            self._step(Step.REFUSE)
            self._obstacle = f"the CLI did not rewind: {problem}"
            emit(RewindRefused(problem))
        else:
            self._forget_prompts(emit)

    def _on_configure_answer(self, body: Frame, emit: Emit) -> None:
        self._configure_id = ""
        if self.state is not SessionState.CONFIGURING:
            return  # it was tainted or has ended
        self._step(Step.CONFIGURED)
        is_claim, self._is_claim = self._is_claim, False
        problem = str(body.get("error"))
        if is_claim:
            # The commands of the project replace those of the parking folder (2.1.332).
            self._obstacle = ""
            self.refused_claim = problem if body.get("subtype") == "error" else ""
            emit(Configured())
        elif body.get("subtype") == "error":
            self.taint(f"it could not become its agent: {problem}")
            emit(ConfigureFailed(problem))
        else:
            errors = mapping_of(mapping_of(body, "response"), "errors")
            # Only the answer to `mcp_set_servers` has errors beside a success.
            self.server_errors |= {name: str(error) for name, error in errors.items()}
            emit(Configured())

    def _on_initialize_answer(self, body: Frame, emit: Emit) -> None:
        if body.get("subtype") == "error":
            self.state = SessionState.BROKEN
            emit(InitializeFailed(str(body.get("error"))))
        else:
            response = mapping_of(body, "response")
            self.version = text_of(response, "claude_code_version") or self.version
            self.usage.is_possible = CAPABILITY in texts_of(response, "capabilities")
            self.has_subscription = pays_by_subscription(mapping_of(response, "account"))
            self._step(Step.INITIALIZED)
            emit(Initialized())

    def _on_rate_limits(self, frame: Frame, emit: Emit) -> None:
        emit(RateLimitsReported(rate_limits_of(frame)))

    def _on_control_request(self, frame: Frame, emit: Emit) -> None:
        request = frame.get("request")
        if not isinstance(request, dict):
            return
        request_id = str(frame.get("request_id", ""))
        if request.get("subtype") != "can_use_tool":
            emit(UnknownRequest(request_id, str(request.get("subtype"))))
            return
        emit(
            CanUseTool(
                request_id,
                tool=str(request.get("tool_name", "")),
                input=mapping_of(request, "input"),
                description=str(request.get("description") or ""),
            )
        )

    _RECEIVERS: Final = {
        "system": _on_system,
        "conversation_reset": _on_conversation_reset,
        "assistant": _on_assistant,
        "user": _on_user,
        "result": _on_result,
        "rate_limit_event": _on_rate_limits,
        "control_response": _on_control_response,
        "control_request": _on_control_request,
    }


def _withdraw(text: str, emit: Emit) -> None:
    if text:
        emit(Withdrawn(text))


def _have_other_tools(one: Role | None, other: Role | None) -> bool:
    return one is not None and other is not None and not one.has_tools_of(other)


def _server_names(init: Frame) -> set[str]:
    servers = init.get("mcp_servers")
    found = servers if isinstance(servers, list) else []
    return {str(one.get("name")) for one in found if isinstance(one, dict)}
