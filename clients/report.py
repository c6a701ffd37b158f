"""The table of clients in docs/mcp.md, made from the outcomes in results.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from clients.outcomes import ClientRun, load

PAGE: Final = Path(__file__).parents[1] / "docs" / "mcp.md"
BEGIN: Final = "<!-- begin: python -m clients --table -->"
END: Final = "<!-- end -->"
WORDS: Final = {
    "listed": "list",
    "invoked": "`invoke`",
    "invoked_many": "`invoke_many`",
    "side_by_side": "two calls at once",
    "progress": "progress",
    "cancel": "cancel",
    "background": "`background` and `result`",
    "slow": "a call of 8 s",
    "long": "an answer of 60,000 characters",
}
"""The checks, as the column of what works names them."""
FAILURES: Final = {
    "side_by_side": "calls of one turn run one after another",
    "progress": "does not show progress",
    "cancel": "after a cancel the agent goes on",
    "slow": "a call of 8 s times out",
}
SETTINGS: Final = {
    "Claude Code": (
        "Calls become [tasks](#tasks) of the protocol: several run at the same time, the person "
        "sees the line of progress as their status, and TaskStop ends one."
    ),
    "Claude Code -p": "Use `invoke_many` for several tasks at the same time.",
    "Codex": (
        "Use `invoke_many` for several tasks. The first line of a long answer says how "
        "`read_answer` returns the rest."
    ),
    "Gemini CLI": "`read_answer` returns the rest of a long answer.",
    "opencode": "`read_answer` returns the rest of a long answer.",
    "openai-agents": (
        "`client_session_timeout_seconds=600`: the default is 5 s. With it, the call of 8 s "
        "succeeded. Over HTTP use `invoke_many`."
    ),
    "langchain-mcp-adapters": (
        "`async with client.session(…)` and `load_mcp_tools(session)` use one server; "
        "`get_tools()` starts one for itself and one for every call. It needs a virtual "
        "environment of its own, without agent-pool."
    ),
    "MCP Inspector": "It needs Node 22: `npm install node@22`. A server runs for each call.",
    "TypeScript SDK": (
        "`onprogress` with `resetTimeoutOnProgress: true`: without it a call ends after 60 s, with "
        'it a call of 65 s succeeded. `versionNegotiation: {mode: "auto"}` starts the server on '
        "stdio twice: the first one only answers which protocol it speaks."
    ),
}
"""What helps with each client; the outcomes show that it does."""


def table(runs: list[ClientRun]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| client | protocol | works | does not | what helps |",
        "|---|---|---|---|---|",
    ]
    names = sorted({run.client for run in runs}, key=str.lower)
    lines += [_row([run for run in runs if run.client == name]) for name in names]
    return "\n".join(lines)


def _row(runs: list[ClientRun]) -> str:
    first = runs[0]
    protocols = ", ".join(sorted({run.protocol for run in runs}))
    works = [word for check, word in WORDS.items() if all(_is_ok(run, check) for run in runs)]
    cells = [
        f"{first.client} {first.version}",
        f"{protocols}; {' and '.join(sorted(run.transport for run in runs))}",
        "all" if len(works) == len(WORDS) else ", ".join(works),
        "; ".join(_failures(runs)) or "-",
        SETTINGS.get(first.client, "-"),
    ]
    return f"| {' | '.join(cells)} |"


def _is_ok(run: ClientRun, check: str) -> bool:
    return check in run.checks and run.checks[check].ok is True


def _failures(runs: list[ClientRun]) -> list[str]:
    """Return what does not work, each with the transport if the other one is better."""
    found = []
    for check in WORDS:
        failing = [run for run in runs if not _is_ok(run, check)]
        if failing:
            where = "" if len(failing) == len(runs) else f" ({failing[0].transport})"
            found.append(_failure(failing[0], check) + where)
    return [*found, *(["cannot share an environment with `mcp` 2.x"] if _is_alone(runs) else [])]


def _failure(run: ClientRun, check: str) -> str:
    outcome = run.checks.get(check)
    if check == "progress" and (outcome is None or outcome.ok is None):
        return "progress: a task has a status instead" if run.uses_tasks else "asks for no progress"
    if check == "side_by_side" and outcome is not None and outcome.ok is None:
        return outcome.detail
    if check == "long" and outcome is not None and (seen := re.match(r"\d+", outcome.detail)):
        return f"of 60,000 characters {int(seen[0]):,} reach its model"
    return FAILURES.get(check, f"{WORDS[check]} fails")


def _is_alone(runs: list[ClientRun]) -> bool:
    return any("shares" in run.checks and not run.checks["shares"].ok for run in runs)


def page_with_table() -> str:
    """Return the text of docs/mcp.md with the table of the outcomes in results.json."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(load())}\n{END}{after}"
