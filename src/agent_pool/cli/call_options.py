"""The options of a single task: where and how its agent runs. `run` and `batch` share them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from agent_pool import Attachment, ConfigError

F = TypeVar("F", bound=Callable[..., Any])

FIELDS: Final = (
    *("cwd", "model", "effort", "permission_mode", "env", "isolation"),
    *("max_budget_usd", "max_tokens", "attach"),
)
"""The names of the options, as lines of a batch have them too."""


def _read_env_option(
    ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str] | None:
    """Return the variables by their names; None if there is none.

    The message of an error never has a value: it can be a secret.
    """
    variables = {}
    for number, text in enumerate(given, 1):
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"number {number} is not of the form NAME=VALUE")
        variables[name] = value
    return variables or None


def _read_attach_option(
    ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[Attachment, ...] | None:
    """Return the content of the files; None if there is none."""
    try:
        return read_attachments(given) or None
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def read_attachments(paths: Iterable[str]) -> tuple[Attachment, ...]:
    """Read the files of a task.

    Raises:
        ConfigError: one cannot be read, or is of no type that can be attached.
    """
    return tuple(map(Attachment.from_file, paths))


_OPTIONS: Final = (
    click.option(
        "--cwd",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
        help="The folder of the task: its agents, CLAUDE.md and settings apply. Default: the "
        "project.",
    ),
    click.option("--model", metavar="MODEL", help="Another model than the definition's."),
    click.option(
        "--effort", metavar="LEVEL", help="Another effort: low, medium, high, xhigh, max."
    ),
    click.option(
        "--permission-mode",
        metavar="MODE",
        help="A permission mode that permits less than the definition's.",
    ),
    click.option(
        "--worktree",
        "isolation",
        flag_value="worktree",
        help="Run in a git worktree, which is kept if the task changes anything.",
    ),
    click.option(
        "--budget",
        "max_budget_usd",
        type=click.FloatRange(min=0, min_open=True),
        metavar="USD",
        help="Interrupt the task when it has cost this many US dollars, by list prices.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        metavar="N",
        help="Interrupt the task when it has used this many tokens, cache reads not counted.",
    ),
    click.option(
        "--attach",
        multiple=True,
        callback=_read_attach_option,
        metavar="FILE",
        help="A picture, a PDF or a text that the agent gets with the task; can be repeated.",
    ),
    click.option(
        "--env",
        multiple=True,
        callback=_read_env_option,
        metavar="NAME=VALUE",
        help="A variable for the agent's process; can be repeated. Other users of this machine "
        "can see command lines: for secrets use a batch on stdin or the library.",
    ),
)


def task_options(command: F) -> F:
    """Add the options of a single task to a command; `request_fields` reads their values."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def request_fields(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, as fields of a `TaskRequest`."""
    fields = {name: given[name] for name in FIELDS if given.get(name) is not None}
    if "cwd" in fields:
        fields["project"] = str(fields.pop("cwd"))
    if "attach" in fields:
        fields["attachments"] = fields.pop("attach")
    return fields
