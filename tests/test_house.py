"""The house keeps its order: who may import whom, what may do IO, how large things are."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import agent_pool

PACKAGE = "agent_pool"
ROOT = Path(agent_pool.__file__).parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50

BOTTOM = {"errors", "settings"}
FACES = {"mcp", "cli", "hook", "otel"}
PUBLIC = {"agents", "loopback", "errors", "settings"}
"""Rooms whose names a face may import besides those of the package itself."""

ROOMS = {
    "errors": set[str](),
    "settings": {"errors"},
    "agents": BOTTOM,
    "claude": BOTTOM | {"agents"},
    "pool": BOTTOM | {"agents", "claude"},
    "loopback": {"errors"},
}
"""What each room may import besides itself. The faces are held by rules of their own."""

LATE = {
    ("claude", "loopback"): "to find out whether a binary forgets, it is run against the model",
    ("cli", "mcp"): "`agent-pool serve` is the other face, started",
}
"""What may be imported where it is used, and why; never when the module is loaded."""

SANS_IO = [
    "claude.accounts",
    "claude.events",
    "claude.frames",
    "claude.framing",
    "claude.session",
    "claude.states",
    "pool.actions",
    "pool.balance",
    "pool.core",
    "pool.policy",
    "pool.queues",
    "pool.roster",
]
DOES_IO = {
    *("asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "pathlib"),
    *("psutil", "random", "secrets", "selectors", "shutil", "signal", "socket", "subprocess"),
    *("tempfile", "threading", "time", "uuid"),
}
HOOK_NEEDS = {"__future__", "os", "stat", "sys"}
"""What every interpreter has loaded already; the hook runs before each delegation."""
HOOK_NEEDS_LATE = HOOK_NEEDS | {"_json", "json"}


@dataclass(frozen=True)
class Import:
    """One imported module, and where: at the top of a module, or later, when it is used."""

    importer: str
    target: str
    line: int
    is_late: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    return module.partition(".")[0]


def inside(target: str) -> str | None:
    """The module's name within the package, empty for the package itself."""
    if target == PACKAGE:
        return ""
    return target.removeprefix(f"{PACKAGE}.") if target.startswith(f"{PACKAGE}.") else None


def is_for_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST, is_late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Everything below a node that runs, and whether it runs later than the module is loaded."""
    for child in ast.iter_child_nodes(node):
        if not is_for_type_checking(child):
            yield child, is_late
            later = is_late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from statements(child, later)


def targets(node: ast.AST, package: list[str]) -> list[str]:
    """The modules that an import statement names; `from x import y` may name the module x.y."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = package[: len(package) - node.level + 1] if node.level else []
    origin = ".".join([*base, *filter(None, [node.module])])
    names = [f"{origin}.{alias.name}" for alias in node.names]
    return [name if is_module(name) else origin for name in names]


def is_module(name: str) -> bool:
    within = inside(name)
    if within is None:
        return False
    path = ROOT.joinpath(*within.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@cache
def imports() -> list[Import]:
    found = []
    for path in files():
        name = module_name(path)
        is_package = path.name == "__init__.py"
        package = [PACKAGE, *name.split(".")] if name else [PACKAGE]
        for node, is_late in statements(ast.parse(path.read_text(encoding="utf-8"))):
            found += [
                Import(name, target, getattr(node, "lineno", 0), is_late)
                for target in targets(node, package if is_package else package[:-1])
            ]
    return found


def internal() -> list[tuple[Import, str]]:
    """The imports of the package's own modules, with the target's name within it."""
    return [(i, within) for i in imports() if (within := inside(i.target)) is not None]


def test_the_imports_are_read() -> None:
    assert len(imports()) > 100
    assert any(within == "claude.session" for _, within in internal())
    assert any(i.is_late for i in imports())


def test_every_file_stands_in_a_known_room() -> None:
    known = {*ROOMS, *FACES, "", "__main__"}
    assert {room_of(module_name(path)) for path in files()} - known == set()


def test_each_room_imports_only_the_rooms_below_it() -> None:
    assert [str(i) for i, within in internal() if not may_import(i, within)] == []


def test_faces_import_only_what_a_user_could() -> None:
    assert [str(i) for i, within in internal() if not may_face_import(i, within)] == []


def may_import(i: Import, within: str) -> bool:
    room, other = room_of(i.importer), room_of(within)
    below = ROOMS.get(room)
    return below is None or other in below | {room} or (i.is_late and (room, other) in LATE)


def may_face_import(i: Import, within: str) -> bool:
    face, other = room_of(i.importer), room_of(within)
    if face not in FACES or other in {"", face} or within in PUBLIC:
        return True
    return i.is_late and within == other and (face, other) in LATE


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module_name(path): set() for path in files()}
    for i, within in internal():
        if within != i.importer:
            graph[i.importer].add(within)
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(graph)


@pytest.mark.parametrize("module", SANS_IO)
def test_the_cores_do_no_io_and_know_no_clock(module: str) -> None:
    used = {i.target.partition(".")[0] for i in imports() if i.importer == module}
    assert used != set()
    assert used & DOES_IO == set()


def test_the_cores_import_nothing_of_the_package_that_does_io() -> None:
    pure = {*SANS_IO, "errors"}
    assert [
        str(i) for i, within in internal() if i.importer in SANS_IO and within not in pure
    ] == []


def test_the_hook_needs_only_a_little_of_the_standard_library() -> None:
    hook = [(i.target.partition(".")[0], i.is_late) for i in imports() if i.importer == "hook"]
    assert {target for target, is_late in hook if not is_late} <= HOOK_NEEDS
    assert {target for target, _ in hook} <= HOOK_NEEDS_LATE


def test_no_file_is_too_long() -> None:
    lengths = {module_name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in files()}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    assert [
        f"{module_name(path)}:{node.lineno} {node.name} has {length} lines"
        for path in files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ] == []
