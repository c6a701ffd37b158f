"""Variables of the CLI's JavaScript engine, which keep the memory of a worker flat.

The CLI is a compiled Bun program. Its engine, JavaScriptCore, takes options from the environment
and reads them once, before any JavaScript runs. The CLI passes its environment on to shell
commands, hooks and MCP servers (2.1.119 to 2.1.332), and a Bun program among them would obey the
same options. So a script that runs before the CLI's own code removes them again: Bun loads it
because of `BUN_OPTIONS`, and it removes itself from there as well.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final, Literal

WorkerMemory = Literal["lean", "fast"]

LEAN_FROM: Final = (2, 1, 330)
"""The oldest version that was measured to be smaller at about the same speed. 2.1.197 saves 7 % of
its memory and needs 37 % more processor time. Up to 2.1.112 the npm package is a Node script, which
would ignore the variables and pass them on."""

LEAN_VARIABLES: Final = {
    "BUN_JSC_useBaselineJIT": "0",
    "BUN_JSC_forceRAMSize": str(256 << 20),
}
"""Without the first tier of its compiler, the engine compiles no JavaScript at run time. `useJIT=0`
saves 15 to 30 MiB more, but adds 70 to 90 % to the processor time of a task. On a machine of so
few bytes of memory the engine collects garbage earlier: 40 MiB less after 200 tasks, for 5 to 14 %
more processor time, and nothing where the model takes a second (2.1.332)."""
OPTIONS: Final = "BUN_OPTIONS"

_PRELOAD: Final = "--preload=data:"
_SCRIPT: Final = (
    f"{{const env=process.env,mark={json.dumps(_PRELOAD)},"
    f'options=env.{OPTIONS}??"",at=options.lastIndexOf(mark);'
    "if(at>=0){const given=options.slice(0,at).trim();"
    f"if(given)env.{OPTIONS}=given;else delete env.{OPTIONS};"
    f"for(const name of {json.dumps([*LEAN_VARIABLES])})delete env[name];"
    # The CLI could pass its own options on to a process that it starts.
    "process.execArgv=process.execArgv.filter((option)=>!option.startsWith(mark))}}"
)
# A URL instead of a file: Bun splits BUN_OPTIONS at blanks and knows no quotes (2.1.332), and the
# path of a file can contain blanks.
_HIDE: Final = f"{_PRELOAD}text/javascript;base64,{base64.b64encode(_SCRIPT.encode()).decode()}"


def engine_variables(
    env: Mapping[str, str], version: tuple[int, ...], wanted: str
) -> dict[str, str]:
    """Return the variables to be added to a worker's environment; empty if it stays as it is.

    Args:
        env: the environment that the worker gets otherwise. If it has one of the variables, the
            user has decided, and nothing is added.
        version: of the CLI; versions below `LEAN_FROM` get nothing.
        wanted: `lean` or `fast`.
    """
    if wanted != "lean" or version < LEAN_FROM or any(name in env for name in LEAN_VARIABLES):
        return {}
    # Last, so that the script finds the user's own options before itself.
    return {**LEAN_VARIABLES, OPTIONS: f"{env.get(OPTIONS, '')} {_HIDE}".strip()}


def memory_in_force(env: Mapping[str, str]) -> WorkerMemory:
    """Return how a process with this environment treats memory."""
    is_lean = all(env.get(name) == value for name, value in LEAN_VARIABLES.items())
    return "lean" if is_lean else "fast"
