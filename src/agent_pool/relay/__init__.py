"""`agent-pool serve` with a daemon: passes messages between an MCP client and the daemon.

One of these processes runs for each session, so it is small: the standard library without asyncio.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from agent_pool.client.hello import RelayHello
from agent_pool.errors import AgentPoolError
from agent_pool.relay.link import open_link
from agent_pool.relay.pump import Pump
from agent_pool.runtime import is_daemon_wanted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(**overrides: Any) -> NoReturn:
    """Serve MCP on stdin and stdout until the client leaves; then end the process.

    The daemon does the work. Where it is switched off, or does not take this client, this process
    has a pool of its own, as `agent_pool.mcp.run` describes. The exit status is the same.

    Args:
        overrides: fields of `Settings`; None counts as not given. With any other than
            `project_dir` the daemon is not used, because its settings are others.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        if is_daemon_wanted(os.environ) and given.keys() <= {"project_dir"}:
            _relay(os.environ, given.get("project_dir"))
    except AgentPoolError as error:
        # Nothing of stdin was read yet, so the client does not notice the change.
        sys.stderr.write(f"agent-pool: this session has a pool of its own: {error}\n")
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    from agent_pool.mcp import run as run_server

    run_server(**overrides)


def _relay(environ: Mapping[str, str], project: object) -> NoReturn:
    """Connect to the daemon, and pass messages on until the client leaves.

    Raises:
        AgentPoolError: the daemon cannot be used.
    """
    for number in SIGNALS:
        signal.signal(number, _leave)
    hello = RelayHello.of(environ, None if project is None else str(project))
    again = hello._replace(is_resumed=True)
    pump = Pump(open_link(hello, environ), lambda: open_link(again, environ))
    os._exit(pump.run())


def _leave(number: int, _: object) -> NoReturn:
    # The daemon sees the closed connection, and cancels the calls of this client.
    os._exit(128 + number)
