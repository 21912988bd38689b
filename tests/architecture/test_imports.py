"""The drawing of the imports: no file imports itself by way of others, and few imports are made late.

Read from the sources, so imports inside functions and those for type checking alone count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "ekd_train", "tune_spaces")
MOST_LATE_IMPORTS = 60
"""Imports inside functions: of what takes time that a command need not spend, or is of an extra."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imported(name: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules of this product that a statement in the module `name` imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        package = name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]
        base = resolve_name("." * node.level + (node.module or ""), package)
        whole = [f"{base}.{alias.name}" for alias in node.names]
        names = [name if name in SOURCES else base for name in whole]
    yield from (found for found in names if found in SOURCES and found != name)


def import_graph() -> dict[str, set[str]]:
    return {
        name: {
            target
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for target in imported(name, node)
        }
        for name, path in SOURCES.items()
    }


def in_circles(graph: dict[str, set[str]]) -> set[str]:
    """The modules that can be reached from themselves."""
    found = set()
    for start in graph:
        seen, ahead = set(), list(graph[start])
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead += graph[name]
        if start in seen:
            found.add(start)
    return found


def late_imports() -> list[str]:
    """Every import inside a function, as `module:line`."""
    found = set()
    for name, path in SOURCES.items():
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                found |= {
                    f"{name}:{node.lineno}"
                    for node in ast.walk(function)
                    if isinstance(node, ast.Import | ast.ImportFrom)
                }
    return sorted(found)


def test_a_circle_is_seen_where_there_is_one():
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}


def test_imports_go_in_no_circle():
    assert in_circles(import_graph()) == set()


def test_few_imports_are_made_late():
    late = late_imports()
    assert len(late) <= MOST_LATE_IMPORTS, "\n".join(late)
