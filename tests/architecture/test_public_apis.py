"""The product uses public names only of what it leans on: a private one may be gone in the next release."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ekd_train", "orchestrator", "tune_spaces")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
VENDORS = ("ray", "mlflow", "boto3", "botocore", "pyarrow", "optuna")

ALLOWED = {
    "orchestrator/runtime/ray_private.py": {
        "ray._private.state.state",
        "ray._private.state.state.get_cluster_config",
    },
}
"""Module -> what it may use; each with a fallback, and a test that names the release it was read in."""


def is_private(name: str) -> bool:
    """Whether a part of the dotted `name` begins with one underscore."""
    return any(re.match(r"_(?!_)", part) for part in name.split("."))


class PrivateNames(ast.NodeVisitor):
    """Private names of vendors that a module uses."""

    def __init__(self, source: str, own: frozenset[str]) -> None:
        """`own`: underscore names that the product itself defines, on whatever object."""
        self.own = own
        self.bound: dict[str, str] = {}
        """Name in this module -> the dotted name that it was imported as, in whatever scope."""
        self.found: set[str] = set()
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    self.bound[name] = alias.name if alias.asname else name
                    self._note(alias.name)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    self.bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    self._note(f"{node.module}.{alias.name}")
        self.has_vendor = any(_of_vendor(name) for name in self.bound.values())
        self.visit(tree)

    def _note(self, name: str) -> None:
        if _of_vendor(name) and is_private(name):
            self.found.add(name)

    def _dotted(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self.bound.get(node.id)
        if isinstance(node, ast.Attribute) and (outer := self._dotted(node.value)):
            return f"{outer}.{node.attr}"
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        dotted = self._dotted(node)
        if dotted is not None:
            self._note(dotted)
        elif self.has_vendor and is_private(node.attr) and node.attr not in self.own:
            self.found.add(node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr", "delattr"):
            for argument in node.args[1:2]:
                if isinstance(argument, ast.Constant) and is_private(str(argument.value)):
                    self.found.update({str(argument.value)} - self.own)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and re.fullmatch(r"\w+(\.\w+)+", node.value):
            self._note(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        names = {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        private = {name for name in names if is_private(name)}
        for base in node.bases:
            dotted = self._dotted(base)
            if private and dotted is not None and _of_vendor(dotted):
                self.found |= private & _underscore_members(dotted)
        self.generic_visit(node)


def _of_vendor(name: str) -> bool:
    return name.partition(".")[0] in VENDORS


def _underscore_members(dotted: str) -> set[str]:
    """The underscore members that a vendor's class and its bases have, on the class or on `self`."""
    module, _, name = dotted.rpartition(".")
    base = getattr(importlib.import_module(module), name)
    vendors = [cls for cls in base.__mro__ if _of_vendor(cls.__module__)]
    return set(dir(base)) | {
        member for cls in vendors for member in re.findall(r"\bself\.(_\w+)", inspect.getsource(cls))
    }


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def own_names() -> frozenset[str]:
    """Every name with an underscore that the product defines."""
    return frozenset(
        name for path in MODULES for name in _defined(ast.parse(path.read_text())) if is_private(name)
    )


def test_only_public_names_of_ray_mlflow_s3_and_optuna_are_used():
    own = own_names()
    used = {str(path.relative_to(ROOT)): PrivateNames(path.read_text(), own).found for path in MODULES}
    more = {module: names - ALLOWED.get(module, set()) for module, names in used.items()}
    assert {module: names for module, names in more.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from ray._private.state import state", "ray._private.state.state"),
        ("from ray.train._internal import session", "ray.train._internal.session"),
        ("import mlflow.store._unity", "mlflow.store._unity"),
        ("def f():\n    import ray\n    ray._private.worker", "ray._private.worker"),
        ("import ray as r\nr._raylet.GcsClient()", "ray._raylet.GcsClient"),
        ("import boto3\nboto3.client('s3')._request_signer", "_request_signer"),
        ("import boto3\nclient = make()\nclient._request_signer", "_request_signer"),
        ("import sys\ngetattr(sys.modules['mlflow.x'], '_cached', None)", "_cached"),
        ("patch('ray._private.state.state')", "ray._private.state.state"),
        (
            "from ray import tune\nclass T(tune.Trainable):\n    def f(self): self._iteration = 1",
            "_iteration",
        ),
        (
            "from ray.job_submission import JobSubmissionClient as J\nclass C(J):\n    _do_request = 0",
            "_do_request",
        ),
    ],
)
def test_it_finds_what_is_private(source, found):
    assert found in PrivateNames(source, frozenset()).found


@pytest.mark.parametrize(
    "source",
    [
        "import ray\nray.__version__",
        "from ray import tune\nclass T(tune.Trainable):\n    def _mine_alone(self): self._also_mine = self.x",
        "import torch\ntorch._dynamo.reset()",
        "import ray\nclass C:\n    def f(self, other): return other._known",
    ],
)
def test_it_leaves_alone_what_is_public_or_ones_own(source):
    own = frozenset({"_mine_alone", "_also_mine", "_known"})
    assert not PrivateNames(source, own).found
