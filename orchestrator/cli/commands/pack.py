"""`ekd pack`: pack the data of an experiment now."""

import argparse

from ekd_train.settings import LISTED
from orchestrator.cli.checks import named_experiment, nothing_started
from orchestrator.cli.terminal import results_console
from orchestrator.errors import ExperimentError
from orchestrator.planning.data import load_here, packed_line, room


def run(arguments: argparse.Namespace) -> int:
    """Pack, and say where; the exit status."""
    experiment = named_experiment(arguments)
    data = experiment.data
    if data.name not in LISTED or data.image_size is None:
        raise ExperimentError(f"ekd pack: only {', '.join(LISTED)} with data.image_size can be packed")
    with nothing_started():
        packed = data.model_copy(update={"pack": "always"})
        form = load_here(packed, experiment.storage.endpoint_url, room(experiment.cluster), make=True).packed
    assert form is not None
    console = results_console()
    console.say(packed_line(form))
    if data.pack != "always" and form.decoded_bytes <= form.room:
        console.say("decoded they fit into memory, so a run packs them with data.pack=always only")
    return 0
