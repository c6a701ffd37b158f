"""`agent-pool stats`: the daemon and every other running pool of this user, asked now."""

from __future__ import annotations

import click

from agent_pool.cli.command import Command, json_option, run_async
from agent_pool.cli.connect import find_tasks
from agent_pool.cli.output import console, print_json
from agent_pool.cli.pools import find_pools, format_pools, pools_as_json


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Show it as `agent-pool top` does.")
@json_option
def stats(as_json: bool, watch: bool) -> None:
    """Show every running pool of this user: workers, tasks, tokens, cost and memory.

    A pool is the daemon, an MCP server of a Claude Code session that does not use it, or a program
    that uses the library. The command asks each of them now; one that does not answer within two
    seconds is listed as such. With --watch, the figures move: that is `agent-pool top`, but no
    daemon is started for it.

    \b
    Example:
      agent-pool stats
      agent-pool stats --watch
      agent-pool stats --json | jq '.total.cost_usd'
    """
    if watch:
        _check_watch(as_json=as_json)
        from agent_pool.cli.top_app import run_top  # Textual takes long to import

        run_async(run_top(find_tasks()))
        return
    found, daemon = run_async(find_pools())
    if as_json:
        print_json({**pools_as_json(found), "daemon": daemon and daemon.as_json()})
    else:
        console().print(format_pools(found, daemon))


def _check_watch(*, as_json: bool) -> None:
    if as_json:
        raise click.UsageError("--watch is for people and --json is for programs; choose one")
    if not console().is_terminal:
        raise click.UsageError("--watch needs a terminal; without --watch, stats prints once")
