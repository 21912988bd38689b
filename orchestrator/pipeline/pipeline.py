"""One run from beginning to end: the stages of `orchestrator.pipeline.order`, one after the other."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ekd_train.settings import TrainingRun
from orchestrator.errors import EkdError, continuable
from orchestrator.experiment.redaction import one_line
from orchestrator.pipeline.estimate import Training
from orchestrator.pipeline.lease import Lease
from orchestrator.pipeline.manifest import STATES, Manifest
from orchestrator.pipeline.order import SEARCH, Stage, stages_of
from orchestrator.pipeline.progress import View
from orchestrator.pipeline.run_context import RunContext, RunFailed
from orchestrator.pipeline.stages.average import average
from orchestrator.pipeline.stages.evaluate import evaluate
from orchestrator.pipeline.stages.prepare import prepare
from orchestrator.pipeline.stages.register import register, register_command
from orchestrator.pipeline.stages.report import report
from orchestrator.pipeline.stages.train import train
from orchestrator.planning.doubts import doubts
from orchestrator.planning.effort import efforts
from orchestrator.planning.preflight import Checked
from orchestrator.registry.provenance import code_version
from orchestrator.runtime.ray_logging import divert_logging
from orchestrator.storage.atomic_files import folder_below
from orchestrator.storage.local import explained
from orchestrator.storage.vendor_settings import environment
from orchestrator.tracking import RunStatus, Tracker
from orchestrator.tuning.cost import Forecast
from orchestrator.tuning.pool import same_in_all_trials, trial_experiment
from orchestrator.tuning.request import SearchRequest
from orchestrator.tuning.trial_store import TrialStore

log = logging.getLogger(__name__)

Work = Callable[[RunContext], Any]
"""Does a stage; what it made, as `manifest_content.OUTPUTS` says."""


def _search(context: RunContext) -> Any:
    # Ray Tune and Optuna take seconds to import, and only this stage needs them.
    from orchestrator.pipeline.stages.search import search

    return search(context)


WORK: dict[str, Work] = {
    "prepare": prepare,
    "search": _search,
    "average": average,
    "evaluate": evaluate,
    "register": register,
    "report": report,
}
"""What the stages of `orchestrator.pipeline.order` do; those that are not here only train."""


def run(
    checked: Checked,
    request: SearchRequest | None = None,
    *,
    stages: Sequence[Stage] | None = None,
    work: Mapping[str, Work] = WORK,
    again: Collection[str] = (),
) -> Manifest:
    """Do every stage that is not done yet; the manifest of the finished run.

    Args:
        checked: what to run, and where; with a search, the experiment with the pool of teachers.
        request: what to search before the student is trained; None: nothing.
        stages: default: those of `orchestrator.pipeline.order`.
        work: what they do.
        again: names of stages to do even if they are done.

    Raises `LeaseHeld` where another driver has the run, and other `EkdError`s; what was done by then is
    kept, and the same call continues.
    """
    if stages is None:
        stages = stages_of(searched=request is not None)
    os.environ.update(environment(checked.experiment.storage.endpoint_url))
    folder = open_log(checked)
    view = View([stage.name for stage in stages], checked.run_id)
    view.say(f"run {checked.run_id}; log, with Ray's and libraries' messages: {folder / 'logs' / 'ray.log'}")
    lease = Lease(checked.storage)
    try:
        with lease.acquire(view.say), continuable():
            checked = replace(checked, storage=lease.fenced)
            experiment = checked.experiment
            fingerprint = checked.description.fingerprint
            manifest = Manifest.open(checked.storage, experiment, checked.run_id, fingerprint, code_version())
            finished = manifest.content.status == STATES["FINISHED"]
            if finished and not again and all(manifest.done(stage.name) for stage in stages):
                view.say(f"run {checked.run_id} is complete; nothing to do")
                return manifest
            context = RunContext(checked, manifest, view, folder, lease, request)
            found = (*checked.dataset.findings, *checked.given.warnings)
            searched = request.space.domains if request is not None else ()
            for doubt in doubts(checked.experiment, found, checked.description.train, searched):
                view.warn(doubt)
            if manifest.done(SEARCH):
                _adopt_best(context)
            with _terminated_is_interrupted():
                _run_stages(context, stages, work, again)
            return manifest
    finally:
        view.stop()


def open_log(checked: Checked) -> Path:
    """Send what libraries say to the log of the run, through no link; the folder of its files here."""
    folder = checked.storage.local_folder or Path("ekd-runs").absolute() / checked.run_id
    with explained(str(folder)), folder_below(folder.parent, (folder.name, "logs"), make=True):
        divert_logging(folder / "logs" / "ray.log")
    return folder


def _run_stages(
    context: RunContext, stages: Sequence[Stage], work: Mapping[str, Work], again: Collection[str]
) -> None:
    manifest = context.manifest
    manifest.set(status="running")
    status: RunStatus = "FAILED"
    try:
        _open_tracker(context)
        context.networks.keep_pretrained(context.checked.given.weights)
        _plan_training(context, stages)
        for stage in stages:
            if manifest.done(stage.name) and stage.name not in again:
                context.view.end(stage.name, None)
                continue
            context.stop_if_taken_over()
            context.view.begin(stage.name)
            began = time.perf_counter()
            outputs = _do(context, stage, stages, work)
            manifest.finish(stage.name, time.perf_counter() - began, outputs)
            context.view.end(stage.name, time.perf_counter() - began)
            if stage.name == SEARCH:
                _adopt_best(context)
                _plan_training(context, stages)
        context.show_in_mlflow()
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except EkdError:
        log.exception("the run failed")
        raise
    except Exception as error:
        log.exception("the run failed, and nobody expected how")
        raise RunFailed(
            f"{context.view.stage or 'start'}: {type(error).__name__}: {one_line(error)}; "
            f"the traceback is in {context.log_file}"
        ) from error
    finally:
        _end(context, status)


def _adopt_best(context: RunContext) -> None:
    """After a search the run is about the best trial's experiment."""
    values = context.manifest.content.searched.best.values
    best = trial_experiment(context.checked.experiment, values)
    context.checked = replace(context.checked, experiment=best)
    context.manifest.set(result_hash=best.result_hash())


def _plan_training(context: RunContext, stages: Sequence[Stage]) -> None:
    """Show the training runs whose settings are known, and have those of stages that are left queued.

    Before a search those are the runs that are the same in all trials; what it does not need waits for the
    workers that its last trials leave idle.
    """
    manifest, request, experiment = context.manifest, context.request, context.checked.experiment
    searching = request is not None and not manifest.done(SEARCH)
    effort = efforts(experiment, context.checked.description)
    planned: list[TrainingRun] = []
    for stage in stages:
        if request is not None and searching and stage.name == SEARCH:
            context.plan(planned)
            planned = context.beside = []
            forecast = Forecast(experiment, request, context.checked.description, context.networks)
            for trial in forecast.trials(TrialStore(context.checked.storage).trials):
                context.view.expect(trial, bar=False)
        runs = stage.trains(experiment)
        if request is not None and searching:
            runs = tuple(run for run in runs if same_in_all_trials(run, request.space.domains))
        for run in runs:
            if run.name not in context.view.runs:
                needs = tuple(other.name for other in run.needs)
                context.view.expect(Training(run.name, run.epochs, effort[run.name], needs))
        if not manifest.done(stage.name):
            planned += context.lacking(runs) if searching else runs
    if not searching:
        context.plan(planned)


def _do(
    context: RunContext, stage: Stage, stages: Sequence[Stage], work: Mapping[str, Work]
) -> dict[str, Any]:
    """What one stage makes, once the training runs that it needs are there."""
    experiment = context.checked.experiment
    context.wait([run for s in stages if s.name in stage.needs for run in s.trains(experiment)])
    return work[stage.name](context) if stage.name in work else train(context, stage.trains(experiment))


def _end(context: RunContext, status: RunStatus) -> None:
    """Leave a truthful state behind; what goes wrong here does not hide why the run ended."""
    if not context.taken_over:
        with _warning(context):
            context.manifest.set(status=STATES[status])
        with _warning(context):
            if context.tracker_ is not None and not context.tracker_.close(status):
                command = register_command(context.checked) if status == "FINISHED" else "the same command"
                context.view.warn(f"MLflow lacks some of this run, which is stored: `{command}` writes it")
    with _warning(context):
        context.close(failed=status != "FINISHED")


@contextmanager
def _warning(context: RunContext) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.exception("at the end of the run")
        context.view.warn(one_line(error))


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM, which schedulers and containers send first, and SIGHUP, which a closed terminal sends, end
    a run as Ctrl-C does; what is ignored, as SIGHUP under `nohup`, stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _open_tracker(context: RunContext) -> None:
    checked, manifest = context.checked, context.manifest
    assert context.lease is not None
    context.tracker_ = Tracker.open(
        checked.tracking_uri,
        checked.experiment.name,
        checked.run_id,
        instance=str(manifest.content.created),
        storage_uri=checked.experiment.storage.uri,
        confirm=context.lease.confirm,
        warn=context.view.warn,
    )
    manifest.note_mlflow_run("parent", context.tracker_.run_id)
