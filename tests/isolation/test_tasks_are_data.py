"""A task is data: any text reaches the model unchanged, and the CLI runs no command in it."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_pool import ConfigError
from support.cli_age import is_older_cli
from support.model_scripts import as_text, bash, task_blocks
from support.pool_harness import PoolHarness
from support.variants import later

COMMANDS = [
    *("/clear", "/compact", "/compact now", "/model opus", "/cost", "/help", "/init", "/config"),
    *("/exit", "/quit", "/login", "/logout", "/context", "/loop 1m say it", "/schedule it"),
    *(
        "/btw what",
        "/agents",
        "/mcp",
        "/status",
        "/usage",
        "/no-such-command",
        "/tester",
        "//",
        "/",
    ),
]
BEGINNINGS = [
    *("", " ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\ufeff"),
    *("\u200b", "\u2028", "\u2029", "\u2060", "\u3000", "\u202e", "\n\n\t ", "\\", "\u001b[2K"),
]
KEYBOARD = [
    *("!ls", "!", "# note", "#", "& run it elsewhere", "?", "exit", "quit", ":q!", "\x03", "\x1b"),
    *("--help", "-p", "--model=opus", "--", "-", "clear", "\\", '"', "'", "$HOME `ls` $(ls)"),
    *("<command-name>/clear</command-name>", "<bash-input>ls</bash-input>"),
    *("<system-reminder>x</system-reminder>", "<task-notification>x</task-notification>"),
    *("<local-command-stdout>x</local-command-stdout>", "[Request interrupted by user]"),
    *('{"type":"user"}', "tail \t\n\n", "a\r\nb\rc", "nul\0nul", "\u202eltr", "\U0010ffff\uffff"),
    *("a\x85b\u2028c\u2029d", "e\u0301 \u212b", "\ud7ff\ue000"),
]


TEXTS = [*COMMANDS, *(beginning + "/clear" for beginning in BEGINNINGS), *KEYBOARD]


@pytest.mark.parametrize("texts", [TEXTS[::3], later(TEXTS)], ids=["a third", "all"])
def test_no_task_text_runs_a_command_of_the_cli(harness: PoolHarness, texts: list[str]) -> None:
    is_reused = not is_older_cli() or harness.run(harness.verdict()).forgets
    if not is_reused:
        texts = texts[::8]  # each of them needs a process of its own, which takes seconds to start
    for task in texts:
        harness.run(_is_received_as_it_is(harness, task))
    if is_reused:
        (worker,) = harness.run(harness.pool.workers())
        assert worker.tasks >= len(texts)
        assert harness.run(harness.pool.stats()).retired == {}


def test_a_command_between_other_tasks_is_not_run(harness: PoolHarness) -> None:
    async def main() -> None:
        canary = harness.word("canary")
        for command in ("/clear", "/compact", "/model haiku", "/cost"):
            before = await harness.ask(harness.plan(f"before {canary}"))
            asked = await harness.ask(command)
            after = await harness.ask(harness.plan("after"))
            assert (before.text, after.text) == (f"before {canary}", "after")
            assert asked.text == f"echo: {command}"
            assert after.requests[0].model == before.requests[0].model
            assert canary not in as_text(asked.requests[0]) + as_text(after.requests[0])

    harness.run(main())


def test_mentioned_files_are_not_read_for_the_model(harness: PoolHarness) -> None:
    secret = harness.word("secret")
    file = harness.project.root / "notes.md"
    file.write_text(f"{secret}\n")
    mentions = [
        "@notes.md",
        "see @notes.md",
        '@"notes.md"',
        "@./notes.md",
        f"@{file}",
        "@notes.md:1",
    ]

    async def main() -> None:
        for mention in mentions:
            asked = await harness.ask(mention)
            assert task_blocks(asked.requests[0])[-1].lstrip() == mention
        assert harness.requests_with(secret) == []
        shown = await harness.ask(harness.plan(bash("cat notes.md")))
        assert shown.text == f"tool: {secret}"

    harness.run(main())


@pytest.mark.since("2.1.181", "a long task is not summarized before it is sent")
def test_a_task_of_three_megabytes_arrives_whole(harness: PoolHarness) -> None:
    task = ("/clear " + "ü" * 60 + "\n" + "x" * 20) * 21_000
    assert len(task.encode()) > 3_000_000
    harness.run(_is_received_as_it_is(harness, task))


@pytest.mark.usefixtures("used_again")  # fifty processes would take minutes
@settings(
    max_examples=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t.strip()))
def test_any_unicode_text_reaches_the_model_unchanged(harness: PoolHarness, task: str) -> None:
    if re.fullmatch(r"[\s\ufeff]*", task):
        return  # blank for the CLI: see the tests of blank tasks below
    harness.run(_is_received_as_it_is(harness, task))


@pytest.mark.parametrize("task", ["", " ", "\n\t", "\u00a0\u2003", "\u2028", "\x85\x1c"])
def test_an_empty_task_is_refused_before_any_request(harness: PoolHarness, task: str) -> None:
    _is_refused(harness, task, "task: it is empty")


@pytest.mark.parametrize("task", ["\ufeff", "\n\ufeff \ufeff"])
def test_a_task_that_is_blank_to_the_cli_is_refused(harness: PoolHarness, task: str) -> None:
    _is_refused(harness, task, "task: it is empty")


@pytest.mark.parametrize("task", ["\ud800", "half \udfff of it", "\udc80" * 3])
def test_lone_surrogates_are_refused_with_their_position(harness: PoolHarness, task: str) -> None:
    place = next(i for i, c in enumerate(task) if "\ud800" <= c <= "\udfff")
    _is_refused(harness, task, f"surrogate pair at character {place}")


async def _is_received_as_it_is(harness: PoolHarness, task: str) -> None:
    before = len(harness.api.requests)
    result = await harness.pool.invoke("tester", task)
    sent = harness.api.requests[before:]
    if is_older_cli():
        # 2.0.0 begins with a request for the title of a transcript, 2.0.77 with three more.
        own = [one for one in sent if one.is_side or one.last_user_text == "Warmup"]
        sent = [request for request in sent if request not in own]
    (request,) = sent
    received = task_blocks(request)[-1]
    assert received.endswith(task)
    assert received[: len(received) - len(task)].strip() == ""
    assert result.text.startswith(("echo:", "tool:"))
    # The requests of 2.0.0 do not name their session.
    assert result.session_id == request.session_id or (is_older_cli() and not request.session_id)


def _is_refused(harness: PoolHarness, task: str, message: str) -> None:
    async def main() -> None:
        before = len(harness.api.requests)
        with pytest.raises(ConfigError, match=message):
            await harness.pool.invoke("tester", task)
        assert len(harness.api.requests) == before

    harness.run(main())
