"""The structure of the package: imports between rooms, IO in the cores, sizes, dependencies."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import agent_pool

PACKAGE = "agent_pool"
ROOT = Path(agent_pool.__file__).parent
PROJECT_FILE = Path(__file__).parents[1] / "pyproject.toml"
MAX_FUNCTION_LINES = 50

GROUND = {"errors", "settings", "text"}
VALUES = {"models", "events", "api"}
FACES = {"mcp", "cli", "hook", "otel"}
FACES_CAN_IMPORT = {"", "client", "loopback", "errors", "runtime", "settings", "text", "views"}
"""Modules that a face can import, besides its own and the package's public names."""

ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "text": set(),
    "runtime": {"errors"},
    "settings": {"errors", "text"},
    "models": {"errors"},
    "events": {"errors", "models"},
    "api": {"errors", "events", "models"},
    "agents": GROUND | {"models"},
    "claude": GROUND | VALUES | {"agents"},
    "pool": GROUND | VALUES | {"agents", "claude"},
    "loopback": {"errors"},
    "views": {"text", "models", "events"},
    "tasks": GROUND | VALUES | {"pool", "views"},
    "cluster": GROUND | VALUES | {"agents", "claude", "pool", "runtime"},
    "client": GROUND | VALUES | {"runtime", "pool"},
    "relay": {"client", "errors", "runtime"},
    "daemon": GROUND | VALUES | {"claude", "client", "mcp", "pool", "runtime", "tasks", "views"},
    "sync": GROUND | VALUES | {"pool", "client"},
}
"""The rooms that each room can import besides itself. The faces have rules of their own."""

LATE = {
    ("claude", "loopback"): "the reset probe runs a binary against the offline model",
    ("cli", "mcp"): "`agent-pool serve` starts the other face",
    ("cli", "relay"): "`agent-pool serve` is the relay",
    ("relay", "mcp"): "without a daemon the relay becomes the server",
    ("daemon", "cluster"): "only a daemon that is asked for it has the nodes of a cluster",
    ("cli", "daemon"): "`agent-pool daemon run` is the daemon",
    ("mcp", "hook"): "the early list of tools finds the agents' files as the hook does",
}
"""Imports that are allowed inside a function only, and why."""

POOL_MAKERS = {"cli.connect", "mcp.stdio"}
"""The modules of the faces that choose a pool; all others know only `PoolAPI`."""

SANS_IO = [
    "claude.protocol.content",
    "claude.protocol.endings",
    "claude.protocol.frames",
    "claude.protocol.framing",
    "claude.protocol.resets",
    "claude.protocol.results",
    "claude.protocol.role",
    "claude.protocol.session",
    "claude.protocol.signals",
    "claude.protocol.states",
    "claude.protocol.turn_record",
    "claude.protocol.usage_watch",
    "claude.protocol.words",
    "cluster.placement",
    "events",
    "models",
    "pool.scheduler.model",
    "pool.scheduler.scheduler",
    "tasks.dispatch",
    "tasks.transcript",
]
SANS_IO_CAN_IMPORT = {*SANS_IO, "errors", "text", "pool.scheduler", "claude.protocol"}
DOES_IO = {
    *("asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "pathlib"),
    *("psutil", "random", "secrets", "selectors", "shutil", "signal", "socket", "subprocess"),
    *("tempfile", "threading", "time", "uuid"),
}
HOOK_NEEDS = {"__future__", "json", "os", "stat", "sys"}
"""Modules that the hook imports; it runs before each delegation, so it must start fast."""


@dataclass(frozen=True)
class Import:
    """One import statement's module.

    Attributes:
        importer: the module with the statement, its name within the package.
        target: the full name of the imported module.
        names: the names that are taken from it; empty for a plain import.
        is_late: it stands in a function.
    """

    importer: str
    target: str
    names: tuple[str, ...]
    line: int
    is_late: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


SMALL_MODULES = {
    ("runtime", "_blake2"),
    *(("claude.watchdog_script", name) for name in ("_ctypes", "_signal", "_socket")),
}
"""Private modules that are imported all the same: the public ones bring `enum` and `selectors`, and
the watchdog would have 10.2 MiB instead of 8.8; `hashlib` brings OpenSSL, and a relay would have
3.7 MB more."""


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    return module.partition(".")[0]


def inside(target: str) -> str | None:
    """Return the module's name within the package; None if it is outside."""
    if target == PACKAGE:
        return ""
    return target.removeprefix(f"{PACKAGE}.") if target.startswith(f"{PACKAGE}.") else None


def is_for_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST, is_late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node that runs, and whether it runs later than the module is loaded."""
    for child in ast.iter_child_nodes(node):
        if not is_for_type_checking(child):
            yield child, is_late
            later = is_late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from statements(child, later)


def targets(node: ast.AST, package: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the modules that a node imports, each with the names that are taken from it."""
    if isinstance(node, ast.Import):
        return [(alias.name, ()) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = package[: len(package) - node.level + 1] if node.level else []
    origin = ".".join([*base, *filter(None, [node.module])])
    found: list[tuple[str, tuple[str, ...]]] = []
    for alias in node.names:
        name = f"{origin}.{alias.name}"  # `from x import y` can name the module x.y
        found.append((name, ()) if is_module(name) else (origin, (alias.name,)))
    return found


def is_module(name: str) -> bool:
    within = inside(name)
    if within is None:
        return False
    path = ROOT.joinpath(*within.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports() -> list[Import]:
    found = []
    for path in files():
        name = module_name(path)
        is_package = path.name == "__init__.py"
        package = [PACKAGE, *name.split(".")] if name else [PACKAGE]
        for node, is_late in statements(parsed(path)):
            found += [
                Import(name, target, names, getattr(node, "lineno", 0), is_late)
                for target, names in targets(node, package if is_package else package[:-1])
            ]
    return found


def internal() -> list[tuple[Import, str]]:
    """Return the imports of the package's own modules, with the target's name within it."""
    return [(i, within) for i in imports() if (within := inside(i.target)) is not None]


def definitions(*kinds: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for path in files():
        for node in ast.walk(parsed(path)):
            if isinstance(node, kinds):
                yield path, node


def test_the_imports_of_the_whole_package_are_read() -> None:
    assert len(imports()) > 100
    assert any(within == "claude.protocol.session" for _, within in internal())
    assert any(i.is_late for i in imports())


def test_every_module_belongs_to_a_known_room() -> None:
    known = {*ROOMS, *FACES, "", "__main__"}
    assert {room_of(module_name(path)) for path in files()} - known == set()


def test_each_room_imports_only_the_rooms_below_it() -> None:
    assert [str(i) for i, within in internal() if not can_import(i, within)] == []


def can_import(i: Import, within: str) -> bool:
    room, other = room_of(i.importer), room_of(within)
    below = ROOMS.get(room)
    return below is None or other in below | {room} or (i.is_late and (room, other) in LATE)


def test_the_faces_import_only_names_that_a_user_can() -> None:
    assert [str(i) for i, within in internal() if not can_face_import(i, within)] == []


def can_face_import(i: Import, within: str) -> bool:
    face, other = room_of(i.importer), room_of(within)
    if face not in FACES or other == face or other in FACES_CAN_IMPORT:
        return True
    return i.is_late and within == other and (face, other) in LATE


def test_the_faces_know_only_the_interface_of_a_pool() -> None:
    direct = {
        i.importer for i, _ in internal() if room_of(i.importer) in FACES and "AgentPool" in i.names
    }
    assert direct == POOL_MAKERS


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module_name(path): set() for path in files()}
    for i, within in internal():
        if within != i.importer:
            graph[i.importer].add(within)
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(graph)


@pytest.mark.parametrize("module", SANS_IO)
def test_the_cores_do_no_io_and_read_no_clock(module: str) -> None:
    used = {i.target.partition(".")[0] for i in imports() if i.importer == module}
    assert used != set()
    assert used & DOES_IO == set()


def test_the_cores_import_only_modules_that_do_no_io() -> None:
    assert [
        str(i)
        for i, within in internal()
        if i.importer in SANS_IO and within not in SANS_IO_CAN_IMPORT
    ] == []


def test_only_the_protocol_room_knows_the_keys_of_frames() -> None:
    readers = {
        i.importer
        for i, within in internal()
        if within == "claude.protocol.frames" and "Frame" in i.names
    }
    assert readers <= {name for name in SANS_IO if name.startswith("claude.protocol.")}


def test_the_hook_imports_only_six_modules_of_the_standard_library() -> None:
    hook = {i.target.partition(".")[0] for i in imports() if i.importer == "hook"}
    # `unicodedata` is imported only to compare names that are not ASCII.
    assert hook <= {*HOOK_NEEDS, "unicodedata"}


def test_no_function_has_more_than_fifty_lines_of_code() -> None:
    assert [
        f"{module_name(path)}:{node.lineno} {node.name} has {length} lines"
        for path, node in definitions(ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := code_lines(node)) > MAX_FUNCTION_LINES
    ] == []


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    lines = (node.end_lineno or 0) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_a_class_name_exists_once_in_the_whole_package() -> None:
    places: defaultdict[str, set[str]] = defaultdict(set)
    for path, node in definitions(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        places[node.name].add(module_name(path))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    # The blocking pool has the name of the one that it wraps; it is imported from another place.
    assert twice == {"AgentPool": {"pool.pool", "sync"}}


# Other distributions


def test_every_imported_distribution_is_a_declared_dependency() -> None:
    project = tomllib.loads(PROJECT_FILE.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {
        normalized(re.split(r"[\[<>=;\s]", line)[0])
        for line in [*project["dependencies"], *extras["otel"], *extras["ray"]]
    }
    installed = packages_distributions()
    imported = {i.target.partition(".")[0] for i in imports() if inside(i.target) is None}
    foreign = {name for name in imported if name not in sys.stdlib_module_names}
    missing = {
        name
        for name in foreign
        if not {normalized(one) for one in installed.get(name, [name])} & declared
    }
    assert foreign >= {"mcp", "mcp_types", "pydantic", "referencing"}
    assert missing == set()


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_private_name_of_another_package_is_imported() -> None:
    private = [
        str(i)
        for i in imports()
        if inside(i.target) is None
        and i.target != "__future__"
        and any(part.startswith("_") for part in (*i.target.split("."), *i.names))
        and (i.importer, i.target) not in SMALL_MODULES
    ]
    assert private == []
