"""`summary.json` and the table that a person reads at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.manifest import Manifest

if TYPE_CHECKING:
    from rich.table import Table


def summarise(manifest: Manifest, experiment: str) -> dict[str, Any]:
    """The content of `summary.json` (docs: contract), as far as the run has come."""
    stages = manifest.content["stages"]
    summary: dict[str, Any] = {"run_id": manifest.content["run_id"], "experiment": experiment}
    if "evaluate" in stages:
        measured = manifest.outputs("evaluate")
        summary |= {key: measured[key] for key in ("predictors", "latency") if key in measured}
    if "register" in stages:
        summary["registered_model"] = {
            key: manifest.outputs("register")[key] for key in ("name", "version", "aliases", "promotion")
        }
    summary["stages"] = {name: {"seconds": stage["seconds"]} for name, stage in stages.items()}
    for key in ("data_fingerprint", "result_hash", "code_version"):
        summary[key] = manifest.content[key]
    return summary


COLUMNS = (
    ("accuracy", "acc. %", 100, 2),
    ("nll", "NLL", 1, 4),
    ("ece", "ECE", 1, 4),
    ("brier", "Brier", 1, 4),
    ("cnll", "cNLL", 1, 4),
    ("cece", "cECE", 1, 4),
)


def order(predictors: dict[str, Any]) -> list[str]:
    """Predictors as they are read: control, teachers, ensemble, members, averaged."""
    rank = {"control": 0, "ensemble": 2, "members": 3, "averaged": 4}
    return sorted(predictors, key=lambda name: (rank.get(name, 1), name))


def rows(predictors: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of predictors, on the test images; absent metrics are blank."""
    headings = ["predictor", *(title for _, title, _, _ in COLUMNS), "parameters", "MACs"]
    cells = []
    for name in order(predictors):
        values = predictors[name]
        row = [name]
        for key, _, scale, digits in COLUMNS:
            row.append(f"{scale * values['test'][key]:.{digits}f}" if key in values["test"] else "")
        cells.append([*row, compact(values["params"]), compact(values["macs"])])
    return headings, cells


def table(predictors: dict[str, Any]) -> Table:
    """The table of predictors for a terminal."""
    from rich.table import Table

    headings, cells = rows(predictors)
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for row in cells:
        made.add_row(*row, style="bold" if row[0] == "averaged" else None)
    return made


def markdown(predictors: dict[str, Any]) -> str:
    """The table of predictors as Markdown."""
    headings, cells = rows(predictors)
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def verdict(predictors: dict[str, Any]) -> str:
    """One sentence: the averaged student against the control and the ensemble."""
    test = {name: predictors[name]["test"] for name in ("averaged", "control", "ensemble")}
    gain = 100 * (test["averaged"]["accuracy"] - test["control"]["accuracy"])
    gap = 100 * (test["averaged"]["accuracy"] - test["ensemble"]["accuracy"])
    nll = test["averaged"]["nll"] - test["control"]["nll"]
    share = predictors["averaged"]["macs"] / predictors["ensemble"]["macs"]
    return (
        f"One network at {100 * share:.0f} % of the ensemble's cost: accuracy {gain:+.2f} points and NLL "
        f"{nll:+.4f} against a network trained on labels alone, {gap:+.2f} points against the ensemble."
    )


def compact(number: float) -> str:
    """A count in a few characters.

    >>> compact(19714), compact(5_243_000_000)
    ('19.7 k', '5.24 G')
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"
