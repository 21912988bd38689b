"""What a page of results is made from, kept beside it: anybody can make the page again from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.study.arms import ARMS
from benchmarks.study.choice import Choice
from benchmarks.study.results import METRICS, ArmResult, page, unpacked
from benchmarks.study.together import Compared

FORMAT = 1
SHOWN = ("train/teachers_diversity/", "train/members_diversity/")
"""What pages show of the validation record of a cell's kept weights."""
DIGITS = 6
"""Significant ones of every number: more than a page shows."""


def write(output: Path, name: str, compared: Compared, **told: str) -> str:
    """Write the record of a regime and the page that it makes; the page.

    Args:
        output: the folder of pages.
        name: of the page.
        compared: the regime's results.
        told: `because`, `command` and `chosen` of the page, `pictures` above its tables.
    """
    cells = [
        {"arm": arm.name, "teacher_set": pair[0], "seed": pair[1], **_kept(cell)}
        for arm in compared.arms
        for pair, cell in zip(arm.pairs, arm.cells, strict=True)
    ]
    choices = {arm.name: asdict(arm.choice) for arm in compared.arms}
    head = {"format": FORMAT, "regime": compared.regime, **told, "choices": choices, "pools": compared.pools}
    (folder := output / "records").mkdir(parents=True, exist_ok=True)
    # A line a cell: what another seed changes is one line of a diff.
    lines = ",\n".join(json.dumps(_rounded(cell), ensure_ascii=False) for cell in cells)
    text = json.dumps(_rounded(head), ensure_ascii=False, indent=1).removesuffix("\n}")
    record = folder / f"{name}.json"
    record.write_text(f'{text},\n "cells": [\n{lines}\n]}}\n')
    made = page_of(record)
    (output / f"{name}.md").write_text(made)
    return made


def page_of(record: Path) -> str:
    """The page that a record makes."""
    kept = json.loads(record.read_text())
    arms = []
    for name, choice in kept["choices"].items():
        cells = [cell for cell in kept["cells"] if cell["arm"] == name]
        pairs = [(cell["teacher_set"], cell["seed"]) for cell in cells]
        arms.append(ArmResult(ARMS[name], Choice(**choice), cells, pairs))
    told = {key: kept[key] for key in ("command", "chosen")}
    title, _, rest = page(kept["regime"], kept["because"], kept["pools"], arms, **told).partition("\n")
    return f"{title}\n\n{kept['pictures']}\n{rest}"


def faults(output: Path) -> list[str]:
    """A line for each page that is not what its record makes, and each cell whose accuracy its bits belie;
    one where there are no records at all."""
    records = sorted((output / "records").glob("*.json"))
    if not records:
        return [f"there is no record in {output / 'records'}: nothing was checked"]
    return [fault for record in records for fault in _faults(output, record)]


def _faults(output: Path, record: Path) -> Iterator[str]:
    for cell in json.loads(record.read_text())["cells"]:
        told = cell[ARMS[cell["arm"]].predictor]["test"]["accuracy"]
        counted = _rounded(mean(unpacked(cell["right"])))
        if told != counted:
            yield (
                f"{record}: {cell['arm']}, set {cell['teacher_set']}, seed {cell['seed']}: its accuracy is "
                f"{told:g}, and {counted:g} by the images that are said to be recognised"
            )
    page = output / f"{record.stem}.md"
    if not page.exists() or page.read_text() != page_of(record):
        yield f"{page} is not what records/{record.name} makes"


def _kept(cell: dict[str, Any]) -> dict[str, Any]:
    """Of a cell's result what pages are made from."""
    kept: dict[str, Any] = {
        predictor: {"test": {metric: cell[predictor]["test"][metric] for metric in METRICS}}
        for predictor in ("averaged", "members")
        if predictor in cell
    }
    if "averages" in cell:
        kept["averages"] = {
            way: {"test": {metric: one["test"][metric] for metric in ("accuracy", "nll")}}
            for way, one in cell["averages"].items()
        }
    if "diversity" in cell:
        kept["diversity"] = {key: cell["diversity"][key] for key in ("agreement", "pairwise_kl")}
    if best := {key: value for key, value in cell.get("best", {}).items() if key.startswith(SHOWN)}:
        kept["best"] = best
    return kept | {"right": cell["right"]}


def _rounded(value: Any) -> Any:
    """`value` with `DIGITS` significant digits of every float in it."""
    match value:
        case float():
            return float(f"{value:.{DIGITS}g}")
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
    return value
