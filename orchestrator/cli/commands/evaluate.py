"""`ekd evaluate`: a finished run under corruption, on foreign images, and where it should not answer."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.table import Table

from orchestrator.cli.checks import nothing_started
from orchestrator.cli.stored_runs import named_storage, own_tracking, run_storage, with_own_places
from orchestrator.cli.terminal import results_console
from orchestrator.errors import ExperimentError
from orchestrator.pipeline.lease import Lease
from orchestrator.pipeline.manifest import EVALUATION, REPORT
from orchestrator.pipeline.manifest_content import Predictor
from orchestrator.pipeline.plain_console import PlainConsole
from orchestrator.pipeline.progress_bar import ProgressBar
from orchestrator.pipeline.summary import MEANINGS, order
from orchestrator.report import load_evidence, render
from orchestrator.robustness.evaluation import evaluate_run, finished_run, read_settings
from orchestrator.robustness.flat_metrics import flat_metrics
from orchestrator.robustness.recording import record
from orchestrator.tracking import redacted, resolve_tracking_uri


def run(arguments: argparse.Namespace) -> int:
    """Measure the run, and print what was found; the exit status."""
    settings = read_settings(arguments.overrides)
    errors = PlainConsole(stderr=True)

    def say(text: str) -> None:
        errors.say(text)

    storage = run_storage(named_storage(arguments), arguments.run_id)
    with nothing_started():
        finished_run(storage)
    meter = ProgressBar("corrupted images", errors)
    try:
        with Lease(storage).acquire(say) as lease:
            storage = lease.fenced
            stored = finished_run(storage)
            stored = replace(stored, experiment=with_own_places(stored.experiment, arguments))
            try:
                found = evaluate_run(stored, settings, say, meter)
            finally:
                meter.close()
            uri = None
            try:
                own = own_tracking(stored.experiment.tracking.uri, arguments)
                uri = resolve_tracking_uri(own, arguments.storage)
            except ExperimentError as error:
                say(f"WARNING: not recorded in MLflow: {error}")
            page = render(load_evidence(storage), tracking_uri=uri and redacted(uri))
            storage.write(REPORT, page.encode())
            if uri is not None:
                record(stored, uri, say, lease.confirm)
    except KeyboardInterrupt:
        say("ekd: interrupted; nothing of this evaluation is kept, and the run is as it was")
        return 1
    console = results_console()
    results = results_table(found)
    console.show(results, SPARE)
    console.say(legend(results), "dim")
    console.print()
    console.show(severity_table(found, stored.manifest.evaluated.predictors), SPARE_SEVERITIES)
    console.print()
    console.say(f"Report: {storage.uri(REPORT)}")
    console.say(storage.uri(EVALUATION))
    return 0


HEADINGS = {
    "corruption/{}/accuracy": ("corrupted\nacc. %", 100, 2),
    "corruption/{}/nll": ("\nNLL", 1, 3),
    "corruption/{}/ece": ("\nECE", 1, 3),
    "corruption/{}/mce": ("\nmCE", 1, 3),
    "out_of_distribution/{}/max_probability/auroc": ("AUROC\nmax p", 1, 3),
    "out_of_distribution/{}/entropy/auroc": ("AUROC\nentropy", 1, 3),
    "out_of_distribution/{}/disagreement/auroc": ("AUROC\ndisagr.", 1, 3),
    "out_of_distribution/{}/max_probability/fpr_at_95": ("\nFPR@95", 1, 3),
    "risk_coverage/{}/aurc": ("\nAURC", 1, 4),
}
"""Metric of `flat_metrics` -> heading, factor, digits."""

SPARE = ("\nECE", "AUROC\ndisagr.", "AUROC\nentropy", "\nNLL", "\nFPR@95")
"""Headings of columns that a narrow terminal can do without, the first of them first."""
SPARE_SEVERITIES = ("4", "2", "3")

WHAT_THEY_ARE = {
    "corrupted": "means over all corruptions and severities; clean images are in the table below",
    "NLL": MEANINGS["NLL"],
    "ECE": MEANINGS["ECE"],
    "mCE": "mean corruption error: errors over the control's, averaged over corruptions; lower is better",
    "AUROC": "how often a foreign image looks less known than a known one, by its largest probability, by "
    "the entropy, or by how members or teachers disagree; 0.5 by chance, higher is better",
    "FPR@95": "share of foreign images accepted where 95 % of the known ones are; lower is better",
    "AURC": "area under risk over coverage: error among the k surest images, mean over k; lower is better",
}
"""Word of a heading -> what it means."""


def results_table(found: Mapping[str, Any]) -> Table:
    """One line for each predictor; what was not measured is blank."""
    flat = flat_metrics(found)
    columns = {
        key: what for key, what in HEADINGS.items() if any(key.format(n) in flat for n in _names(found))
    }
    lines = []
    for name in _names(found):
        cells = [
            f"{scale * flat[key.format(name)]:.{digits}f}" if key.format(name) in flat else ""
            for key, (_, scale, digits) in columns.items()
        ]
        lines.append([name, *cells])
    return _table(["\npredictor", *(heading for heading, _, _ in columns.values())], lines)


def legend(results: Table) -> str:
    """What the headings of `results` mean, a line each."""
    shown = {word for column in results.columns for word in str(column.header).split()}
    return "\n".join(f"{word}: {what}" for word, what in WHAT_THEY_ARE.items() if word in shown)


def severity_table(found: Mapping[str, Any], clean: Mapping[str, Predictor]) -> Table:
    """Accuracy in percent, clean and at each severity, averaged over the corruptions."""
    corrupted = found["corruption"]["predictors"]
    severities = list(corrupted["averaged"]["severities"])
    lines = [
        [
            name,
            f"{100 * clean[name].test['accuracy']:.2f}",
            *(f"{100 * corrupted[name]['severities'][s]['accuracy']:.2f}" for s in severities),
        ]
        for name in _names(found)
    ]
    return _table(["acc. % at severity", "clean", *severities], lines)


def _names(found: Mapping[str, Any]) -> list[str]:
    return order(found["corruption"]["predictors"])


def _table(headings: list[str], lines: list[list[str]]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for line in lines:
        made.add_row(*line, style="bold" if line[0] == "averaged" else None)
    return made
