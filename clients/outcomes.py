"""The outcomes of a client's checks, in the form of the JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).with_name("results.json")


@dataclass
class Outcome:
    """One check of one client.

    Attributes:
        ok: it works; None if the client cannot do it at all.
        detail: what was seen.
    """

    ok: bool | None
    detail: str = ""


@dataclass
class ClientRun:
    """All checks of one client over one transport.

    Attributes:
        client: its name.
        version: as installed.
        transport: stdio or http.
        protocol: the version of MCP that it spoke.
        sends_token: its calls carry a progress token.
        cancels_by: how the server learnt that a call was given up.
        servers: processes of our server that were started; 0 over HTTP.
        uses_tasks: its calls declare the extension for tasks.
        checks: the outcome of each check.
    """

    client: str
    version: str
    transport: str
    protocol: str = ""
    sends_token: bool = False
    cancels_by: str = ""
    servers: int = 0
    uses_tasks: bool = False
    checks: dict[str, Outcome] = field(default_factory=dict)

    def add(self, check: str, ok: bool | None, detail: str = "") -> None:
        """Note the outcome of a check."""
        self.checks[check] = Outcome(ok, detail)

    def read_wire(self, messages: list[tuple[str, dict[str, Any]]]) -> None:
        """Note what the messages between client and server show."""
        for side, message in messages:
            if side == "client":
                self._read(message)

    def _read(self, message: dict[str, Any]) -> None:
        params = message.get("params") or {}
        meta = params.get("_meta") or {}
        version = meta.get("io.modelcontextprotocol/protocolVersion") or params.get(
            "protocolVersion"
        )
        method = message.get("method", "")
        if version and (method == "initialize" or not self.protocol or "_meta" in params):
            self.protocol = version
        if method == "tools/call":
            self.sends_token = self.sends_token or "progressToken" in meta
            declared = meta.get("io.modelcontextprotocol/clientCapabilities") or {}
            self.uses_tasks = self.uses_tasks or "io.modelcontextprotocol/tasks" in (
                declared.get("extensions") or {}
            )
        if method == "notifications/cancelled":
            self.cancels_by = method


def save(runs: list[ClientRun], path: Path = RESULTS) -> None:
    """Write the runs, in place of earlier ones of the same clients."""
    kept = [one for one in load(path) if not any(_is_same(one, new) for new in runs)]
    ordered = sorted([*kept, *runs], key=lambda one: (one.client, one.transport))
    path.write_text(json.dumps([asdict(one) for one in ordered], indent=1) + "\n")


def load(path: Path = RESULTS) -> list[ClientRun]:
    """Return the runs in the file; empty if there is no file."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text())
    return [ClientRun(**{**row, "checks": _read_checks(row["checks"])}) for row in rows]


def _read_checks(rows: dict[str, Any]) -> dict[str, Outcome]:
    return {name: Outcome(**row) for name, row in rows.items()}


def _is_same(one: ClientRun, other: ClientRun) -> bool:
    return (one.client, one.transport) == (other.client, other.transport)
