"""`ekd models`: what is registered."""

import argparse
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby

from rich.table import Table

from orchestrator.cli.registry_client import check_model_name, open_registry
from orchestrator.cli.terminal import results_console
from orchestrator.errors import ExperimentError
from orchestrator.pipeline.summary import compact
from orchestrator.registry.listing import list_versions
from orchestrator.tuning.table import short

_HEADINGS: dict[str, tuple[str, Callable[[float], str]]] = {
    "val.\nacc. %": ("validation/accuracy", lambda value: f"{100 * value:.2f}"),
    "val.\nNLL": ("validation/nll", "{:.4f}".format),
    "test\nacc. %": ("accuracy", lambda value: f"{100 * value:.2f}"),
    "gain,\npoints": ("gain_over_control", lambda value: f"{100 * value:+.2f}"),
    "test\nNLL": ("nll", "{:.4f}".format),
    "test\nECE": ("ece", "{:.4f}".format),
    "\nMACs": ("macs", compact),
}

_SETTINGS = {
    "\nmethod": "student.method",
    "\nmembers": "student.members",
    "\nT": "distillation.temperature",
    "\nstrength": "perturbation.strength",
}
_SPARE = ("test\nECE", "\nMACs", "test\nNLL", "val.\nNLL")
_MEANINGS = (
    "T: temperature of the distillation; strength: of the perturbation, 1 is one grey level; val.: "
    "validation, by which a champion is chosen; gain: test accuracy over that of the version's own control; "
    "NLL: negative log-likelihood and ECE: expected calibration error, lower is better; MACs: "
    "multiply-accumulates for one image"
)


def run(arguments: argparse.Namespace) -> int:
    """Print every version with its metrics, the newest first; the exit status."""
    if arguments.name is not None:
        check_model_name(arguments.name)
    with open_registry(arguments) as client:
        versions = list_versions(client, arguments.name)
    if not versions:
        raise ExperimentError(
            f"no version of {arguments.name} is registered; `ekd models` lists what is"
            if arguments.name
            else "no student is registered here yet; `ekd run EXPERIMENT` registers one"
        )
    console = results_console()
    for name, group in groupby(versions, key=lambda listed: listed.name):
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("\nversion", justify="right", no_wrap=True)
        table.add_column("\nalias", overflow="fold")
        for heading in (*_SETTINGS, *_HEADINGS):
            table.add_column(heading, justify="right", no_wrap=True)
        listed = list(group)
        for each in listed:
            shown = [
                show(each.metrics[key]) if key in each.metrics else "" for key, show in _HEADINGS.values()
            ]
            style = "bold" if "champion" in each.aliases else None
            settings = [_short(each.params.get(key, "")) for key in _SETTINGS.values()]
            table.add_row(each.version, ", ".join(each.aliases), *settings, *shown, style=style)
        console.say(f"models:/{name}")
        console.show(table, _SPARE)
        for each in listed:
            console.say(str(each))
        console.print()
    console.say(_MEANINGS, "dim")
    return 0


def _short(setting: str) -> str:
    """A number that a search drew, in three digits.

    >>> _short("2.3697354152590577"), _short("latent_be")
    ('2.37', 'latent_be')
    """
    with suppress(ValueError):
        return short(float(setting))
    return setting
