"""What keeps a run of the tests apart from the shell that started it and from other pools."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

SIGNALS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGQUIT: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
"""The signals that tests send, and Python's own reaction to each."""


@contextmanager
def default_signals() -> Iterator[None]:
    """Let signals work again that this process was started to ignore.

    A shell without job control starts background jobs with SIGINT and SIGQUIT ignored, and nohup
    ignores SIGHUP. Programs inherit that, and a Python program then has no KeyboardInterrupt.
    """
    ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, SIGNALS[number])
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Give this process and its children a temporary folder in which no other pool works.

    Its path is short: a Unix socket's has at most 107 bytes.
    """
    folder = tempfile.mkdtemp(prefix="apt-", dir="/tmp")
    try:
        with (
            mock.patch.dict(os.environ, {"TMPDIR": folder}),
            mock.patch.object(tempfile, "tempdir", folder),
        ):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
