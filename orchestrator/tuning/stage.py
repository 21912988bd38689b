"""The stage `search` of `ekd tune`: from trained teachers to the best configuration."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.pipeline.manifest import read_json
from orchestrator.pipeline.run_context import RunContext, RunFailed
from orchestrator.storage import Storage
from orchestrator.tuning.capacity import trials_at_once
from orchestrator.tuning.ledger import Ledger, TrialRecord, best_trial, pareto_set
from orchestrator.tuning.proposals import build_proposer
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.schedulers import exploit_epochs
from orchestrator.tuning.table import short_values, trials_table

SEARCH, REPORT = "search.json", "search.html"


class Spent:
    """`search.json`: what is searched, and the seconds that all starts have spent on it."""

    def __init__(self, storage: Storage, request: SearchRequest) -> None:
        self.storage = storage
        found = read_json(storage, SEARCH)
        if (
            found is not None
            and SearchRequest.model_validate(found["request"]).identity() != request.identity()
        ):
            raise ExperimentError(
                f"{storage.uri(SEARCH)}: this run searches otherwise (space, trials, seeds, scheduler or "
                "searcher); use the same options to continue it, or another --run-id"
            )
        self.request = request
        self.before: float = found["seconds"] if found is not None else 0.0
        self.began = time.monotonic()
        self.save()

    @property
    def seconds(self) -> float:
        """So far, all starts together."""
        return self.before + time.monotonic() - self.began

    def left(self) -> float | None:
        """Of the time budget; None: no limit."""
        budget = self.request.time_budget_s
        return None if budget is None else max(0.0, budget - self.seconds)

    def save(self) -> None:
        """Store it."""
        content = {"request": self.request.model_dump(mode="json"), "seconds": self.seconds}
        self.storage.write(SEARCH, json.dumps(content, indent=2).encode())


def search(context: RunContext, request: SearchRequest) -> dict[str, Any]:
    """Run the trials that have not ended; the best of all. Raises `RunFailed` if none has a result."""
    storage = context.checked.storage
    spent = Spent(storage, request)
    ledger = Ledger(storage)
    left = spent.left()
    if left != 0.0 and not _all_ended(ledger, request):
        _search(context, request, ledger, spent)
    context.stop_if_taken_over()
    spent.save()
    best = best_trial(ledger.trials)
    if best is None:
        reasons = [r.error for r in ledger.trials.values() if r.error]
        raise RunFailed(f"no trial has a result: {reasons[0] if reasons else 'out of time'}")
    context.view.say(
        f"best: {best.name}, validation accuracy {100 * best.quality[0]:.2f} %, {short_values(best.values)}"
    )
    _keep_student(context, best, request)
    for record in ledger.trials.values():
        ledger.forget_checkpoints(record)
    _publish(context, request, ledger, best)
    context.stop_if_taken_over()
    return {
        "best": _outcome(best),
        "pareto": [_outcome(record) for record in pareto_set(ledger.trials)],
        "trials": _counts(ledger),
        "seconds": round(spent.seconds, 3),
    }


def _search(context: RunContext, request: SearchRequest, ledger: Ledger, spent: Spent) -> None:
    import ray

    from ekd_train.data.shared import SharedData
    from ekd_train.persistence.networks import load_network
    from ekd_train.workers.trial_runner import network_arrays
    from orchestrator.tuning.recorder import Recorder
    from orchestrator.tuning.search import Search, run_search
    from orchestrator.tuning.workshops import TrialPost, open_workshop

    checked = context.checked
    pool, storage = checked.experiment, checked.storage
    context.end_workers()
    capacity = context.ray()
    at_once = trials_at_once(pool.cluster, capacity, request)
    teachers = {run.name: load_network(storage, run, checked.description) for run in pool.teacher_runs()}
    data = ray.put(SharedData(checked.dataset.without_test_images(), network_arrays(teachers)))
    proposer = build_proposer(request, pool.seed)
    recorder = Recorder(
        ledger,
        proposer,
        context.tracker,
        context.view,
        request.trials,
        before_event=context.stop_if_taken_over,
        after_trial=spent.save,
    )
    post = TrialPost(storage, _keeping(pool, request), request.seeds, data, open_workshop)
    context.view.panel = partial(trials_table, ledger.trials)
    context.view.say(
        f"{request.trials} trials, {at_once} at a time; {_counts(ledger) or 'none yet'}"
        f"; Ray: {capacity.describe()}{capacity.unused_gpus(pool.cluster)}"
    )
    try:
        run_search(Search(request, pool, storage, ledger, proposer, post), recorder, at_once, spent.left())
        context.stop_if_taken_over()
        recorder.out_of_time()
    finally:
        context.view.panel = None
        if not context.taken_over:
            spent.save()
    context.tracker.flush()


def _keeping(pool: Experiment, request: SearchRequest) -> dict[str, Any]:
    """The experiment that trials are made of: a population's checkpoints stay until all have copied them."""
    tree = pool.resolved()
    if request.scheduler == "pbt":
        longest = pool.student.training.epochs
        apart = exploit_epochs(pool.student.training, 1, longest)
        keep = tree["storage"]["keep_checkpoints"]
        tree["storage"]["keep_checkpoints"] = max(keep, (apart or [longest])[0] + 1)
    return tree


def _all_ended(ledger: Ledger, request: SearchRequest) -> bool:
    return sum(record.ended for record in ledger.trials.values()) >= request.trials


def _keep_student(context: RunContext, best: TrialRecord, request: SearchRequest) -> None:
    """If the best trial was trained in full, from the final training's own seed, that is the student.

    Its identity is the final training's: same settings, seed, data, teachers and workers.
    """
    from ekd_train.persistence.checkpoint import Checkpoints
    from ekd_train.persistence.networks import find_network, identity, save_network
    from ekd_train.training.trainee import build_network
    from ekd_train.workers.trial_runner import checkpoint_prefix
    from orchestrator.tuning.pool import trial_experiment

    checked = context.checked
    storage, description = checked.storage, checked.description
    run = trial_experiment(checked.experiment, best.values).student_run()
    key = identity(run, description["fingerprint"])
    found = Checkpoints(storage, checkpoint_prefix(best.name, 0), key).newest()
    if found is None or found.epoch < run.training.epochs or find_network(storage, run.name, key):
        return
    keys = ("num_classes", "image_shape", "mean", "std")
    network = build_network(run, **{k: description[k] for k in keys})
    network.load_state_dict(found.best)
    state = found.record
    record = {
        "identity": key,
        "best": state["best"],
        "history": state["history"],
        "seconds": state["seconds"],
        "workers": checked.experiment.cluster.most_workers,
    }
    if best.clones:
        record["clones"] = best.clones
    save_network(storage, run.name, network, record)
    grown = ", with settings that changed on the way" if best.clones else ""
    context.view.say(f"{best.name} was trained in full{grown}: its network is the student")


def _publish(context: RunContext, request: SearchRequest, ledger: Ledger, best: TrialRecord) -> None:
    from orchestrator.tuning.pictures import curves, importance, importance_bars, page, parallel_coordinates

    tracker, space = context.tracker, request.space
    scored = [record for record in ledger.trials.values() if record.history]
    shares = importance(space, scored)
    figures = {
        "parallel coordinates": parallel_coordinates(space, scored),
        "importance": importance_bars(shares),
        "curves": curves(scored),
    }
    for name, figure in figures.items():
        tracker.log_figure(tracker.run_id, f"search/{name.replace(' ', '_')}.png", figure)
    report = page(f"Search {context.checked.run_id}", space, list(ledger.trials.values()), figures)
    context.checked.storage.write(REPORT, report.encode())
    tracker.log_artifact_text(tracker.run_id, "search/search.html", report)
    records = [vars(record) for record in ledger.trials.values()]
    tracker.log_dict(tracker.run_id, "search/trials.json", {"trials": records})
    tracker.log_metrics(
        tracker.run_id, {"search/best_score": best.quality[0], "search/trials": len(records)}, 0
    )
    tracker.set_tags(
        tracker.run_id,
        {"ekd.search.space": request.space.name, "ekd.search.best": best.name, **_tags(best)},
    )


def _tags(best: TrialRecord) -> dict[str, str]:
    return {f"ekd.search.best.{key}": str(value) for key, value in best.values.items()}


def _outcome(record: TrialRecord) -> dict[str, Any]:
    return {
        "trial": record.name,
        "values": record.values,
        "score": record.quality[0],
        "nll": -record.quality[1],
        "epochs": record.epochs,
        "cost": record.cost,
    }


def _counts(ledger: Ledger) -> dict[str, int]:
    statuses = [record.status for record in ledger.trials.values()]
    return {status: statuses.count(status) for status in sorted(set(statuses))}
