"""The SDK and the server on it, loaded with less time and memory than an import takes.

The SDK's packages import all of it, its client and its other kind of server too. Here they come to
that only when something asks for one of their names. What the server needs is in modules inside
them, which can be imported without that.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, Final, NoReturn

from agent_pool.mcp.opening import Opening

_PACKAGES: Final = ("mcp", "mcp.server")


def load_server() -> Callable[[Mapping[str, Any], Opening], NoReturn]:
    """What serves a connection that has been opened: `agent_pool.mcp.stdio.run`."""
    gc.disable()  # what is loaded now stays: looking for garbage among it takes long
    for name in _PACKAGES:
        _put_off(name)
    from agent_pool.mcp.stdio import run

    gc.freeze()
    gc.enable()
    return run


def _put_off(name: str) -> None:
    """Let a package be importable without running its own code yet."""
    spec = find_spec(name)
    if name in sys.modules or spec is None:
        return
    package = sys.modules[name] = module_from_spec(spec)
    package.__class__ = _Unrun
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


class _Unrun(ModuleType):
    """A package whose code runs when it is first asked for a name that it does not have."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # type: ignore[assignment]  # from now on like any other
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)
