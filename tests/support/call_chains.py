"""Which functions of the package lead to a call, across asyncio tasks and the CLI's output."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import agent_pool

_PACKAGE = Path(agent_pool.__file__).parent

Chain = tuple[str, ...]
"""Functions as `pool/task_runner TaskRunner.run`, from the outermost to the called one."""


@dataclass
class CallChains:
    """The chains of calls that led to the watched functions.

    Attributes:
        found: a chain for each call of a watched function, in the order of the calls.
    """

    watched: frozenset[str]
    found: list[Chain] = field(default_factory=list)
    _creators: dict[asyncio.Task[Any], Chain] = field(default_factory=dict)

    def first(self, *functions: str) -> Chain:
        """Return the first chain that ends in the last of these functions and has all of them."""
        for chain in self.calls(functions[-1]):
            if set(functions) <= {entry.split()[1] for entry in chain}:
                return chain
        raise AssertionError(f"no call went through {functions}: {self.found}")

    def calls(self, function: str) -> list[Chain]:
        """Return the chains that end in this function."""
        return [chain for chain in self.found if chain[-1].split()[1] == function]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls of this thread."""
        create_task = asyncio.BaseEventLoop.create_task

        def create(loop: asyncio.BaseEventLoop, *args: Any, **options: Any) -> asyncio.Task[Any]:
            chain = self._chain_to(sys._getframe())
            task = create_task(loop, *args, **options)
            self._creators[task] = chain
            return task

        with mock.patch.object(asyncio.BaseEventLoop, "create_task", create):
            sys.setprofile(self._called)
            try:
                yield
            finally:
                sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_qualname in self.watched:
            self.found.append(self._chain_to(frame))

    def _chain_to(self, frame: FrameType | None) -> Chain:
        """Return the functions on the stack of this frame, after those that made its task."""
        stack: list[str] = []
        # `Handle._run` calls the callbacks of an event loop: below it is only the loop itself.
        while frame is not None and frame.f_code.co_qualname != "Handle._run":
            if (path := Path(frame.f_code.co_filename)).is_relative_to(_PACKAGE):
                module = path.relative_to(_PACKAGE).with_suffix("").as_posix()
                stack.append(f"{module} {frame.f_code.co_qualname}")
            frame = frame.f_back
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no event loop runs
            task = None
        return (self._creators.get(task, ()) if task else ()) + tuple(reversed(stack))
