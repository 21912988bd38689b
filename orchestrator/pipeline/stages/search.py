"""Search: from trained teachers to the best configuration."""

from functools import partial

from rich.table import Table

from ekd_train.workers.trial_runner import network_arrays
from orchestrator.pipeline.manifest_content import Searched, TrialOutcome
from orchestrator.pipeline.progress import View
from orchestrator.pipeline.run_context import RunContext, RunFailed
from orchestrator.pipeline.shared_data import share
from orchestrator.runtime.event import Done
from orchestrator.tuning.callback import SearchCallback
from orchestrator.tuning.capacity import trials_at_once
from orchestrator.tuning.cost import Forecast
from orchestrator.tuning.pool import baseline_values
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.schedulers import stopping
from orchestrator.tuning.search import Search, run_search
from orchestrator.tuning.search_budget import SearchBudget
from orchestrator.tuning.searchers import build_searcher
from orchestrator.tuning.table import LEGEND, short_values, spare_columns, standing, trials_table
from orchestrator.tuning.trial_executor import TrialSetup, open_executor
from orchestrator.tuning.trial_store import TrialRecord, TrialStore, best_trial, pareto_set, trial_name
from orchestrator.tuning.trial_watch import TrialWatch


def search(context: RunContext) -> Searched:
    """Run the trials that have not ended; the best of all. Raises `RunFailed` if none has a result."""
    assert context.request is not None
    storage, request = context.checked.storage, context.request
    budget, trials = SearchBudget(storage, request), TrialStore(storage)
    if budget.left() != 0.0 and not _all_ended(trials, request):
        _run_trials(context, request, trials, budget)
    context.stop_if_taken_over()
    for number in range(request.trials):  # of a small grid, or of too short a time, some were never begun
        context.view.show(Done(run=trial_name(number), record={}))
    budget.save()
    best = best_trial(trials.trials)
    if best is None:
        reasons = [r.error for r in trials.trials.values() if r.error]
        failed = RunFailed(
            f"no trial has a result: {reasons[0] if reasons else 'out of time'}; search otherwise"
        )
        failed.continues = False  # trials that have ended are not run again
        raise failed
    context.view.say(
        f"best: {best.name}, validation accuracy {100 * best.quality[0]:.2f} %, {short_values(best.values)}"
    )
    for record in trials.trials.values():
        trials.forget_checkpoints(record)
    context.stop_if_taken_over()
    whole = [record for record in trials.trials.values() if record.status == "completed"]
    return Searched(
        best=_outcome(best),
        baseline=next((_outcome(r) for r in whole if r.baseline), None),
        baseline_ended=trials.trials[0].status if 0 in trials.trials else "waiting",
        pareto=tuple(_outcome(record) for record in pareto_set(trials.trials)),
        trials=_counts(trials),
        seconds=round(budget.seconds, 3),
    )


def _run_trials(
    context: RunContext, request: SearchRequest, trials: TrialStore, budget: SearchBudget
) -> None:
    checked = context.checked
    pool, networks = checked.experiment, context.networks
    context.wait_for_queued()
    context.end_workers()
    capacity = context.ray()
    at_once = trials_at_once(pool.cluster, capacity, request)
    teachers = {run.name: networks.load(run) for run in pool.teacher_runs()}
    images = checked.dataset.without_test_images()
    data = share(images, checked.storage, capacity, context.view, network_arrays(teachers))
    baseline = baseline_values(pool, request.space.domains, request.baseline)
    searcher = build_searcher(request, pool.seed, baseline)
    forecast = Forecast(pool, request, checked.description, networks)
    if doubt := stopping(request, pool).doubt(request.searcher):
        context.view.warn(doubt)
    watch = TrialWatch(pool.cluster.liveness)
    callback = SearchCallback(
        trials,
        searcher,
        context.tracker,
        context.view,
        request.trials,
        at_once,
        before_event=context.go_on,
        after_trial=budget.save,
        expected=lambda record: forecast.trial(record.number, record.values),
        until=lambda record: forecast.until(record, trials.trials.values()),
        while_idle=context.work_beside,
        watch=watch,
    )
    context.view.at_once = at_once
    setup = TrialSetup(
        networks,
        pool.resolved(),
        request.seeds,
        data,
        open_executor,
        watch.reporter(),
        where=capacity.where,
    )
    context.view.panel = partial(_panel, trials, request.trials, context.view)
    context.view.say(
        f"{request.trials} trials, {at_once} at a time: {standing(trials.trials, request.trials)}"
        f"; Ray: {capacity.describe()}{capacity.unused_gpus(pool.cluster)}"
    )
    if context.view.disable:  # a terminal has the table of trials
        context.view.say("starting trial processes ...")
    try:
        run_search(Search(request, pool, trials, searcher, setup), callback, at_once, budget.left())
        context.stop_if_taken_over()
        callback.out_of_time()
    finally:
        context.view.panel = None
        context.trials_are_over()
        watch.close()
        if not context.taken_over:
            budget.save()
    context.tracker.flush()


def _panel(trials: TrialStore, total: int, view: View) -> Table:
    table = trials_table(trials.trials, view=view)
    view.to.fit(table, spare_columns(trials.trials))
    table.title, table.title_justify, table.title_style = standing(trials.trials, total), "left", "none"
    table.caption, table.caption_justify = LEGEND, "left"
    return table


def _all_ended(trials: TrialStore, request: SearchRequest) -> bool:
    return sum(record.ended for record in trials.trials.values()) >= request.trials


def _outcome(record: TrialRecord) -> TrialOutcome:
    return TrialOutcome(
        trial=record.name,
        values=record.values,
        score=record.quality[0],
        nll=-record.quality[1],
        epochs=record.epochs,
        cost=record.full_cost,
    )


def _counts(trials: TrialStore) -> dict[str, int]:
    statuses = [record.status for record in trials.trials.values()]
    return {status: statuses.count(status) for status in sorted(set(statuses))}
