"""Answers of the offline model: scripts, steps that wait, and readers of requests."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_pool.loopback import ModelReply, ModelRequest, ToolUseBlock, get_result_text

Step = Any
"""A reply, or a function (async or not) of the request that returns one."""


def echo_task(request: ModelRequest) -> str:
    """Answer with the task, or with the results of the tools."""
    if request.tool_results:
        return "tool: " + "\n".join(get_result_text(result) for result in request.tool_results)
    return f"echo: {request.last_user_text.strip()}"


def tool(name: str, **given: Any) -> ModelReply:
    """Build a reply that calls a tool."""
    return ModelReply([ToolUseBlock(name, given)])


def bash(command: str, **more: Any) -> ModelReply:
    """Build a reply that calls the shell."""
    return tool("Bash", command=command, description="Tests.", **more)


def sub_agent(prompt: str, **more: Any) -> Step:
    """Build a step that gives this prompt to a sub-agent."""

    def call(request: ModelRequest) -> ModelReply:
        # The tool's name is Task in 2.1.52 and before, Agent in 2.1.112 and later.
        name = "Agent" if "Agent" in request.tools else "Task"
        given = {"description": "Look.", "prompt": prompt, "subagent_type": "general-purpose"}
        return tool(name, **given, **more)

    return call


def shell(path: Path, then: str = "exec sleep 1000") -> str:
    """Build a command that writes its pid to `path` and then does not end."""
    return f"echo $$ > {path}.part && mv {path}.part {path}; {then}"


def shell_first(
    path: Path, then: str = "exec sleep 1000", word: str = "hang"
) -> Callable[[ModelRequest], Any]:
    """Build a script that calls the shell for tasks with `word`, and echoes other tasks."""

    def script(request: ModelRequest) -> object:
        wanted = word in request.last_user_text and not request.tool_results
        return bash(shell(path, then)) if wanted else echo_task(request)

    return script


async def resolve(step: Step, request: ModelRequest) -> Any:
    """Return the answer of a step."""
    answer = step(request) if callable(step) else step
    return await answer if inspect.isawaitable(answer) else answer


class Gate:
    """A step that waits until it is opened.

    Attributes:
        reached: set when the model has received the request.
    """

    def __init__(self, then: Step = "done") -> None:
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()
        self._then = then

    def open(self) -> None:
        """Let the model answer."""
        self._opened.set()

    async def reached_within(self, seconds: float) -> bool:
        """Check whether the model receives the request in time."""
        try:
            await asyncio.wait_for(self.reached.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def __call__(self, request: ModelRequest) -> Any:
        self.reached.set()
        await self._opened.wait()
        return await resolve(self._then, request)


class HeldAnswers:
    """A script whose answers wait until they are released.

    Attributes:
        began: the tasks that have reached the model, in this order.
        most: the largest number of tasks that were with the model at once.
    """

    def __init__(self) -> None:
        self.began: list[str] = []
        self.most = 0
        self._now = 0
        self._all = asyncio.Event()
        self._events: dict[str, asyncio.Event] = {}

    def __call__(self, request: ModelRequest) -> Any:
        return self._hold(request)

    async def _hold(self, request: ModelRequest) -> str:
        task = request.last_user_text.strip()
        self.began.append(task)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self._event(task).wait()
        finally:
            self._now -= 1
        return f"echo: {task}"

    def _event(self, task: str) -> asyncio.Event:
        event = self._events.setdefault(task, asyncio.Event())
        if self._all.is_set():
            event.set()
        return event

    def release(self, *tasks: str) -> None:
        """Answer these tasks now or as soon as they come; without arguments, all tasks."""
        if not tasks:
            self._all.set()
        for task in tasks or list(self._events):
            self._event(task).set()


class TaskBarrier:
    """A point at which tasks wait until `size` different ones are there."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._there: set[str] = set()
        self._complete = asyncio.Event()

    async def join(self, task: str) -> None:
        """Wait for the other tasks; a task that comes twice counts once."""
        self._there.add(task)
        if len(self._there) == self._size:
            self._complete.set()
        await self._complete.wait()


def as_text(request: ModelRequest) -> str:
    """Return the whole body of a request as one text."""
    return json.dumps(request.body, ensure_ascii=False)


def task_blocks(request: ModelRequest) -> list[str]:
    """Return the text blocks of the last user message, as the model receives them."""
    return message_texts(user_messages(request)[-1])


def user_messages(request: ModelRequest) -> list[dict[str, Any]]:
    """Return the messages of the user."""
    return [message for message in request.messages if message["role"] == "user"]


def message_texts(message: dict[str, Any]) -> list[str]:
    """Return the texts of a message's blocks."""
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [block["text"] for block in blocks if block["type"] == "text"]
