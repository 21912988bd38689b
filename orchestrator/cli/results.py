"""What `ekd run` and `ekd tune` print at the end of a run."""

import shlex

from orchestrator.cli.terminal import ResultsConsole, results_console
from orchestrator.experiment.infrastructure import StorageSettings
from orchestrator.pipeline.manifest import REPORT, Manifest
from orchestrator.pipeline.manifest_content import ManifestContent
from orchestrator.pipeline.summary import gained, summarise, table, verdict
from orchestrator.planning.preflight import Checked
from orchestrator.registry.promotion import CHALLENGER
from orchestrator.tracking import redacted, resolve_tracking_uri, runs_page, ui_command
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.table import failures, short_values, trials_table
from orchestrator.tuning.trial_store import TrialStore


def print_results(checked: Checked, manifest: Manifest, request: SearchRequest | None = None) -> None:
    """The search, where there was one, and the predictors; the last line is the registered model's URI."""
    console = results_console()
    if request is not None:
        _print_search(console, TrialStore(checked.storage), manifest.content, request)
    summary = summarise(manifest.content)
    registered = manifest.content.registered
    console.print(table(summary.predictors))
    console.print()
    console.print(verdict(summary.predictors), soft_wrap=True)
    console.print(f"Registered as {registered.promotion}", soft_wrap=True)
    if registered.promotion.startswith(CHALLENGER):
        console.print(f"To make it the champion: {_promote_command(checked, registered.uri)}", soft_wrap=True)
    console.print(f"Report: {checked.storage.uri(REPORT)}", soft_wrap=True)
    if command := ui_command(checked.tracking_uri):
        console.print(f"To look at it: {command}", soft_wrap=True)
    if registered.experiment_id:
        page = runs_page(checked.tracking_uri, registered.experiment_id)
        console.print(f"MLflow: {page}", soft_wrap=True)
    console.print(registered.uri, soft_wrap=True)


def _promote_command(checked: Checked, uri: str) -> str:
    command = ["ekd", "promote", uri, "--reason", "WHY"]
    if resolve_tracking_uri(None, StorageSettings().uri) != checked.tracking_uri:
        command += ["--tracking", redacted(checked.tracking_uri)]
    return shlex.join(command)


def _print_search(
    console: ResultsConsole, store: TrialStore, manifest: ManifestContent, request: SearchRequest
) -> None:
    found = manifest.searched
    console.print(trials_table(store.trials, rows=None))
    for line in failures(store.trials):
        console.print(line, soft_wrap=True)
    console.print()
    if request.searcher == "pareto":
        console.print("Pareto set (validation accuracy against forward-pass equivalents an image):")
        for item in found.pareto:
            shown = f"{100 * item.score:.2f} %  {item.cost:g}  {item.trial}: "
            console.print(f"  {shown}{short_values(item.values)}", soft_wrap=True)
        console.print()
    best = found.best
    console.print(
        f"Best on validation: {best.trial}, {100 * best.score:.2f} %, {short_values(best.values)}",
        soft_wrap=True,
    )
    if sentence := gained(manifest):
        console.print(sentence, soft_wrap=True)
    console.print()
