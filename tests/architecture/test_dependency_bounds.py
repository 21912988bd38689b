"""pyproject.toml allows what tests ran with: at the lower bounds, and as constraints.txt pins it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(one)
    for one in PROJECT["dependencies"] + EXTRAS["timm"] + EXTRAS["hugging_face"] + EXTRAS["export"]
]
MOVING = {"ray", "mlflow", "torch", "optuna"}
"""We lean on parts of them that move between releases."""


def pins(file: str) -> dict[str, Version]:
    """Name -> version of a constraints file."""
    lines = [line for line in (ROOT / file).read_text().lower().splitlines() if "==" in line]
    return {name: Version(version) for name, version in (line.split("==") for line in lines)}


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds():
    lower = {
        one.name: Version(specifier.version)
        for one in REQUIREMENTS
        for specifier in one.specifier
        if specifier.operator == ">="
    }
    assert lower == pins("constraints-oldest.txt")


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_what_is_installed_for_tests_is_within_the_bounds(file):
    found = pins(file)
    outside = [str(one) for one in REQUIREMENTS if not one.specifier.contains(found[one.name])]
    assert not outside


def test_what_moves_between_releases_has_an_upper_bound():
    bounded = {one.name for one in REQUIREMENTS if any(s.operator == "<" for s in one.specifier)}
    assert bounded >= MOVING


def test_the_citation_is_of_this_version():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
