"""The order of work of `ekd run` and `ekd tune`: the only place that says what comes after what.

`orchestrator.pipeline.pipeline` walks this table. A training run is queued as soon as its settings
are known and the networks that it learns or starts from are there, in the order of the table; so
the control trains beside the last teachers. A stage begins when the training runs of all stages
that it needs are there: those of an earlier start are found whole, or trained again.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ekd_train.settings import TrainingRun
from orchestrator.experiment.controls import further_controls
from orchestrator.experiment.schema import Experiment


def _teachers(experiment: Experiment) -> tuple[TrainingRun, ...]:
    unpruned = experiment.unpruned_run()
    return experiment.teacher_runs() + ((unpruned,) if unpruned is not None else ())


def _control(experiment: Experiment) -> tuple[TrainingRun, ...]:
    return (experiment.control_run(), *further_controls(experiment.student_run(), experiment.evaluation))


def _student(experiment: Experiment) -> tuple[TrainingRun, ...]:
    return (experiment.student_run(),)


@dataclass(frozen=True)
class Stage:
    """One step of a run. Its name is its key in the manifest."""

    name: str
    makes: str = ""
    """What it leaves, below the run's storage where it is a path."""
    needs: tuple[str, ...] = ()
    """Stages whose training runs must be there before it begins."""
    trains: Callable[[Experiment], tuple[TrainingRun, ...]] = lambda experiment: ()
    """The training runs that it waits for."""


SEARCH = "search"
"""The one stage that only a run with a search has. It decides the settings of what is trained after it."""

ORDER = (
    Stage("prepare", "the run's settings, code and data in MLflow"),
    Stage("teachers", "networks/teacher-N, networks/unpruned", trains=_teachers),
    Stage(SEARCH, "search.json, trials/*: the settings of the best trial", needs=("teachers",)),
    Stage("control", "networks/control, networks/control-NAME", needs=("teachers",), trains=_control),
    Stage("distil", "networks/student", needs=("teachers",), trains=_student),
    Stage("average", "networks/averaged", needs=("distil",)),
    Stage("evaluate", "evaluation/predictions", needs=("teachers", "control", "distil")),
    Stage("register", "a version of the averaged student in the model registry"),
    Stage("report", "summary.json, report.html"),
)


def stages_of(*, searched: bool) -> tuple[Stage, ...]:
    """The stages of a run, in order."""
    return tuple(stage for stage in ORDER if searched or stage.name != SEARCH)


def training_runs(experiment: Experiment) -> tuple[TrainingRun, ...]:
    """Every training run of an experiment, in the order of their stages."""
    return tuple(run for stage in ORDER for run in stage.trains(experiment))
