"""Loading the SDK and a server with less time and memory than a plain import takes.

The packages of the SDK import everything, its client and its high-level server too. Here that
happens only when a name of these packages is asked for. The modules that the server needs are
inside them, and can be imported without it.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from agent_pool.mcp.opening import Opening

_PACKAGES: Final = ("mcp", "mcp.server")


def load_server() -> Callable[[Mapping[str, Any], Opening], NoReturn]:
    """Load `agent_pool.mcp.stdio`, and return its `run`."""
    with lean_imports():
        from agent_pool.mcp.stdio import run
    return run


@contextmanager
def lean_imports() -> Iterator[None]:
    """Import what stays inside this block; begin it before anything imports the SDK.

    What is imported of the SDK later is imported without the rest of it too.
    """
    gc.disable()  # all that is loaded now stays: searching it for garbage takes time
    for name in _PACKAGES:
        _load_lazily(name)
    yield
    gc.freeze()
    gc.enable()


def _load_lazily(name: str) -> None:
    """Make a package importable without running its own code."""
    spec = find_spec(name)
    if name in sys.modules or spec is None:
        return
    package = sys.modules[name] = module_from_spec(spec)
    package.__class__ = _LazyPackage
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


class _LazyPackage(ModuleType):
    """A package whose code runs when it is first asked for a name that it does not have."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # type: ignore[assignment]  # a normal package from now on
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)
