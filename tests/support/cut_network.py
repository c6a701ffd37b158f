"""A network of two machines on this one, whose cable a test can pull."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

FORWARD = Path(__file__).with_name("programs") / "forward_port.py"


class CutNetwork:
    """A network namespace of the test's own, joined with this one by a pair of interfaces.

    A context; the test is skipped where this is not permitted.

    Args:
        folder: for the sockets of `forward`; short.

    Attributes:
        here: the address of this side.
        there: the address of the other side.
        inside: the beginning of a command that runs on the other side.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        number = os.getpid() % 250
        self._name = f"agent-pool-{os.getpid()}"
        self._ends = (f"ap{number}a", f"ap{number}b")
        self.here, self.there = f"10.231.{number}.1", f"10.231.{number}.2"
        self.inside = ("ip", "netns", "exec", self._name)
        self._forwards: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        if shutil.which("ip") is None:
            pytest.skip("there is no program `ip` here")
        near, far = self._ends
        steps = [
            ("netns", "add", self._name),
            ("link", "add", near, "type", "veth", "peer", "name", far, "netns", self._name),
            ("addr", "add", f"{self.here}/30", "dev", near),
            ("link", "set", near, "up"),
            ("-n", self._name, "addr", "add", f"{self.there}/30", "dev", far),
            ("-n", self._name, "link", "set", far, "up"),
            ("-n", self._name, "link", "set", "lo", "up"),
        ]
        for step in steps:
            done = subprocess.run(("ip", *step), capture_output=True, text=True, check=False)
            if done.returncode:
                self._remove()
                pytest.skip(f"a network of the test's own is not permitted: {done.stderr.strip()}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for process in self._forwards:
            process.kill()
            process.wait()
        # The other end goes with it, also one that is in the namespace.
        for step in (("link", "del", self._ends[0]), ("netns", "del", self._name)):
            subprocess.run(("ip", *step), capture_output=True, check=False)

    def forward(self, port: int) -> None:
        """Let the other side reach a port of 127.0.0.1 here as its own, also while it is cut."""
        middle = str(self._folder / "forward")
        for words, inside in (((middle, str(port)), ()), ((str(port), middle), self.inside)):
            self._forwards.append(subprocess.Popen([*inside, sys.executable, str(FORWARD), *words]))

    def cut(self) -> None:
        """Pull the cable: no packet comes through, and neither side is told."""
        self._set("down")

    def join(self) -> None:
        """Put the cable in again."""
        self._set("up")

    def _set(self, state: str) -> None:
        subprocess.run(("ip", "link", "set", self._ends[0], state), check=True)
