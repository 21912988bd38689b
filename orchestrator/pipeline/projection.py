"""What MLflow is to show of a run, from what the run's storage holds.

So MLflow can be written at any time, as often as one likes, and from any host: what it has is left as it
is (`orchestrator.tracking.runs`). While a run goes on the driver writes each epoch as it comes; at its
end it writes this.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ekd_train.persistence.checkpoint import DamagedCheckpoint, load_typed
from ekd_train.persistence.identity import differing
from ekd_train.persistence.networks import load_network_record
from ekd_train.persistence.records import CheckpointRecord, NetworkRecord
from ekd_train.settings import TrainingRun
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.gain import gained
from orchestrator.pipeline.manifest import (
    EVALUATION,
    EXPERIMENT,
    REPORT,
    SUMMARY,
    read_experiment,
    read_manifest,
    read_record,
)
from orchestrator.pipeline.manifest_content import ManifestContent, Prepared, TrialOutcome
from orchestrator.pipeline.order import SEARCH, training_runs
from orchestrator.pipeline.summary import summarise
from orchestrator.registry.champion import NOT_TO_BE_USED
from orchestrator.registry.model_card import CARD, escaped
from orchestrator.robustness.content import FORMAT as EVALUATION_FORMAT
from orchestrator.robustness.content import read_evaluation
from orchestrator.robustness.flat_metrics import flat_metrics
from orchestrator.storage import MissingKey, Storage
from orchestrator.tracking.run_state import NOTE, PARENT, RunState, RunStatus, flattened
from orchestrator.tuning.search_budget import SEARCH as SEARCH_RECORD
from orchestrator.tuning.search_budget import SearchRecord
from orchestrator.tuning.trial_store import TrialRecord, TrialStatus, TrialStore

TRIAL_STATUS: dict[TrialStatus, RunStatus] = {
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "out_of_time": "KILLED",
}
"""MLflow's status of a trial that has ended."""
ALWAYS_SHOWN = (
    *("seed", "data.name", "teachers.0.count", "student.method", "student.members"),
    *("student.training.epochs", "student.training.learning_rate"),
    *("distillation.temperature", "distillation.alpha", "perturbation.kind", "perturbation.strength"),
)
"""Params of a run whether or not they differ from the defaults; the artifact `experiment.json` has all."""
OF_A_STUDENT = tuple(key for key in ALWAYS_SHOWN if key.startswith(("student.m", "distillation", "perturb")))
"""Those of them that are shown of the student's own run, too."""
OF_A_NETWORK = ("accuracy", "nll", "cnll")
"""Test metrics of one trained network, by the names that the averaged student's have on the parent."""
TRIALS = "search/trials.json"
"""The artifact that has the whole record of every trial."""


def project(storage: Storage, experiment: Experiment) -> dict[str, RunState]:
    """The state of each MLflow run of the run in `storage`, by name.

    Args:
        storage: the run's; it holds a manifest.
        experiment: of the run, as this start resolves it; after a search with the best trial's values.

    Returns:
        Nothing if there is no manifest. Else the parent, whose status is left open; every training run that
        is stored or has a checkpoint; and every trial that has ended.
    """
    manifest = read_manifest(storage)
    if manifest is None:
        return {}
    parent = RunState()
    if manifest.done("prepare"):
        parent = described(experiment, manifest, manifest.prepared)
        parent.params = shown_params(experiment, searched_keys(manifest))
    for key in (SUMMARY, REPORT, EVALUATION, CARD):
        with suppress(MissingKey):
            parent.artifacts[key] = storage.read(key).decode()
    parent.add_tags({NOTE: _note(experiment, manifest, parent.artifacts.get(CARD, ""))})
    found = read_evaluation(storage)
    if found is not None and found["format"] == EVALUATION_FORMAT:
        parent.add_metrics(flat_metrics(found), found["number"] - 1)
    runs = {PARENT: parent}
    named = {run.name: run for run in training_runs(experiment)}
    if manifest.done(SEARCH) and (pool := read_experiment(storage)) is not None:
        # The best trial may have fewer teachers than were trained for the search.
        named = {run.name: run for run in pool.teacher_runs()} | named
    for run in named.values():
        if (history := _history(storage, manifest.run_id, run.name)) is not None:
            history.params = network_params(run)
            runs[run.name] = history
    for name, values in summarise(manifest).predictors.items():
        run_name = "student" if name == "members" else name.replace("/", "-")
        if run_name in runs:
            measured = {metric: values.test[metric] for metric in OF_A_NETWORK if metric in values.test}
            runs[run_name].add_metrics(measured, 0)
    if manifest.done(SEARCH):
        trials = list(TrialStore(storage).trials.values())
        _add_search(parent, manifest.searched.best, read_record(storage, SEARCH_RECORD, SearchRecord), trials)
        if manifest.done("evaluate") and (gain := manifest.evaluated.gain) is not None:
            parent.add_metrics({f"search/gain/{key}": value for key, value in gain.model_dump().items()}, 0)
        if said := gained(manifest):
            parent.add_tags({"ekd.search.gain": said})
        runs |= {record.name: trial_state(record) for record in trials if record.status != "proposed"}
    return runs


def described(experiment: Experiment, manifest: ManifestContent, prepared: Prepared) -> RunState:
    """Settings, code and data of the parent run, without params; `prepared`: made by the stage `prepare`."""
    settings, data = experiment.resolved(), prepared.data
    state = RunState(artifacts={EXPERIMENT: _json(settings)})
    tags = {"ekd.result_hash": manifest.result_hash, "ekd.code_version": manifest.code_version}
    tags[NOTE] = _note(experiment, manifest, "")
    state.add_tags(tags | ({"ekd.command": prepared.command} if prepared.command is not None else {}))
    for split in ("train", "validation", "test"):
        images = getattr(data, split)
        profile = {"fingerprint": data.fingerprint, "images": images, "classes": data.num_classes}
        state.datasets[split] = {
            "name": experiment.data.name,
            "digest": data.fingerprint[:36],  # MLflow's limit
            "source_type": "local",
            "source": json.dumps({"uri": experiment.data.root or experiment.data.name}),
            "schema": _schema(data.image_shape),
            "profile": json.dumps(profile),
        }
    return state


def shown_params(experiment: Experiment, keys: Collection[str] = ()) -> dict[str, str]:
    """The params of a run: what differs from the defaults, `keys` (dotted) and `ALWAYS_SHOWN`.

    Where it runs and is kept is no param: it decides nothing, and stands in `experiment.json`.
    """
    shown = {*ALWAYS_SHOWN, *keys, *flattened(experiment.result_settings())}
    return {key: text for key, text in flattened(experiment.resolved()).items() if key in shown}


def decided_params(experiment: Experiment, searched: Collection[str]) -> dict[str, str]:
    """Those of `shown_params` that a search over the keys `searched` leaves as they are.

    A param cannot be changed: the others are logged when the best trial is known. Teachers and members follow
    from what is searched (`orchestrator.tuning.pool`).
    """
    open_keys = (*searched, "teachers", "student.members") if searched else ()
    return {
        key: text
        for key, text in shown_params(experiment).items()
        if not any(f"{key}.".startswith(f"{open_key}.") for open_key in open_keys)
    }


def searched_keys(manifest: ManifestContent) -> Collection[str]:
    """The dotted keys that a finished search has set; none of a run without one."""
    return manifest.searched.best.values if manifest.done(SEARCH) else ()


def network_params(run: TrainingRun) -> dict[str, str]:
    """What tells a training run from the others of its `ekd run`, and its recipe."""
    same = ("augmentation", "teachers", "starts_from", "student.architecture", "student.training")
    shown = {key: text for key, text in flattened(differing(run, without=same)).items() if text != "{}"}
    if run.role == "student":
        every = flattened(run.model_dump(include={"student", "distillation", "perturbation"}))
        shown |= {key: every[key].removesuffix(".0") for key in OF_A_STUDENT if key in every}  # as the others
    return shown


def _note(experiment: Experiment, manifest: ManifestContent, card: str) -> str:
    """The parent run's description, Markdown: what came of it, and where the rest is."""
    verdict = card.partition("\n")[0] or "Not registered yet."
    if verdict.startswith(NOT_TO_BE_USED):  # a person may have decided otherwise since
        verdict = f"When it was registered: {verdict}"
    lines = [verdict, f"Of the experiment before `--set`: {escaped(experiment.description)}"]
    if manifest.done("register"):
        made = manifest.registered
        lines.insert(1, f"[{made.name} version {made.version}](#/models/{made.name}/versions/{made.version})")
    lines.append(
        f"Artifacts: `{REPORT}` (figures, every interval), `{SUMMARY}` (every metric of every predictor), "
        f"`{EXPERIMENT}` (every setting). Below this run: every network trained, every trial of a search."
    )
    return "\n\n".join(lines)


def training_state(
    history: Iterable[Mapping[str, float]],
    status: RunStatus | None,
    *,
    ended: float | None = None,
    seconds: float = 0.0,
) -> RunState:
    """A training run from its records, one for each validated epoch; `ended` after `seconds` of training."""
    state = RunState(status=status, ended=ended, began=None if ended is None else ended - seconds)
    for record in history:
        state.add_metrics(
            {key: value for key, value in record.items() if key != "epoch"}, int(record["epoch"])
        )
    return state


def network_state(record: NetworkRecord, run_id: str) -> RunState:
    """A network of the run `run_id`, trained by it or by another one."""
    state = training_state(record.history, "FINISHED", ended=record.ended, seconds=record.seconds)
    if reused := record.reused_by(run_id):
        state.add_tags({"ekd.reused_from": reused})
    return state


def shown_of_trial(record: Mapping[str, float]) -> dict[str, float]:
    """What MLflow shows of one record of a trial, its score first: MLflow's charts begin with that."""
    first = ("score", "score_nll")
    shown = {key: record[key] for key in first if key in record}
    return shown | {key: value for key, value in record.items() if key not in (*first, "finished")}


def trial_state(record: TrialRecord) -> RunState:
    """A trial of a search, from its record."""
    history = [shown_of_trial(each) for each in record.history]
    ended = TRIAL_STATUS.get(record.status)
    state = training_state(history, ended, ended=record.ended_at, seconds=record.seconds)
    state.params = flattened(record.values)
    state.add_tags({"ekd.trial": record.number})
    if record.status != "proposed":
        spent = {"seconds": round(record.seconds, 3), "cost": record.cost, "full_cost": record.full_cost}
        known = {key: value for key, value in spent.items() if value is not None}
        state.add_metrics(known, record.epochs)
        state.add_tags({"ekd.trial.status": record.status, "ekd.trial.epochs": record.epochs})
    if record.reused_from:
        state.add_tags({"ekd.reused_from": ", ".join(dict.fromkeys(record.reused_from))})
    if record.error:
        state.add_tags({"ekd.trial.error": record.error})
    return state


def _history(storage: Storage, run_id: str, name: str) -> RunState | None:
    """A training run from its record, else from its newest whole checkpoint; None: it has not come so far."""
    with suppress(LookupError, DamagedCheckpoint):
        return network_state(load_network_record(storage, name), run_id)
    for key in sorted(storage.list(f"checkpoints/{name}"), reverse=True):
        if key.startswith(f"checkpoints/{name}/epoch-") and key.endswith(".json"):
            with suppress(LookupError, DamagedCheckpoint):
                return training_state(load_typed(storage, key, CheckpointRecord).state["history"], None)
    return None


def _add_search(
    parent: RunState, best: TrialOutcome, search: SearchRecord | None, trials: list[TrialRecord]
) -> None:
    """What came of a search."""
    parent.add_metrics({"search/best_score": best.score, "search/trials": len(trials)}, 0)
    parent.add_tags({"ekd.search.best": best.trial})
    if search is not None:
        parent.add_tags({"ekd.search.space": search.request.space.name})
    parent.artifacts[TRIALS] = _json({"trials": [record.model_dump() for record in trials]})


def _schema(image_shape: Sequence[int]) -> str:
    """MLflow's schema of uint8 images of `image_shape` (c, h, w) with integer labels."""

    def spec(dtype: str, shape: tuple[int, ...]) -> str:
        return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}])

    specs = {"features": spec("uint8", (-1, *image_shape)), "targets": spec("int64", (-1,))}
    return json.dumps({"mlflow_tensorspec": specs})


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, default=str) + "\n"
