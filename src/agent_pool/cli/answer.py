"""`agent-pool answer`: what an agent may do, for a task that waits for it."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import click

from agent_pool import Denied, TaskAPI, TaskQuestion, TaskRecord
from agent_pool.cli.command import FAILED, Command, json_option
from agent_pool.cli.output import echo, print_json
from agent_pool.cli.permissions import TerminalPrompt, describe_request
from agent_pool.cli.task_ids import find_task, id_argument, run_on_tasks
from agent_pool.text import count, one_line


@click.command(cls=Command)
@id_argument
@click.option("--allow", "allowed", flag_value="allow", help="Allow what the agent asks for.")
@click.option("--deny", "allowed", flag_value="deny", help="Deny it.")
@click.option("--reason", metavar="TEXT", help="With --deny: why; the agent reads it.")
@click.option("--question", "key", metavar="KEY", help="Which question, if several are open.")
@json_option
@click.pass_context
def answer(
    ctx: click.Context,
    task_id: str,
    allowed: str | None,
    reason: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Answer a task that was submitted with --ask and waits for your permission.

    Without --allow and --deny, each open question is shown, with the whole input of the tool; in a
    terminal you are asked for the answer. A question that is not answered within the setting
    permission_timeout is denied.

    The exit code is 1 if no question is open, or its time has passed.

    \b
    Example:
      agent-pool answer code-reviewer-1f2e3d
      agent-pool answer code-reviewer-1f2e3d --deny --reason 'Work without the network.'
    """
    if reason is not None and allowed != "deny":
        raise click.UsageError("--reason is for --deny")
    decision = None
    if allowed is not None:
        decision = allowed == "allow" or Denied(reason or "")
    answering = _Answering(decision, key, as_json=as_json)
    if not run_on_tasks(lambda pool: answering.run(pool, task_id)):
        ctx.exit(FAILED)


class _Answering:
    """The answers to the open questions of one task."""

    def __init__(self, decision: bool | Denied | None, key: str | None, *, as_json: bool) -> None:
        self._decision = decision
        self._key = key
        self._as_json = as_json
        self._only_shows = decision is None and (as_json or not sys.stdin.isatty())

    async def run(self, pool: TaskAPI, given: str) -> bool:
        """Answer the questions, or show them; return whether there were any and all still waited.

        Raises:
            UsageError: it is not clear which question is meant.
        """
        record = await find_task(pool, given)
        questions = [one for one in record.questions if self._key in (None, one.key)]
        if not questions:
            self._report_none(record)
            return False
        if self._only_shows:
            self._show(questions)
            return True
        if self._decision is not None and len(questions) > 1:
            keys = ", ".join(one.key for one in questions)
            raise click.UsageError(
                f"{record.id} asks {count(len(questions), 'question')}: choose one with "
                f"--question ({keys}); `agent-pool answer {record.id}` shows them"
            )
        return all([await self._answer(pool, record.id, one) for one in questions])

    def _report_none(self, record: TaskRecord) -> None:
        if self._as_json:
            answered = {"key": self._key, "allowed": bool(self._decision), "was_open": False}
            print_json([] if self._only_shows else answered)
        named = f" with the key {self._key!r}" if self._key else ""
        echo(f"{record.id} has no open question{named}; it is {record.state}", err=True)

    def _show(self, questions: list[TaskQuestion]) -> None:
        if self._as_json:
            print_json([one.as_json() for one in questions])
            return
        for one in questions:
            echo(f"question {one.key}: {describe_request(one.request)}")

    async def _answer(self, pool: TaskAPI, task_id: str, question: TaskQuestion) -> bool:
        decision = self._decision
        if decision is None:
            decision = await TerminalPrompt(nullcontext).decide(question.request)
        was_open = await pool.answer(task_id, question.key, decision)
        tool = one_line(question.request.tool, 80)
        how = ("allowed" if decision else "denied") if was_open else "its time has passed"
        if self._as_json:
            print_json({"key": question.key, "allowed": bool(decision), "was_open": was_open})
        else:
            echo(f"{tool}: {how}", err=not was_open)
        return was_open
