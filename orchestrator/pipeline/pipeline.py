"""The main job from beginning to end: a table of contents of its stages."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import EkdError, continuable
from orchestrator.pipeline.lease import Lease
from orchestrator.pipeline.manifest import STATES, Manifest
from orchestrator.pipeline.progress import View
from orchestrator.pipeline.run_context import RunContext, RunFailed
from orchestrator.pipeline.stages.average import average
from orchestrator.pipeline.stages.control import control
from orchestrator.pipeline.stages.distil import distil
from orchestrator.pipeline.stages.evaluate import evaluate
from orchestrator.pipeline.stages.prepare import prepare
from orchestrator.pipeline.stages.register import register
from orchestrator.pipeline.stages.report import report
from orchestrator.pipeline.stages.teachers import teachers
from orchestrator.planning.plan import doubts, training_work
from orchestrator.planning.preflight import Checked, one_line
from orchestrator.registry import code_version
from orchestrator.runtime.ray_logging import divert_logging
from orchestrator.storage.vendor_settings import environment
from orchestrator.tracking import RunStatus, Tracker

log = logging.getLogger(__name__)

Stage = Callable[[RunContext], dict[str, Any]]

STAGES: dict[str, Stage] = {
    "prepare": prepare,
    "teachers": teachers,
    "control": control,
    "distil": distil,
    "average": average,
    "evaluate": evaluate,
    "register": register,
    "report": report,
}


def run(
    checked: Checked,
    stages: Mapping[str, Stage] = STAGES,
    *,
    command: str = "ekd run",
    begin: Callable[[RunContext], None] | None = None,
) -> Manifest:
    """Run every stage that is not done yet; the manifest of the finished run.

    Args:
        checked: what to run, and where.
        stages: in their order; the first one is `prepare`.
        command: what the user called, for the view.
        begin: called before the first stage; default: show every training run of the experiment.

    Raises `LeaseHeld` where another driver has the run, and other `EkdError`s; what was done by then is
    kept, and the same call continues.
    """
    os.environ.update(environment(checked.experiment.storage.endpoint_url))
    folder = local_folder(checked)
    view = View.open(f"{command} {checked.run_id}", list(stages), str(folder / "logs" / "ray.log"))
    lease = Lease(checked.storage)
    try:
        with lease.acquire(view.say), continuable():
            experiment = checked.experiment
            fingerprint = checked.description["fingerprint"]
            manifest = Manifest.open(checked.storage, experiment, checked.run_id, fingerprint, code_version())
            if all(manifest.done(stage) for stage in stages):
                view.say(f"run {checked.run_id} is complete; nothing to do")
                return manifest
            context = RunContext(checked, manifest, view, folder, lease)
            for doubt in doubts(checked.experiment.training_runs()):
                view.warn(doubt)
            (begin or _expect_all_runs)(context)
            with _terminated_is_interrupted():
                _run_stages(context, stages)
            return manifest
    finally:
        view.close()


def _expect_all_runs(context: RunContext) -> None:
    if context.manifest.done("search"):  # `ekd register` of what `ekd tune` found
        from orchestrator.tuning.pipeline import adopt_best

        adopt_best(context)
        return
    for run in context.checked.experiment.training_runs():
        context.view.expect(run.name, run.training.epochs, training_work(run))


def local_folder(checked: Checked) -> Path:
    """Where this machine keeps logs and unsent records of the run."""
    folder = checked.storage.local_folder or Path("ekd-runs").absolute() / checked.run_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run_stages(context: RunContext, stages: Mapping[str, Stage]) -> None:
    manifest = context.manifest
    divert_logging(context.log_file)
    manifest.set(status="running")
    status: RunStatus = "FAILED"
    tracking = _TrackerOpening(context)
    try:
        for name, stage in stages.items():
            if manifest.done(name):
                context.view.end(name, None)
                continue
            context.stop_if_taken_over()
            if name == "prepare":
                # Ray and its workers take seconds to start; MLflow is opened meanwhile.
                context.submit(context.checked.experiment.first_runs())
            tracking.join()
            context.view.begin(name)
            began = time.perf_counter()
            outputs = stage(context)
            manifest.finish(name, time.perf_counter() - began, outputs)
            context.view.end(name, time.perf_counter() - began)
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
        _end(context, tracking, status)


def _end(context: RunContext, tracking: _TrackerOpening, status: RunStatus) -> None:
    """Leave a truthful state behind; what goes wrong here does not hide why the run ended."""
    tracking.wait()
    if not context.taken_over:
        with _warning(context):
            context.manifest.set(status=STATES[status])
        with _warning(context):
            if context.tracker_ is not None and (left := context.tracker_.close(status)):
                context.view.warn(left)
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


class _TrackerOpening:
    """Opens the tracker in a thread of its own, once."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._open, name="tracking", daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Wait until it is open, or until opening it has failed."""
        self.thread.join()

    def join(self) -> None:
        """Wait until it is open; raises what went wrong."""
        self.wait()
        if self.error is not None:
            raise self.error

    def _open(self) -> None:
        context = self.context
        checked, manifest = context.checked, context.manifest
        try:
            context.tracker_ = Tracker.open(
                checked.tracking_uri,
                checked.experiment.name,
                checked.run_id,
                ekd_run_id=checked.run_id,
                instance=str(manifest.content["created"]),
                spool=context.local_folder / "tracking",
                run_id=manifest.content["mlflow"].get("parent"),
                storage_uri=checked.experiment.storage.uri,
            )
            manifest.note_mlflow_run("parent", context.tracker_.run_id)
        except BaseException as error:
            self.error = error
