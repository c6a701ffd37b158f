"""One worker: a Claude Code process and its session, joined.

The session knows which step is allowed and reads the frames. The process moves the bytes. This
class joins them and bounds every wait. The pool decides which task a worker gets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from agent_pool.claude import cookies, failures, termination
from agent_pool.claude.binary import parse_version
from agent_pool.claude.cli_options import permitted_modes
from agent_pool.claude.context_files import ContextFiles, ContextStamp, has_modules
from agent_pool.claude.failures import WorkerLabel
from agent_pool.claude.launch import (
    LaunchConfig,
    command_line,
    parking_folder,
    remove_files,
    role_folder,
)
from agent_pool.claude.mcp_config import server_marks
from agent_pool.claude.permissions import Decider, PermissionRequests
from agent_pool.claude.private_files import make_private_folder, write_private
from agent_pool.claude.process import ChildProcess
from agent_pool.claude.process_tree import LivingProcess, ServerProcesses, TreeRoot
from agent_pool.claude.protocol.results import Spend, TurnResult
from agent_pool.claude.protocol.role import Role
from agent_pool.claude.protocol.session import Session
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
    TurnEvent,
    TurnFinished,
    UnknownRequest,
    UsageGrew,
)
from agent_pool.claude.protocol.states import SessionState
from agent_pool.claude.roles import RoleFolder
from agent_pool.claude.start_hooks import StartHooks
from agent_pool.claude.watchdog import Watchdog
from agent_pool.claude.watchdog_script import SESSIONS_ENDING, remove_outputs_of
from agent_pool.errors import AgentPoolError, RemoteProtocolError, SpawnError, WorkerDied
from agent_pool.events import Retry, Spent, Text, ToolOutput, ToolUse, Withdrawn
from agent_pool.models import Attachment, Denied, RateLimits, ResetVerdict
from agent_pool.settings import Settings, claude_home
from agent_pool.text import mebibytes

log = logging.getLogger("agent_pool")

STAMPED_FROM: Final = (2, 1, 330)
"""From this version on results and turns name their prompts; the probe finds out about older ones.
Before there is a verdict, a turn that the CLI began by itself must not be taken for the caller's.
"""

QUIET_TOOLS: Final = frozenset(
    {
        *("AskUserQuestion", "StructuredOutput", "TodoWrite", "ToolSearch", "WebFetch"),
        *("WebSearch", "TaskCreate", "TaskGet", "TaskList", "TaskUpdate"),
    }
)
"""Tools that start no process. Every other tool counts as one that does: unknown ones too, and
Read, which calls a program for a PDF (2.1.332)."""

OUT_OF_MEMORY_ADVICE: Final = "give it a smaller task or raise the limit"
UNPROBED: Final = ResetVerdict(False, False, "not probed yet")
"""The verdict on a binary of which nothing is known."""


class ClaimError(Exception):
    """A process that waits for its claim refused a folder; its text has the CLI's reason."""


TurnListener = Callable[[TurnEvent], None]
ResetWay = Literal["rewind", "clear"]


@dataclass(frozen=True, slots=True)
class WorkerCallbacks:
    """What the owner of a worker does when something happens to it.

    Attributes:
        exit: called once when the process has exited.
        taint: called when it became unfit to serve again.
        spend: called with the tokens and cost of each turn that has ended.
        stray: called for each result that no task had asked for.
        rate_limits: called when the API has reported how much of the limits is used.
    """

    exit: Callable[[], None] = lambda: None
    taint: Callable[[], None] = lambda: None
    spend: Callable[[Spend], None] = lambda spend: None
    stray: Callable[[], None] = lambda: None
    rate_limits: Callable[[RateLimits], None] = lambda limits: None


class Worker:
    """A Claude Code process that serves one task after another.

    Args:
        name: the worker's id, which all errors and log lines name.
        launch: how it is started.
        settings: the bounds of its waits.
        agent: the agent's name, for people; empty for a spare.
        cookie: marks its processes where only the environment tells, see `cookies`.
        watchdog: starts its process, and ends what that leaves behind.
        run_dir: a private folder for its files.
        verdict: what is known about its binary and options.
        callbacks: what its owner does when something happens to it.

    Attributes:
        turns: prompts that it was given.
        spend: tokens and cost of all its turns.
        last_output: when it last wrote anything, by the monotonic clock.
        note: an unusual condition, for people; usually empty.
        open_tools: tools that it called and that have no output yet, by the call's id.
        has_all_roles: set by its owner when it has loaded the roles of its project's agents.
        removed: set by its owner when all of its processes have ended.
        hooks: its SessionStart hooks, with their time.
    """

    def __init__(
        self,
        name: str,
        launch: LaunchConfig,
        settings: Settings,
        *,
        agent: str = "",
        cookie: str,
        watchdog: Watchdog,
        run_dir: Path,
        verdict: ResetVerdict = UNPROBED,
        callbacks: WorkerCallbacks | None = None,
    ) -> None:
        self.name, self.agent, self.launch = name, agent, launch
        self._cookie, self._watchdog = cookie, watchdog
        self.started_at = self.last_output = time.monotonic()
        self.turns = 0
        self.spend = Spend()
        self.note = ""
        self.open_tools: dict[str, str] = {}
        self.has_all_roles = False
        self.removed = asyncio.Event()
        self._settings, self._run_dir = settings, run_dir
        self._on = callbacks or WorkerCallbacks()
        self._verdict = verdict
        self._session = _new_session(launch, settings, verdict)
        self._context = ContextFiles(launch)
        self._context_read: ContextStamp | None = None
        self._roles = RoleFolder(role_folder(run_dir / name))
        self._was_claimed = self._started_programs = self._has_heard = False
        self._kept: set[Path] = set()  # folders of sessions with large outputs
        self._servers = ServerProcesses()
        self._process: ChildProcess | None = None
        self._fault: AgentPoolError | None = None
        self._listener: TurnListener | None = None
        self._permissions = PermissionRequests()
        self.hooks, self._has_warned = StartHooks(), False
        self._result: TurnResult | None = None
        self._overdue: asyncio.TimerHandle | None = None  # an interrupted turn has no result
        self._is_refused = False  # the turn is not that of its role
        self._ready = asyncio.Event()
        self._turn_over = asyncio.Event()
        self._reset_over = asyncio.Event()
        self._idle = asyncio.Event()
        self._configured = asyncio.Event()

    # Its state

    @property
    def label(self) -> WorkerLabel:
        """Return its name, agent and pid for messages."""
        return WorkerLabel(self.name, self.agent, self.pid)

    @property
    def pid(self) -> int | None:
        """Return the process id; `None` before the start."""
        return self._process.pid if self._process else None

    @property
    def process(self) -> ChildProcess | None:
        """Return its process, to look below it; `None` before the start."""
        return self._process

    @property
    def root(self) -> TreeRoot:
        """Return what a search for its processes needs."""
        group = self._process.group if self._process else None
        root = TreeRoot(self.pid or 0, self._cookie, group=group)
        if not self.launch.takes_roles:
            # Servers in a file are those of its whole life.
            return replace(root, has_lasting_servers=self._has_servers)
        marks = server_marks(self._session.servers)
        return replace(root, server_marks=marks, servers=self._servers)

    @property
    def _has_servers(self) -> bool:
        """Return whether it runs MCP servers, and not only calls some by their URL."""
        servers = self._session.servers.values()
        return self.launch.starts_servers or any("command" in server for server in servers)

    @property
    def can_have_started_programs(self) -> bool:
        """Return whether its task can have left processes: by a tool, a server or a hook."""
        own = _spellings(self._roles.path)
        return (
            self._started_programs
            or self._has_servers
            or self.launch.has_hooks
            or self._context.has_hooks()
            or any(folder not in own for folder in self._session.plugins)
        )

    @property
    def is_clean(self) -> bool:
        """Return whether a task can be given to it now."""
        return self._session.is_clean and not self.has_ended

    @property
    def has_ended(self) -> bool:
        """Return whether its process has exited."""
        return self._process is not None and self._process.has_ended

    @property
    def is_in_turn(self) -> bool:
        """Return whether a caller waits for the result of a prompt."""
        return self._session.state is SessionState.IN_TURN and not self._turn_over.is_set()

    @property
    def is_other_version(self) -> bool:
        """Return whether its process reports another version than the one it was started for.

        Behind a wrapper the version can change while the command's file stays the same.
        """
        version = self._session.version
        return bool(version) and parse_version(version) != parse_version(self.launch.version)

    @property
    def ended_before_turn(self) -> bool:
        """Return whether its process ended by itself after a prompt, before it wrote anything."""
        return self.has_ended and not self._has_heard and self._fault is None

    @property
    def awaits_permission(self) -> bool:
        """Return whether it waits for a permission."""
        return self._permissions.are_open

    @property
    def silence(self) -> float:
        """Return the seconds since it last wrote anything."""
        return time.monotonic() - self.last_output

    @property
    def taints(self) -> list[str]:
        """Return the reasons why it must not serve another task."""
        return self._session.taints

    @property
    def words(self) -> str:
        """Return what the agent has said in its last turn, which can still be running."""
        return self._session.words

    @property
    def spent(self) -> Spend:
        """Return what its last turn has used so far, as the CLI last reported it."""
        return self._session.usage.spent

    @property
    def session(self) -> Session:
        """Return its session, to be read only."""
        return self._session

    # Its life

    async def start(self) -> None:
        """Start it and make it ready, within `start_timeout`.

        Raises:
            SpawnError: it did not get ready; the message has its stderr and the next step.
        """
        await self.spawn()
        await self.become(self.launch)

    async def spawn(self) -> None:
        """Start the process, which belongs to no agent yet.

        Raises:
            SpawnError: the system refused, or a private file cannot be written.
        """
        if self.launch.takes_roles:
            self._roles.add(self.launch.role)
        if self.launch.awaits_claim:
            parking = make_private_folder(parking_folder(self._run_dir / self.name))
            self.launch = replace(self.launch, cwd=parking)
            self._context = ContextFiles(self.launch)
        env = {**self.launch.env, cookies.COOKIE: self._cookie}
        self._context_read = self._context.stamp()
        group = self._watchdog.make_group(self._settings.max_rss_hard)
        self._process = await ChildProcess.spawn(
            command_line(self.launch, self._run_dir / self.name),
            env=env,
            cwd=self.launch.cwd,
            on_data=self._receive,
            on_exit=self._on.exit,
            on_end=self._process_ended,
            watchdog=self._watchdog,
            group=group,
        )

    async def become(self, launch: LaunchConfig) -> None:
        """Make the started process the agent of `launch`, whose profile must be its own.

        A process that takes roles can become another agent whenever it is clean.

        Raises:
            ClaimError: the process cannot work in this folder; it can be claimed for another one.
            SpawnError: it did not get ready within `start_timeout`, or did not take the role.
        """
        # That of an earlier task, whose turn has ended and is forgotten, explains nothing here.
        self._fault = None
        if self._session.state is SessionState.STARTING:
            await self._initialize(launch)
        if self.launch.awaits_claim and not launch.awaits_claim:
            await self._claim(launch)
        self.launch = launch
        if launch.takes_roles and not launch.awaits_claim:
            self._session.folders = _spellings(launch.cwd)
            self._session.modes = permitted_modes(launch.mode)
        if launch.role is not None:
            await self._take_role(launch.role)

    async def _initialize(self, launch: LaunchConfig) -> None:
        by_initialize = launch.prompt_by_initialize and not launch.takes_roles
        prompt = launch.prompt if by_initialize else None
        schema = json.loads(launch.schema) if launch.schema else None
        # A process that ended during its start gets nothing; `_until_ready` raises its error.
        if not self.has_ended:
            self._send(self._session.initialize(_new_id(), prompt=prompt, schema=schema))
        # A spare that is not ready long after its start is stopped, or hangs.
        is_new = time.monotonic() - self.started_at < self._settings.reset_timeout
        bound = self._settings.start_timeout if is_new else self._settings.reset_timeout
        await self._until_ready(bound)
        if self.is_other_version:
            raise failures.version_changed(self.label, self._session.version, launch.version)

    async def _claim(self, launch: LaunchConfig) -> None:
        # Memory files are read at the claim, settings of the user at the start (2.1.332).
        read = self._context_read
        if read is not None and self._context.stamp().settings != read.settings:
            self._session.taint("settings were edited while it waited for its claim")
        context = ContextFiles(launch)
        context_read = context.stamp()
        # The definitions of plugins are read at the claim too, so the role is known afterwards.
        self._roles.add(launch.role)
        if self.is_clean:
            folder, mode = str(launch.cwd), launch.mode
            await self._configure(lambda id_: self._session.claim(id_, folder, mode))
        if self._session.refused_claim and self.is_clean:
            raise ClaimError(self._session.refused_claim)
        self._context, self._context_read = context, context_read
        self._was_claimed = True

    async def load_roles(self, roles: Sequence[Role]) -> None:
        """Load definitions ahead, so that a later task of one of them does not wait for that.

        Afterwards `is_clean` is false if the process could not.

        Args:
            roles: of agents with its profile, without its own; at most `ROLES_AHEAD`.
        """
        # All of them are written before the one request that reads the folder again.
        are_new = [self._roles.add(role) for role in roles]
        if any(are_new) and self.is_clean:
            await self._configure(self._session.load_roles)
            # Its own role again, by which the new ones are denied to it.
            await self._apply_role(self._session.role)

    async def _take_role(self, role: Role) -> None:
        # The process can end at every await, and a spare can have ended before.
        if self._roles.add(role) and self.is_clean:
            await self._configure(self._session.load_roles)
        if self.is_clean and role.servers != self._session.servers:
            await self._set_servers(role.servers)
        await self._apply_role(role)
        if self.is_clean and self._session.needs_clear:
            await self._clear()
        if not self.is_clean:
            raise self._fault or failures.role_refused(self.label, self.taints, self._stderr())

    async def _set_servers(self, servers: Mapping[str, Any]) -> None:
        process, former = self._process, self._session.servers
        assert process is not None, "a process is asked"
        before = await termination.look(process, lambda search: search.members(self.root))
        # A server can take long to start, e.g. if its package is downloaded first.
        bound = self._settings.start_timeout
        await self._configure(lambda id_: self._session.set_servers(id_, servers), bound)
        for name, error in self._session.server_errors.items():
            log.warning("%s: the MCP server %s did not start: %s", self.label, name, error)
        after = await termination.look(process, lambda search: search.members(self.root))
        kept = frozenset(name for name, one in former.items() if servers.get(name) == one)
        self._servers.change(before, after, kept, frozenset(servers) - kept)
        if kept != frozenset(former) and self.is_clean:
            # The CLI ends a server that it no longer needs, and not what that one has started.
            self._started_programs = True
            await self._end_leftovers()

    async def _apply_role(self, role: Role | None) -> None:
        if role is not None and self.is_clean:
            loaded = self._roles.loaded
            await self._configure(lambda id_: self._session.take_role(id_, role, loaded))

    async def _configure(self, request: Callable[[str], bytes], bound: float | None = None) -> None:
        seconds = bound or self._settings.reset_timeout
        self._configured.clear()
        self._send(request(_new_id()))
        # SessionStart hooks run at a claim too (2.1.332).
        await self._wait_beside_hooks(self._configured, seconds)
        # A process that ended while it was asked is reported as that, not as a slow one.
        if self._session.state is SessionState.CONFIGURING:
            self._session.taint(f"it did not become its agent within {seconds:g} s")

    async def turn(
        self,
        text: str,
        listener: TurnListener | None = None,
        decider: Decider | None = None,
        attachments: Sequence[Attachment] = (),
    ) -> TurnResult:
        """Give it a task and wait for the result, for as long as the caller waits.

        A caller that leaves early leaves the turn running; `settle` then ends it.

        Args:
            text: the task.
            listener: called with each event of the turn.
            decider: decides permission requests; without one every request is denied.
            attachments: pictures and files of the task.

        Raises:
            WorkerDied: the process ended before the result came.
            RemoteProtocolError: the process broke the protocol.
        """
        self._has_heard = False
        if self._session.is_over:
            raise self._fault or self._ended_error()
        self._turn_over.clear()
        self._result = None
        self._fault = None
        self._is_refused = False
        self.open_tools.clear()
        # An idle worker is silent: only silence since the prompt is a stall.
        self.last_output = time.monotonic()
        self._listener = listener
        self._permissions.decider = decider
        verbatim = self._verdict.verbatim
        self._send(
            self._session.prompt(_new_id(), text, verbatim=verbatim, attachments=attachments)
        )
        self.turns += 1
        try:
            await self._turn_over.wait()
        finally:
            # The turn can go on after its caller has left; its later events belong to no caller.
            self._listener = None
            self._permissions.withdraw()
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None
        # Without a result the event was set by `fail_turn`, by a broken protocol or by the exit.
        if self._result is None:
            raise self._fault or self._ended_error()
        return self._result

    def interrupt(self, error: AgentPoolError) -> None:
        """Have the running turn end now; `turn` then returns its result.

        Args:
            error: what `turn` raises if no result comes within `interrupt_timeout`.
        """
        if self.is_in_turn:
            # The CLI must not wait for a person, and the person must not be asked for nothing.
            self._permissions.withdraw()
            self._interrupt()
            bound = self._settings.interrupt_timeout
            loop = asyncio.get_running_loop()
            self._overdue = loop.call_later(bound, self.fail_turn, error)

    def _interrupt(self) -> None:
        # Its last call of a tool may not have been reported yet.
        self._started_programs = True
        self._send(self._session.interrupt(_new_id()))

    async def settle(self) -> bool:
        """Interrupt a turn whose caller has left; return whether the turn is over in good order.

        Waits at most `interrupt_timeout` seconds.
        """
        # `fail_turn` sets the event although the turn still runs, so it is cleared for this wait.
        if self._session.state is SessionState.IN_TURN:
            self._turn_over.clear()
            self._interrupt()
        # The turn's own result follows the answer to `interrupt` (2.0.77 to 2.1.330).
        if self._session.state is SessionState.INTERRUPTING:
            try:
                async with asyncio.timeout(self._settings.interrupt_timeout):
                    await self._turn_over.wait()
            except TimeoutError:
                self._session.taint("it did not end its turn when interrupted")
        return self._session.state is SessionState.USED

    async def reset(self, verdict: ResetVerdict) -> ResetWay | None:
        """End the processes that its task left running, and make it forget its conversation.

        Afterwards `is_clean` is true if it can serve again. It cannot if it is tainted, or if the
        reset was not acknowledged as it should be within `reset_timeout`.

        Args:
            verdict: on its binary and options; it must forget.

        Returns:
            The way by which it forgot; None if it did not.
        """
        self.assume(verdict)
        # First, because it taints: a worker that will be replaced needs no further step.
        self.stop_background_tasks()
        self._taint_for_modules()
        if self._was_claimed and not verdict.claims:
            # It was claimed before the probe had ended.
            self._session.taint("it was claimed, and its CLI then differs from a new process")
        if self.taints or self._session.state is not SessionState.USED:
            return None
        # Before the reset: no command of the last task must still run in the next conversation.
        await self._end_leftovers()
        await self._until_idle()
        # The process can have ended during the awaits.
        if self.taints or self._session.state is not SessionState.USED:
            return None
        if verdict.rewinds and not self._session.rewind_obstacle:
            await self._until_reset(self._session.rewind(_new_id()), "rewind")
            if self.is_clean:
                return "rewind"
        if self._session.state is SessionState.USED:
            await self._clear()
            # The hooks for the end and the start of a conversation run now, and can start programs.
            await self._end_leftovers()
        return "clear" if self.is_clean else None

    async def _end_leftovers(self) -> None:
        """End all its processes but its present MCP servers."""
        if self._process is None or not self.can_have_started_programs:
            return
        grace = self._settings.kill_grace
        if left := await termination.end_leftovers(self._process, self.root, grace):
            self._session.taint(f"{left} processes that it left running could not be ended")
        self._started_programs = False

    async def find_leftovers(self) -> list[LivingProcess]:
        """Return the processes below it but for its MCP servers."""
        assert self._process is not None, "it was started"
        return await termination.look(self._process, lambda search: search.leftovers(self.root))

    def assume(self, verdict: ResetVerdict) -> None:
        """Take this for the verdict on its binary and options."""
        self._verdict = verdict

    async def refresh(self) -> bool:
        """Make an idle worker read its files again if they changed; return whether it is usable.

        CLAUDE.md, its imports, rules and skills are read again at `/clear`. Settings are not: a
        variable that they set stays set (2.1.332), so a worker with old settings is replaced.
        """
        now, read = self._context.stamp(), self._context_read
        if read is not None and now.settings != read.settings:
            self._session.taint("its settings files were edited")
        elif read is None or now.memory != read.memory:
            if self._verdict.forgets and self.is_clean:
                await self._clear()
            else:
                self._session.taint("CLAUDE.md, a rule or a skill was edited")
        elif self.hooks.have_old_words and self._verdict.forgets and self.is_clean:
            # `claude -p` runs SessionStart hooks for each task; they say the branch, the time, ….
            await self._clear()
        return self.is_clean

    async def _clear(self) -> None:
        # Taken before the CLI reads the files: an edit in between is found at the next task.
        self._context_read = self._context.stamp()
        announces = self._verdict.announces
        data = self._session.clear(_new_id(), needs_announcement=announces)
        await self._until_reset(data, "reset")

    async def _until_reset(self, request: bytes, what: str) -> None:
        self._reset_over.clear()
        self._send(request)
        seconds = self._settings.reset_timeout
        if not await self._wait_beside_hooks(self._reset_over, seconds):
            note = f"; {self.hooks.note}" if self.hooks.note else ""
            self._session.taint(f"no {what} within {seconds:g} s{note}")

    async def _wait_beside_hooks(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event; return whether it came in time.

        While SessionStart hooks run, `seconds` do not count, but `start_timeout` does: a new
        process would have to wait for the same hooks.
        """
        last = time.monotonic() + self._settings.start_timeout
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await event.wait()
                return True
            except TimeoutError:
                # What follows a hook needs its own time.
                if not self.hooks.have_run_within(seconds) or time.monotonic() > last:
                    return False
            if self.hooks.are_running:
                self._warn_of_hooks(seconds)

    def _warn_of_hooks(self, seconds: float) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s: %s, longer than reset_timeout (%g s); every start and reset waits for it, so "
                "make it faster, or let it run in the background",
                self.label,
                self.hooks.running_text,
                seconds,
            )

    async def _until_idle(self) -> None:
        """Wait until the CLI owes nothing more, if it reports that at all."""
        self._idle.clear()
        if self._session.is_idle:
            return
        try:
            async with asyncio.timeout(self._settings.reset_timeout):
                await self._idle.wait()
        except TimeoutError:
            bound = self._settings.reset_timeout
            self._session.taint(f"it was not idle {bound:g} s after its turn")

    def _taint_for_modules(self) -> None:
        # A module of a plugin runs inside the CLI, and its variables outlive every reset (2.1.332).
        for folder in self._session.plugins:
            if has_modules(Path(folder)):
                self._session.taint(f"the plugin {folder} runs a module inside the CLI")

    def stop_background_tasks(self) -> None:
        """Ask the CLI to stop its background tasks; having had any is a taint.

        A background task that ends later starts a turn in the next conversation (2.1.330).
        """
        for task_id in self._session.background:
            self._session.taint("it left background tasks running")
            if not self.has_ended:
                self._send(self._session.stop_background_task(_new_id(), task_id))

    def fail_on_stop(self, reason: str) -> None:
        """Set the error that a running task gets when this worker is stopped."""
        # The first reason is the cause; later ones follow from it.
        self._fault = self._fault or failures.stopped_in_task(self.label, reason)

    def fail_turn(self, error: AgentPoolError) -> None:
        """Raise `error` in the caller of `turn` now; `settle` then ends the turn itself."""
        self._fault = error
        self._turn_over.set()

    async def stop(self) -> None:
        """Stop it and every process below it, gently if no turn is running."""
        if self._process is not None:
            await self._until_interrupted()
            # In these states the CLI ends with its stdin. A running turn would be finished first.
            calm = (SessionState.READY, SessionState.USED, SessionState.STARTING)
            gentle = self._session.state in calm
            await termination.stop(self._process, self.root, self._settings, gentle=gentle)
            if self._process.group is not None:
                self._process.group.remove()
        remove_outputs_of(str(self._sessions_file))
        remove_files(self._run_dir / self.name)

    @property
    def _sessions_file(self) -> Path:
        return (self._run_dir / self.name).with_suffix(SESSIONS_ENDING)

    def _note_outputs(self) -> None:
        """Write down where the CLI keeps large outputs, which are removed at the end."""
        projects = claude_home(self.launch.env) / "projects"
        folders = {Path(path).parents[1] for path in self._session.kept_outputs}
        new = {one for one in folders if one.parent.parent == projects} - self._kept
        if new:
            self._kept |= new
            lines = [str(projects), *(f"{one.parent.name}/{one.name}" for one in self._kept)]
            # A full disk must not end the turn: these files then stay as they would without a pool.
            with contextlib.suppress(SpawnError):
                write_private(self._sessions_file, "\n".join(lines))

    async def _until_interrupted(self) -> None:
        """Wait at most `kill_grace` for the result of an interrupted turn: it has the tokens."""
        if self._session.state is SessionState.INTERRUPTING:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.kill_grace):
                    await self._turn_over.wait()

    def kill(self) -> None:
        """Send SIGKILL to the process and its group at once, without waiting."""
        if self._process is not None:
            self._process.kill()

    # Inside

    async def _until_ready(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            # Kept, not raised: the process can have become ready or ended in the same loop step.
            hooks = self.hooks.running_text
            self._fault = failures.start_timed_out(self.label, timeout, self._stderr(), hooks)
        # The event is also set by a refusal and by the exit of the process.
        if self._session.state is not SessionState.READY:
            raise self._fault or failures.start_ended(
                self.label, self._returncode(), self._stderr()
            )

    def _send(self, data: bytes) -> None:
        if self._process is not None:
            self._process.write(data)

    def _receive(self, data: bytes) -> None:
        self.last_output = time.monotonic()
        self._has_heard = True
        taints = len(self.taints)
        for signal in self._session.receive(data):
            self._dispatch(signal)
        self._note_outputs()
        if len(self.taints) > taints or self._session.state is SessionState.BROKEN:
            self._on.taint()

    def _dispatch(self, signal: Signal) -> None:
        match signal:
            case Text() | Withdrawn() | ToolUse() | ToolOutput() | Retry() | Spent():
                # Before the listener, which writes a new note for a `Retry`.
                self._track_tools(signal)
                if self._listener is not None:
                    self._listener(signal)
            case TurnFinished(result):
                self._finish_turn(result)
            case (
                StrayFinished()
                | RateLimitsReported()
                | StartHookBegan()
                | StartHookEnded()
                | UsageGrew()
            ):
                self._note(signal)
            case RoleMissed() | ToolsMissing():
                self._is_refused = True
                self.fail_turn(self._error_of(signal))
            case (
                Initialized()
                | Configured()
                | ConfigureFailed()
                | BecameIdle()
                | ResetFinished()
                | ResetFailed()
                | RewindRefused()
            ):
                self._event_of(signal).set()
            case InitializeFailed() | ProtocolBroken():
                self._fail(signal)
            case CanUseTool():
                self._permissions.add(signal, self._reply)
            case UnknownRequest():
                # Answered because the CLI waits for it; new versions can ask for new things.
                self._answer(lambda: self._session.refuse_request(signal))

    def _ask_usage(self) -> None:
        # The turn can have ended in the same read, and the process too.
        if self.is_in_turn and not self.has_ended:
            self._send(self._session.ask_usage(_new_id()))

    def _note(
        self,
        signal: StrayFinished | RateLimitsReported | StartHookBegan | StartHookEnded | UsageGrew,
    ) -> None:
        match signal:
            case UsageGrew():
                self._ask_usage()
            case RateLimitsReported(limits):
                self._on.rate_limits(limits)
            case StartHookBegan(hook_id, name):
                self.hooks.begin(hook_id, name)
            case StartHookEnded(hook_id, has_words):
                self.hooks.end(hook_id, has_words=has_words)
            case StrayFinished():
                self._on.stray()

    def _error_of(self, signal: RoleMissed | ToolsMissing) -> AgentPoolError:
        if isinstance(signal, RoleMissed):
            return failures.role_missed(self.label, signal.problem)
        return failures.tools_missing(self.label, signal.tools)

    def _event_of(self, signal: Signal) -> asyncio.Event:
        match signal:
            case Initialized():
                return self._ready
            case BecameIdle():
                return self._idle
            case Configured() | ConfigureFailed():
                return self._configured
            case _:
                return self._reset_over

    def _fail(self, signal: InitializeFailed | ProtocolBroken) -> None:
        if isinstance(signal, InitializeFailed):
            self._fault = failures.start_refused(self.label, signal.error)
        else:
            self._fault = RemoteProtocolError(f"{self.label}: {signal.error}")
        self._wake()

    def _track_tools(self, event: TurnEvent) -> None:
        # It goes on, so a note about a refused request is out of date. The answer about the usage
        # can have been asked for before the refusal.
        if not isinstance(event, Spent):
            self.note = ""
        if isinstance(event, ToolUse):
            self._started_programs |= event.name not in QUIET_TOOLS
            self.open_tools[event.id] = event.name
        elif isinstance(event, ToolOutput):
            self.open_tools.pop(event.id, None)

    def _finish_turn(self, result: TurnResult) -> None:
        self.note = ""
        # The result can come before the caller wakes up with the error (both in one read).
        self._result = None if self._is_refused else result
        self.spend += result.spend
        # Before the caller is woken: its figures must be there when `invoke` returns.
        self._on.spend(result.spend)
        self._turn_over.set()

    def _reply(self, asked: CanUseTool, denied: Denied | None) -> None:
        if denied is None:
            self._answer(lambda: self._session.allow_tool(asked))
        else:
            self._answer(lambda: self._session.deny_tool(asked, denied.reason))

    def _answer(self, make: Callable[[], bytes]) -> None:
        self.last_output = time.monotonic()  # it was silent because it waited for us
        # A person can decide after the process has ended.
        if not self._session.is_over:
            self._send(make())

    def _process_ended(self) -> None:
        self._session.receive_eof()
        self._wake()

    def _wake(self) -> None:
        waits = (self._ready, self._configured, self._turn_over, self._reset_over, self._idle)
        for event in waits:
            event.set()

    def _stderr(self) -> str:
        return self._process.stderr_tail if self._process else ""

    def _ended_error(self) -> WorkerDied:
        group = self._process.group if self._process else None
        if group is not None and group.was_out_of_memory():
            limit = mebibytes(self._settings.max_rss_hard or 0)
            reason = f"its processes used more than max_rss_hard ({limit}); {OUT_OF_MEMORY_ADVICE}"
            return failures.stopped_in_task(self.label, reason)
        return failures.ended_in_task(self.label, self._returncode(), self._stderr())

    def _returncode(self) -> int | None:
        return self._process.returncode if self._process else None


def _new_session(launch: LaunchConfig, settings: Settings, verdict: ResetVerdict) -> Session:
    is_stamped = parse_version(launch.version) >= STAMPED_FROM
    return Session(
        max_line=settings.max_line,
        stamps_results=is_stamped or verdict.stamps_results,
        stamps_turns=is_stamped or verdict.stamps_turns,
        sends_attribution=launch.sends_attribution,
    )


def _spellings(folder: Path) -> frozenset[str]:
    """Return the paths by which the CLI can name a folder: it follows links (2.1.332)."""
    return frozenset({str(folder), os.path.realpath(folder)})


def _new_id() -> str:
    return str(uuid.uuid4())
