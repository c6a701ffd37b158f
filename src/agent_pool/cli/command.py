"""What every command shares: its options, how its errors look, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agent_pool.cli.output import print_json
from agent_pool.errors import AgentPoolError, ConfigError, PoolTimeout, SpawnError, TaskTimeout

if TYPE_CHECKING:
    from agent_pool.settings import Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

LOG_LEVEL: Final = "AGENT_POOL_LOG"  # debug, info, warning or error
WIDTH: Final = 100
FAILED: Final = 1
NOT_STARTED: Final = 3
TIMED_OUT: Final = 124
SIGNALLED: Final = 128


def exit_code(error: AgentPoolError) -> int:
    """The exit code that stands for an error."""
    if isinstance(error, TaskTimeout | PoolTimeout):
        return TIMED_OUT
    return NOT_STARTED if isinstance(error, ConfigError | SpawnError) else FAILED


def describe(error: AgentPoolError) -> dict[str, Any]:
    """An error for programs."""
    return {
        "error": {"code": error.code, "message": str(error), "retryable": error.retryable},
    }


class Command(click.Command):
    """A command whose errors are one message, and whose interruption is an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AgentPoolError as error:
            _show(error, as_json=bool(ctx.params.get("as_json")))
            ctx.exit(exit_code(error))
        except BrokenPipeError:
            raise  # click ends quietly: whoever read the output has gone
        except OSError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            _end_by(ctx, signal.SIGINT)
        except Terminated as error:
            _end_by(ctx, error.signal)


def _show(error: AgentPoolError, *, as_json: bool) -> None:
    if as_json:
        print_json(describe(error))
    else:
        click.ClickException(str(error)).show()


def _end_by(ctx: click.Context, number: signal.Signals) -> None:
    click.echo(f"stopped by {number.name}", err=True)
    ctx.exit(SIGNALLED + number)


class Terminated(BaseException):
    """SIGTERM or SIGHUP came; like KeyboardInterrupt, no error to be caught on the way."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; SIGINT, SIGTERM and SIGHUP cancel it.

    Raises:
        KeyboardInterrupt: after SIGINT; at once, without waiting, after the second.
        Terminated: after SIGTERM or SIGHUP.
    """
    _set_log_level(os.environ.get(LOG_LEVEL))
    return asyncio.run(_until_signal(main))


def _set_log_level(level: str | None) -> None:
    """Without a level, what goes wrong is told by the command alone, once."""
    if not level:
        logging.getLogger("agent_pool").setLevel(logging.ERROR)
        return
    known = level.upper() in logging.getLevelNamesMapping()
    logging.basicConfig(
        level=level.upper() if known else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    if not known:
        log.warning("%s: expected debug, info, warning or error, not %r", LOG_LEVEL, level)


async def _until_signal(main: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    came: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        came.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await main
    except asyncio.CancelledError:
        if came:
            raise Terminated(came[0]) from None
        raise


project_option = click.option(
    "--project",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="The project: where agents are defined and work. Default: the current directory.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def duration(value: str) -> float:
    """Seconds from what the settings take as a duration.

    Raises ValueError when it is none.
    """
    from agent_pool.settings import Settings

    try:
        return Settings.model_validate({"task_timeout": value}).task_timeout
    except ValueError:
        problem = f"{value!r}: expected a time above 0: 90, 250ms, 30s, 5m, 2h"
        raise ValueError(problem) from None


def duration_option(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """An option's value as seconds."""
    try:
        return None if value is None else duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def settings_of(ctx: click.Context, project: Path | None, **overrides: Any) -> Settings:
    """The settings with the options that were given, `--project` before or after the command.

    Raises ConfigError as `load_settings` does.
    """
    from agent_pool.settings import load_settings

    return load_settings(project_dir=project or ctx.find_root().obj, **overrides)
