"""A small MCP server: `ping` answers with its pid and the variable WORD; `pong` is never called."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

NO_ARGUMENTS = {"type": "object", "properties": {}}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of a request, or None for an unknown method."""
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "pinger", "version": "1"},
        }
    if method == "tools/list":
        names = ("ping", "pong")
        return {
            "tools": [
                {"name": n, "description": "Plays.", "inputSchema": NO_ARGUMENTS} for n in names
            ]
        }
    if method == "tools/call":
        said = f"pid {os.getpid()} word {os.environ.get('WORD', '')}"
        return {"content": [{"type": "text", "text": said}]}
    return None


def main() -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        result = answer(asked["method"], asked.get("params") or {})
        body = (
            {"error": {"code": -32601, "message": "no"}} if result is None else {"result": result}
        )
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **body}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
