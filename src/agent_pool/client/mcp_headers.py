"""`agent-pool mcp-headers`: the headers by which an MCP client on HTTP reaches the daemon.

Claude Code runs it when it connects, and again after an answer 401 (2.1.332). So the token can
change with each start of a daemon, and a daemon that has ended is started.

Only the standard library: Claude Code waits for it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import quote, urlsplit

from agent_pool.client.hello import CLIENT_PID_HEADER, PROJECT_HEADER
from agent_pool.client.start import ensure_daemon
from agent_pool.errors import AgentPoolError, ConfigError, DaemonUnavailable
from agent_pool.runtime import DAEMON_SWITCH, DaemonAddress, is_daemon_wanted


def run() -> NoReturn:
    """Print the headers as a JSON object, and end the process; its status is 1 after an error."""
    try:
        headers = make_headers(os.environ)
    except AgentPoolError as error:
        sys.stderr.write(f"agent-pool: {error}\n")
        sys.exit(1)
    sys.stdout.write(f"{json.dumps(headers)}\n")
    sys.exit(0)


def make_headers(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers for the daemon, which is started if there is none.

    Raises:
        AgentPoolError: there is no daemon, or it listens elsewhere.
    """
    if not is_daemon_wanted(environ):
        raise ConfigError(f"{DAEMON_SWITCH} is off; MCP over HTTP needs the daemon")
    address = ensure_daemon(environ)
    _check_url(address, environ.get("CLAUDE_CODE_MCP_SERVER_URL", ""))
    # Claude Code runs it in the project's folder, and sets no CLAUDE_PROJECT_DIR (2.1.332).
    project = environ.get("CLAUDE_PROJECT_DIR") or os.getcwd()  # noqa: PTH109 - pathlib is large
    return {
        "Authorization": f"Bearer {address.token}",
        PROJECT_HEADER: quote(os.fsencode(project)),
        CLIENT_PID_HEADER: str(_client_pid(environ)),
    }


def _check_url(address: DaemonAddress, url: str) -> None:
    """Refuse to send the token to any other server than the daemon.

    Raises:
        DaemonUnavailable: the client is about to.
    """
    # Any user of the machine can listen on a port that the daemon does not have.
    if url and urlsplit(url).netloc != urlsplit(address.url).netloc:
        raise DaemonUnavailable(
            f"the daemon listens on {address.url}, but Claude Code is registered for {url}: run "
            "`agent-pool install --http` again"
        )


def _client_pid(environ: Mapping[str, str]) -> int:
    """Return the pid of Claude Code: its socket for messages is named after it (2.1.332)."""
    name = os.path.basename(environ.get("CLAUDE_CODE_MESSAGING_SOCKET", ""))  # noqa: PTH119
    found = re.fullmatch(r"(\d{1,9})\.sock", name)
    return int(found[1]) if found else os.getppid()
