"""One worker: a Claude Code process and its session, joined.

The session knows what may be said and what was meant; the process moves the bytes; this class
joins them and bounds every wait. It decides nothing about who is served: that is the pool's.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agent_pool.claude import cleanup, endings, tree
from agent_pool.claude.accounts import Account, running_account
from agent_pool.claude.binary import parse_version
from agent_pool.claude.events import (
    ControlAsked,
    Event,
    Initialized,
    InitializeFailed,
    ResetFailed,
    Retrying,
    Said,
    ToolAnswered,
    ToolCalled,
    TurnEnded,
    WasReset,
)
from agent_pool.claude.launch import Launch, file_arguments, remove_files
from agent_pool.claude.process import ChildProcess
from agent_pool.claude.questions import Asker, Questions
from agent_pool.claude.session import Session
from agent_pool.claude.states import State
from agent_pool.errors import AgentPoolError, RemoteProtocolError, WorkerDied
from agent_pool.settings import Settings

STAMPED_FROM: Final = (2, 1, 330)
"""From here on, measured, every result names the prompts that it answers; it may be earlier."""

Listener = Callable[[Said | ToolCalled | ToolAnswered | Retrying], None]


class Worker:
    """A Claude Code process that serves one task after another.

    Args:
        name: the worker's id, in every error and log line.
        launch: how it is started.
        settings: the bounds of its waits.
        agent: the agent's name, for people; empty for a spare.
        cookie: marks its processes, see `tree`.
        run_dir: a private folder for its prompt file.
        on_gone: called once when the process has ended.
        on_taint: called when it became unfit to serve again.
        on_account: called with what a turn took, whenever one has ended.

    Attributes:
        turns: how many prompts it was given.
        account: what all its turns took together.
        last_turn: what the last one took.
        signed_in_by: how the CLI says that it is signed in, in its own words.
        last_heard: when it last wrote anything, by the monotonic clock.
        note: what is unusual about it now, for people; usually empty.
        open_tools: tools that it called and that have not answered yet, by the call's id.
        removed: set by its owner when nothing of it is left.
    """

    def __init__(
        self,
        name: str,
        launch: Launch,
        settings: Settings,
        *,
        agent: str = "",
        cookie: str,
        run_dir: Path,
        on_gone: Callable[[], None] = lambda: None,
        on_taint: Callable[[], None] = lambda: None,
        on_account: Callable[[Account], None] = lambda account: None,
    ) -> None:
        self.name = name
        self.agent = agent
        self.launch = launch
        self.cookie = cookie
        self.started_at = time.monotonic()
        self.last_heard = self.started_at
        self.turns = 0
        self.account = Account()
        self.last_turn = Account()
        self.note = ""
        self.open_tools: dict[str, str] = {}
        self.signed_in_by: Mapping[str, Any] = {}
        self._running = Account()
        self._settings = settings
        self._run_dir = run_dir
        self._on_gone = on_gone
        self._on_taint = on_taint
        self._on_account = on_account
        self._session = Session(
            max_line=settings.max_line,
            is_stamped=parse_version(launch.version) >= STAMPED_FROM,
        )
        self._process: ChildProcess | None = None
        self._fault: AgentPoolError | None = None
        self._listener: Listener | None = None
        self._questions = Questions()
        self._turn_frame: Mapping[str, Any] = {}
        self.removed = asyncio.Event()
        self._ready = asyncio.Event()
        self._turn_over = asyncio.Event()
        self._reset_over = asyncio.Event()

    # What it is

    @property
    def who(self) -> endings.Who:
        """What messages call it."""
        return endings.Who(self.name, self.agent, self.pid)

    @property
    def pid(self) -> int | None:
        """The process id, None before it was spawned."""
        return self._process.pid if self._process else None

    @property
    def is_clean(self) -> bool:
        """Whether a task may be given to it now."""
        return self._session.is_clean and not self.is_gone

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended."""
        return self._process is not None and self._process.has_ended

    @property
    def is_in_turn(self) -> bool:
        """Whether a prompt is outstanding that nobody has given up."""
        return self._session.state is State.IN_TURN and not self._turn_over.is_set()

    @property
    def is_asking(self) -> bool:
        """Whether it waits for somebody's permission."""
        return self._questions.are_open

    @property
    def silence(self) -> float:
        """Seconds since it last wrote anything."""
        return time.monotonic() - self.last_heard

    @property
    def taints(self) -> list[str]:
        """Why it must not serve another task."""
        return self._session.taints

    @property
    def session(self) -> Session:
        """Its conversation, to be looked at."""
        return self._session

    # Its life

    async def start(self) -> None:
        """Spawn it and make it ready, within `start_timeout`.

        Raises:
            SpawnError: it did not get ready; the message holds what it said and what to do.
        """
        await self.spawn()
        await self.initialize(self.launch)

    async def spawn(self) -> None:
        """Start the process; it is no agent yet."""
        env = {**self.launch.env, tree.COOKIE: self.cookie}
        self._process = await ChildProcess.spawn(
            [*self.launch.argv, *file_arguments(self.launch, self._run_dir / self.name)],
            env=env,
            cwd=self.launch.cwd,
            on_data=self._receive,
            on_death=self._on_gone,
            on_exit=self._exited,
        )

    async def initialize(self, launch: Launch) -> None:
        """Make the started process the agent of this launch, whose flags must be its own."""
        self.launch = launch
        fields: dict[str, Any] = {}
        if launch.prompt_by_initialize:
            fields["systemPrompt"] = [launch.prompt]
        if launch.schema:
            fields["jsonSchema"] = json.loads(launch.schema)
        if not self.is_gone:
            self._send(self._session.initialize(_new_id(), fields))
        await self._until_ready(self._settings.start_timeout)

    async def turn(
        self, text: str, listener: Listener | None = None, asker: Asker | None = None
    ) -> Mapping[str, Any]:
        """Give it a task and wait for the frame that answers it.

        `asker` decides what the agent asks permission for; without one all of it is denied.

        The wait is bounded by the caller. A caller that leaves early leaves the turn running;
        `settle` then ends it.

        Raises:
            WorkerDied: the process ended before it answered.
            RemoteProtocolError: the process broke the protocol.
        """
        if self._session.is_over:
            raise self._fault or self._death()
        self._turn_over.clear()
        self._turn_frame = {}
        self._fault = None
        self.open_tools.clear()
        self.last_heard = time.monotonic()
        self._listener = listener
        self._questions.asker = asker
        self._send(self._session.prompt(_new_id(), text))
        self.turns += 1
        try:
            await self._turn_over.wait()
        finally:
            self._listener = None
            self._questions.withdraw()
        if not self._turn_frame:
            raise self._fault or self._death()
        return self._turn_frame

    async def settle(self) -> bool:
        """End a turn that nobody waits for any more; whether it ended in time and in order."""
        if self._session.state is State.IN_TURN:
            self._turn_over.clear()
            self._send(self._session.interrupt(_new_id()))
        if self._session.state is State.INTERRUPTING:
            try:
                async with asyncio.timeout(self._settings.interrupt_timeout):
                    await self._turn_over.wait()
            except TimeoutError:
                self._session.taint("it did not end its turn when interrupted")
        return self._session.state is State.USED

    async def reset(self, *, expects_frame: bool = False) -> None:
        """Make it forget its conversation, and end what its task left running.

        With `expects_frame` the CLI must announce the reset by `conversation_reset`.

        Afterwards `is_clean` tells whether it may serve again; it may not if it was tainted, if
        the reset was not acknowledged as it should be, or not in time.
        """
        await self.stop_background_tasks()
        if self.taints or self._session.state is not State.USED:
            return
        left = await cleanup.end_leftovers(self.pid or 0, self.cookie, self._settings.kill_grace)
        if left:
            self._session.taint(f"{left} processes of its task could not be ended")
        if self._session.state is not State.USED:  # it ended meanwhile
            return
        self._reset_over.clear()
        self._send(self._session.clear(_new_id(), expects_frame=expects_frame))
        try:
            async with asyncio.timeout(self._settings.reset_timeout):
                await self._reset_over.wait()
        except TimeoutError:
            self._session.taint(f"no reset within {self._settings.reset_timeout:g} s")

    async def stop_background_tasks(self) -> None:
        """Ask the CLI to stop its background tasks; having had any is a taint."""
        for task_id in self._session.background:
            self._session.taint("it left background tasks running")
            if not self.is_gone:
                self._send(
                    self._session.control(_new_id(), {"subtype": "stop_task", "task_id": task_id})
                )

    def condemn(self, why: str) -> None:
        """Let a task that runs on it fail with `why` when it is stopped."""
        self._fault = self._fault or endings.condemned(self.who, why)

    def fail_turn(self, error: AgentPoolError) -> None:
        """Let the caller of `turn` have this error now; the turn itself is ended by `settle`."""
        self._fault = error
        self._turn_over.set()

    async def stop(self) -> None:
        """End it and everything that bears its cookie, gently where nothing is under way."""
        if self._process is not None:
            gentle = self._session.state in (State.READY, State.USED, State.STARTING)
            await cleanup.stop(self._process, self.cookie, self._settings, gentle=gentle)
        remove_files(self._run_dir / self.name)

    def kill(self) -> None:
        """SIGKILL the process and its group at once, without waiting."""
        if self._process is not None:
            self._process.kill()

    # Inside

    async def _until_ready(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            self._fault = endings.not_ready(self.who, timeout, self._stderr())
        if self._session.state is not State.READY:
            raise self._fault or endings.before_ready(self.who, self._returncode(), self._stderr())

    def _send(self, data: bytes) -> None:
        if self._process is not None:
            self._process.write(data)

    def _receive(self, data: bytes) -> None:
        self.last_heard = time.monotonic()
        tainted = len(self.taints)
        try:
            for event in self._session.receive(data):
                self._dispatch(event)
        except RemoteProtocolError as error:
            self._fault = RemoteProtocolError(f"{self.who}: {error}")
            self._wake()
        if len(self.taints) > tainted or self._session.state is State.BROKEN:
            self._on_taint()

    def _dispatch(self, event: Event) -> None:
        match event:
            case Said() | ToolCalled() | ToolAnswered() | Retrying():
                self._note_tools(event)
                if self._listener is not None:
                    self._listener(event)
            case TurnEnded(frame):
                self._book(frame)
                self._turn_over.set()
            case WasReset() | ResetFailed():
                self._running = Account()
                self._reset_over.set()
            case Initialized(info):
                account = info.get("account")
                self.signed_in_by = account if isinstance(account, dict) else {}
                self._ready.set()
            case InitializeFailed(error):
                self._fault = endings.refused(self.who, error)
                self._ready.set()
            case ControlAsked(request_id, request):
                self._answer(request_id, request)
            case _:
                pass

    def _note_tools(self, event: Event) -> None:
        self.note = ""
        if isinstance(event, ToolCalled):
            self.open_tools[event.id] = event.name
        elif isinstance(event, ToolAnswered):
            self.open_tools.pop(event.id, None)

    def _book(self, frame: Mapping[str, Any]) -> None:
        """Note what the turn took: the CLI's totals run on until `/clear`."""
        self.note = ""
        self._turn_frame = frame
        total = running_account(frame)
        self.last_turn = total.since(self._running)
        self._running = total
        self.account += self.last_turn
        self._on_account(self.last_turn)

    def _answer(self, request_id: str, request: Mapping[str, Any]) -> None:
        subtype = str(request.get("subtype"))
        if subtype == "can_use_tool":
            self._questions.ask(request, lambda reply: self._reply(request_id, reply))
        else:
            self._reply(request_id, f"agent-pool cannot answer {subtype}")

    def _reply(self, request_id: str, reply: Mapping[str, Any] | str) -> None:
        self.last_heard = time.monotonic()  # its silence until now was our own
        if not self._session.is_over:
            self._send(self._session.answer_control(request_id, reply))

    def _exited(self) -> None:
        self._session.receive_eof()
        self._wake()

    def _wake(self) -> None:
        for event in (self._ready, self._turn_over, self._reset_over):
            event.set()

    def _stderr(self) -> str:
        return self._process.stderr_tail if self._process else ""

    def _death(self) -> WorkerDied:
        return endings.during_task(self.who, self._returncode(), self._stderr())

    def _returncode(self) -> int | None:
        return self._process.returncode if self._process else None


def _new_id() -> str:
    return str(uuid.uuid4())
