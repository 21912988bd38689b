"""`ekd pack`: pack the data of an experiment now."""

import argparse

from ekd_train.settings import DataSettings
from orchestrator.cli.checks import named_experiment, nothing_started
from orchestrator.cli.terminal import results_console
from orchestrator.planning.data import load_here, packed_line


def run(arguments: argparse.Namespace) -> int:
    """Pack, and say where; the exit status."""
    experiment = named_experiment(arguments)
    with nothing_started():
        values = experiment.data.model_dump() | {"pack": "always"}
        dataset = load_here(DataSettings.model_validate(values), experiment.storage.endpoint_url, make=True)
    assert dataset.packed is not None
    console = results_console()
    console.say(packed_line(dataset.packed))
    if experiment.data.pack == "auto" and dataset.packed.decoded_bytes <= dataset.packed.room:
        console.say("decoded they fit into memory, so a run packs them with data.pack=always only")
    return 0
