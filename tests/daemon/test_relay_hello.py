"""The first line of a relay, as its daemon reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.client.hello import RelayHello, acceptance, check_acceptance
from agent_pool.errors import ConfigError, DaemonUnavailable

SECRET = "a-value-that-no-message-shows"
HELLO = RelayHello("/project", True, "session", 7, {"TOKEN": SECRET}, "scope")

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


@given(TEXTS, st.booleans(), TEXTS, st.integers(), st.dictionaries(TEXTS, TEXTS), st.booleans())
def test_a_daemon_reads_what_a_relay_has_written(
    folder: str, named: bool, session: str, pid: int, environment: dict[str, str], resumed: bool
) -> None:
    absolute = "/" + folder.replace("\0", "")
    hello = RelayHello(absolute, named, session, pid, environment, "scope", resumed)
    data = hello.line()
    assert data.count(b"\n") == 1
    assert RelayHello.read(data) == hello


@given(st.binary(max_size=300))
def test_any_other_first_line_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"the (first )?line"):
        RelayHello.read(data)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("protocol", 2, "the relay has the protocol 2, the daemon has 1"),
        ("protocol", None, "has no protocol"),
        ("folder", "relative", "not absolute"),
        ("folder", "/a\0b", "not absolute"),
        ("folder", 5, "has no folder"),
        ("is_named", 1, "has no is_named"),
        ("client_pid", True, "has no client_pid"),
        ("environment", {"A": 1}, "a value that is no text"),
        ("environment", [], "has no environment"),
    ],
)
def test_a_hello_with_a_wrong_field_is_refused_by_name(field: str, value: Any, reason: str) -> None:
    fields = {**json.loads(HELLO.line()), field: value}
    with pytest.raises(ConfigError, match=reason) as caught:
        RelayHello.read(json.dumps(fields).encode())
    assert SECRET not in str(caught.value)


def test_no_text_form_of_a_hello_shows_the_environment() -> None:
    assert SECRET not in f"{HELLO!r} {HELLO}"
    assert SECRET in HELLO.line().decode()


def test_a_relay_learns_why_it_was_refused() -> None:
    check_acceptance(acceptance())
    with pytest.raises(DaemonUnavailable, match="other settings"):
        check_acceptance(acceptance("the daemon has other settings"))


@given(st.binary(max_size=100))
def test_a_relay_refuses_an_answer_that_is_no_greeting(data: bytes) -> None:
    with pytest.raises(DaemonUnavailable):
        check_acceptance(data)
