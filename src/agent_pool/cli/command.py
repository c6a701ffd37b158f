"""The parts that all commands share: options, the form of errors, signals and exit codes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agent_pool.cli.output import echo, print_json
from agent_pool.errors import (
    AgentPoolError,
    ConfigError,
    DaemonUnavailable,
    DeadlinePassed,
    NestingRefused,
    PoolTimeout,
    SpawnError,
    TaskNotFound,
    TaskTimeout,
)

if TYPE_CHECKING:
    from agent_pool.settings import Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

LOG_LEVEL: Final = "AGENT_POOL_LOG"
"""The variable that sets the level: debug, info, warning or error."""
WIDTH: Final = 100
"""The largest width of help texts, in characters."""
FAILED: Final = 1
NOT_STARTED: Final = 3
TIMED_OUT: Final = 124
SIGNALLED: Final = 128
"""Exit codes; SIGNALLED plus the signal's number. 124 is that of timeout(1), 128+n that of shells.
2 is click's own code for a wrong command line."""
_NOTHING_STARTED: Final = (
    ConfigError,
    DaemonUnavailable,
    NestingRefused,
    SpawnError,
    TaskNotFound,
)


def exit_code(error: AgentPoolError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, TaskTimeout | PoolTimeout | DeadlinePassed):
        return TIMED_OUT
    return NOT_STARTED if isinstance(error, _NOTHING_STARTED) else FAILED


def error_object(error: AgentPoolError) -> dict[str, Any]:
    """Return the JSON object that reports an error."""
    return {"error": error.as_json()}


class Command(click.Command):
    """A command that prints an error as one message, and turns signals into exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AgentPoolError as error:
            _print_error(error, as_json=bool(ctx.params.get("as_json")))
            ctx.exit(exit_code(error))
        except BrokenPipeError:
            # It is an OSError too. click ends with code 1 and no message: the reader of the output
            # has closed it, so there is no one to inform.
            raise
        except OSError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            _exit_after_signal(ctx, signal.SIGINT)
        except Terminated as error:
            _exit_after_signal(ctx, error.signal)


def _print_error(error: AgentPoolError, *, as_json: bool) -> None:
    if as_json:
        print_json(error_object(error))
    else:
        echo(f"Error: {error}", err=True)


def _exit_after_signal(ctx: click.Context, number: signal.Signals) -> None:
    echo(f"stopped by {number.name}", err=True)
    ctx.exit(SIGNALLED + number)


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. A BaseException like KeyboardInterrupt: not an error to handle."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; SIGINT, SIGTERM and SIGHUP cancel it.

    Raises:
        KeyboardInterrupt: after SIGINT; a second SIGINT raises it at once, without waiting.
        Terminated: after SIGTERM or SIGHUP.
    """
    _set_log_level(os.environ.get(LOG_LEVEL))
    return asyncio.run(_cancel_on_signal(main))


def _set_log_level(level: str | None) -> None:
    if not level:
        # The command reports an error itself; a log line about it would be a second report.
        logging.getLogger("agent_pool").setLevel(logging.ERROR)
        return
    is_known = level.upper() in logging.getLevelNamesMapping()
    logging.basicConfig(
        level=level.upper() if is_known else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    if not is_known:
        log.warning("%s: expected debug, info, warning or error, not %r", LOG_LEVEL, level)


async def _cancel_on_signal(main: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    # asyncio.run handles SIGINT itself, in the same way: it cancels the main task.
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await main
    except asyncio.CancelledError:
        if received:
            raise Terminated(received[0]) from None
        raise


project_option = click.option(
    "--project",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="The project: where agents are defined and work. Default: the current directory.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def parse_duration(value: str) -> float:
    """Parse a duration, with or without a unit, as the settings do; return seconds.

    Raises:
        ValueError: it is not a duration above 0.
    """
    from agent_pool.settings import Settings

    try:
        return Settings.model_validate({"task_timeout": value}).task_timeout
    except ValueError:
        problem = f"{value!r}: expected a time above 0: 90, 250ms, 30s, 5m, 2h"
        raise ValueError(problem) from None


def read_duration_option(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Return the value of an option as seconds; None if it was not given."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def load_command_settings(ctx: click.Context, project: Path | None, **overrides: Any) -> Settings:
    """Load the settings for a command.

    Args:
        ctx: the command's context, for a `--project` before the command.
        project: the value of `--project` after the command; it wins.
        overrides: single settings that the command fixes.

    Raises:
        ConfigError: as `load_settings`.
    """
    from agent_pool.settings import load_settings

    return load_settings(project_dir=project or ctx.find_root().obj, **overrides)
