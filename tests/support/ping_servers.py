"""MCP servers that play ping, and files of Claude Code that configure them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from agent_pool.loopback import ModelRequest

SERVER = Path(__file__).parent / "programs" / "ping_server.py"


def server(**env: str) -> dict[str, Any]:
    """Build the configuration of a server with these variables."""
    return {"command": sys.executable, "args": [str(SERVER)], "env": env}


def configure(path: Path, **servers: Any) -> None:
    """Write servers into a configuration file; keep what else it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, "mcpServers": servers}))


def servers_of(request: ModelRequest) -> set[str]:
    """Return the servers that have a tool in this request."""
    return {name.split("__")[1] for name in request.tools if name.startswith("mcp__")}
