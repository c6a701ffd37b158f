"""A batch whose results go to a pipe that nobody reads for a while."""

from __future__ import annotations

import os

import pytest

from agent_pool.cli.batch.stdout import Stdout

LINES = [b"%d %s\n" % (number, b"x" * 50_000) for number in range(20)]


def test_who_does_not_read_holds_nothing_up_and_then_gets_every_line() -> None:
    reading, writing = os.pipe()
    stdout = Stdout(writing)
    for line in LINES:
        stdout.write(line)
    said = b""
    while said.count(b"\n") < len(LINES):
        said += os.read(reading, 65536)
    stdout.finish()
    os.close(writing)
    assert said + os.read(reading, 1) == b"".join(LINES)
    os.close(reading)


def test_who_has_left_is_an_error_at_once() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stdout = Stdout(writing)
    with pytest.raises(BrokenPipeError):
        stdout.write(b"to nobody\n")
    stdout.finish()
    os.close(writing)


def test_who_leaves_while_lines_wait_is_an_error_at_the_end() -> None:
    reading, writing = os.pipe()
    stdout = Stdout(writing)
    for line in LINES:
        stdout.write(line)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        stdout.finish()
    os.close(writing)
