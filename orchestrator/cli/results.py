"""What `ekd run` and `ekd tune` print at the end of a run."""

import shlex

from orchestrator.cli.terminal import ResultsConsole, results_console
from orchestrator.experiment.infrastructure import StorageSettings
from orchestrator.experiment.smoke import is_small
from orchestrator.pipeline.manifest import REPORT, Manifest
from orchestrator.pipeline.manifest_content import ManifestContent
from orchestrator.pipeline.summary import SPARE, legend, summarise, table, unrecognised, verdict
from orchestrator.planning.preflight import Checked
from orchestrator.registry.promotion import AT_CHANCE, CHALLENGER, NOT_FINITE, WORSE_THAN_CONTROL
from orchestrator.tracking import redacted, resolve_tracking_uri, runs_page, ui_command
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.table import (
    LEGEND,
    failures,
    outcome,
    reused,
    short_values,
    spare_columns,
    trials_table,
)
from orchestrator.tuning.trial_store import TrialStore

ADVICE = {
    AT_CHANCE: "It does not tell the classes apart yet: train longer (student.training.epochs), or with a "
    "lower student.training.learning_rate; the report shows how the training went.",
    WORSE_THAN_CONTROL: "Labels alone do better so far: train longer, or with a lower "
    "student.training.learning_rate or distillation.temperature; the report compares the two.",
    NOT_FINITE: "Its training diverged: lower student.training.learning_rate; the report shows when.",
}
"""How the reason of a challenger begins -> what makes a better one."""


def print_results(
    checked: Checked, manifest: Manifest, request: SearchRequest | None = None, *, asked: bool = False
) -> None:
    """The search, where there was one, and the predictors; the last line is the registered model's URI.

    `asked`: the registry has just said how the version stands; else that is of when it was registered.
    """
    console = results_console()
    if request is not None:
        _print_trials(console, TrialStore(checked.storage), manifest.content, request)
    for sentence in (found := outcome(manifest.content)):
        console.say(sentence)
    if found:
        console.print()
    summary = summarise(manifest.content)
    registered = manifest.content.registered
    console.show(table(summary.predictors), SPARE)
    console.say(legend(summary.predictors), "dim")
    console.print()
    console.say(verdict(summary.predictors, summary.to_control))
    small = is_small(checked.experiment)
    if not small and (never := unrecognised(summary.predictors["averaged"], summary.class_names)):
        console.say(f"WARNING: {never}")
    if registered.name != checked.experiment.model_name:  # it is no part of the run's id
        console.say(
            f"WARNING: registered as {registered.name}, before {checked.experiment.model_name} was set"
        )
    console.say(
        f"In the registry: {registered.promotion}" if asked else f"Registered as {registered.promotion_then}"
    )
    if registered.promotion.startswith(CHALLENGER):
        promote = _promote_command(checked, registered.uri)
        console.say(_advice(registered.promotion, promote, small=small, asked=asked))
    console.say(f"Report: {checked.storage.uri(REPORT)}")
    if command := ui_command(checked.tracking_uri):
        console.say(f"To look at it: {command}")
    if registered.experiment_id:
        page = runs_page(checked.tracking_uri, registered.experiment_id)
        console.say(f"MLflow: {page}")
    if small:
        console.say("A smoke run: every stage has run, and its numbers mean nothing.")
    console.say(registered.uri)


def _advice(promotion: str, command: str, *, small: bool, asked: bool) -> str:
    """What to do about a challenger, by its reason `promotion`; `command` makes it the champion.

    Unless the registry was just `asked`, somebody may have made it the champion since.
    """
    if small:
        return f"If a smoke run is to be the champion all the same: {command}"
    reason = promotion.removeprefix(f"{CHALLENGER}: ")
    for cause, advice in ADVICE.items():
        if reason.startswith(cause):
            return f"{advice}\nIf you want it as champion all the same: {command}"
    return f"To make it the champion{'' if asked else ', if it is not by now'}: {command}"


def _promote_command(checked: Checked, uri: str) -> str:
    command = ["ekd", "promote", uri, "--reason", "WHY"]
    if resolve_tracking_uri(None, StorageSettings().uri) != checked.tracking_uri:
        command += ["--tracking", redacted(checked.tracking_uri)]
    return shlex.join(command)


def _print_trials(
    console: ResultsConsole, store: TrialStore, manifest: ManifestContent, request: SearchRequest
) -> None:
    found = manifest.searched
    console.show(trials_table(store.trials, rows=None), spare_columns(store.trials))
    console.say(LEGEND, "dim")
    for line in (*reused(store.trials), *failures(store.trials)):
        console.say(line)
    console.print()
    if request.searcher == "pareto":
        console.print("Pareto set (validation accuracy against the passes of a whole training):")
        for item in found.pareto:
            shown = f"{100 * item.score:.2f} %  {item.cost:g}  {item.trial}: "
            console.say(f"  {shown}{short_values(item.values)}")
        console.print()
