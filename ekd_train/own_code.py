"""Classes and functions of one's own, which an experiment names as `package.module:name`.

They are code: only a module that the user's own experiment file or command line named may run (`allow`);
what a stored experiment names is refused until then.
"""

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from ekd_train.errors import EkdError
from ekd_train.regular_file import open_regular


def _written_so(name: str) -> str:
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ValueError("package.module:name of your own")
    return name


OwnCode = Annotated[
    str, AfterValidator(_written_so), WithJsonSchema({"type": "string", "pattern": r"^\w+(\.\w+)*:\w+$"})
]

OURS = {"ekd_train", "orchestrator", "tune_spaces"}
"""Packages that are wherever code of one's own runs, installed or not."""

_allowed: dict[str, str] = {}


class OwnCodeError(EkdError, ValueError):
    """Code of one's own that cannot be used: one line names it, what is wrong and where it was searched."""

    exit_status = 2


def is_own(name: str) -> bool:
    """Whether `name` is code of one's own, and not in one of our tables.

    >>> is_own("my_nets.small:Net"), is_own("timm/vit_tiny_patch16_224")
    (True, False)
    """
    return ":" in name


def refuse_options(options: Mapping[str, Any], name: str) -> None:
    """Raise `ValueError` where there are options, and `name` is not code of one's own."""
    if options and not is_own(name):
        raise ValueError(f"options are of code of your own, package.module:name, not of {name}")


def module_of(name: str) -> str:
    """The module of `package.module:name`."""
    return name.partition(":")[0]


def allow(code: Mapping[str, str]) -> None:
    """Let this process run modules: by name, the hash of the source that each must have."""
    _allowed.update(code)


def allow_named(modules: Iterable[str]) -> dict[str, str]:
    """Let this process run modules that its user has named, as they are here; the hashes of their sources.

    Raises `OwnCodeError`: there is no such module.
    """
    code = {module: source_hash(module) for module in modules}
    allow(code)
    return code


def build(name: str, *arguments: Any, **options: Any) -> Any:
    """What `name` makes of the arguments; raises `OwnCodeError`, whatever it raises itself."""
    made_by = load(name)
    try:
        return made_by(*arguments, **options)
    except Exception as error:
        raise OwnCodeError(f"{name}: {_said(error)}") from error


def load(name: str) -> Any:
    """The class or function `name`. Raises `OwnCodeError`: not allowed, not found, or of another source."""
    module, _, attribute = name.partition(":")
    if module not in _allowed:
        raise OwnCodeError(
            f"{name}: a stored experiment names code of its own, which only runs if your own experiment "
            "file or command line names it, or --trust-stored allows it"
        )
    return _imported(module, attribute, _allowed[module])


@cache
def _imported(module: str, attribute: str, expected_hash: str) -> Any:
    name = f"{module}:{attribute}"
    if source_hash(module) != expected_hash:
        raise OwnCodeError(f"{name}: {module} here has another source than where the run was started")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise OwnCodeError(f"{name}: cannot import {module}: {_said(error)}; {_searched()}") from error
    if not hasattr(found, attribute):
        raise OwnCodeError(f"{name}: {found.__file__} has no {attribute!r}")
    return getattr(found, attribute)


def source_hash(module: str) -> str:
    """SHA-256 of the names and contents of `sources(module)`; raises `OwnCodeError`."""
    digest = hashlib.sha256()
    for name, file in sources(module).items():
        try:
            with open_regular(file) as opened:
                content = opened.read()
        except OSError as error:
            raise OwnCodeError(f"{module}: {file} cannot be read: {error.strerror}") from None
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def sources(module: str) -> dict[str, Path]:
    """The Python files of a module by their name below the folder that they are imported from.

    All of its package, which its modules import each other from, and of what they import besides that is not
    installed; of an installed one the module's file alone. Raises `OwnCodeError`.
    """
    found = _files_of(module)
    waiting = list(found.values())
    while waiting:
        file = waiting.pop()
        if _installed(str(file)):
            continue
        for name in _imported_by(file) - OURS - sys.stdlib_module_names - {"__main__"}:
            spec = importlib.util.find_spec(name)
            if (
                spec is not None
                and not _installed(spec.origin)
                and (spec.origin or spec.submodule_search_locations)
            ):
                more = {key: path for key, path in _files_of(name).items() if key not in found}
                found |= more
                waiting += more.values()
    return found


def _imported_by(file: Path) -> set[str]:
    """The packages that a file names in its imports, at the top or within a function; not its own."""
    try:
        with open_regular(file) as opened:
            tree = ast.parse(opened.read())
    except (OSError, SyntaxError, ValueError):  # hashing or importing it says so
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def _files_of(module: str) -> dict[str, Path]:
    folder = os.getcwd()  # last: it must not stand before what is installed
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        raise OwnCodeError(f"{module}: is a module of Python's own, and none of yours")
    try:
        spec = _found(module)
    except (ImportError, AttributeError, ValueError) as error:
        raise OwnCodeError(f"{module}: {_said(error)}; {_searched()}") from error
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        raise OwnCodeError(f"{module}: there is no such module; {_searched()}")
    if spec.submodule_search_locations and not _installed(spec.origin):
        root = Path(next(iter(spec.submodule_search_locations)))
        return {file.relative_to(root.parent).as_posix(): file for file in sorted(root.rglob("*.py"))}
    file = Path(spec.origin or "")
    if file.suffix != ".py":
        raise OwnCodeError(f"{module}: is not Python source")
    return {file.name: file}


def _found(module: str) -> ModuleSpec | None:
    """Where a module of a package is, without importing the package, which would run it; of one that is not
    installed, where the package is."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not _installed(spec.origin):
        return spec
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return spec


def travelling(module: str) -> dict[str, Path]:
    """Of `sources(module)` what a cluster cannot have installed; raises `OwnCodeError`."""
    return {name: file for name, file in sources(module).items() if not _installed(str(file))}


def _installed(file: str | None) -> bool:
    if file is None or file in ("built-in", "frozen"):
        return file is not None
    path = Path(file)
    packages = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(packages) or path.is_relative_to(sysconfig.get_path("stdlib"))


def _searched() -> str:
    listed = os.environ.get("PYTHONPATH")
    path = (
        f", PYTHONPATH ({listed})" if listed else ", PYTHONPATH (not set: a folder elsewhere belongs into it)"
    )
    return f"searched were {os.getcwd()}{path} and what is installed in {sys.prefix}"


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
