"""The results of a batch on a pipe that is not read for some time."""

from __future__ import annotations

import os

import pytest

from agent_pool.cli.batch.stdout import StdoutWriter

LINES = [b"%d %s\n" % (number, b"x" * 50_000) for number in range(20)]


def test_a_slow_reader_delays_no_writer_and_gets_every_line() -> None:
    reading, writing = os.pipe()
    stdout = StdoutWriter(writing)
    for line in LINES:
        stdout.write(line)
    received = b""
    while received.count(b"\n") < len(LINES):
        received += os.read(reading, 65536)
    stdout.finish()
    os.close(writing)
    assert received + os.read(reading, 1) == b"".join(LINES)
    os.close(reading)


def test_writing_to_a_closed_pipe_fails_at_once() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stdout = StdoutWriter(writing)
    with pytest.raises(BrokenPipeError):
        stdout.write(b"no reader\n")
    stdout.finish()
    os.close(writing)


def test_a_reader_that_leaves_early_is_an_error_at_finish() -> None:
    reading, writing = os.pipe()
    stdout = StdoutWriter(writing)
    for line in LINES:
        stdout.write(line)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        stdout.finish()
    os.close(writing)
