"""A trial's own process: what it takes from the storage when it goes on."""

from __future__ import annotations

import pickle
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint, Trainable

from orchestrator.experiment.schema import load_experiment
from orchestrator.tuning.trial import POINTER, Trial


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_a_pickle_that_somebody_put_into_a_checkpoint_is_not_loaded(tmp_path: Path) -> None:
    folder, trace = tmp_path / "checkpoint", tmp_path / "trace"
    folder.mkdir()
    (folder / POINTER).write_text("3")
    (folder / "_dict_checkpoint.pkl").write_bytes(pickle.dumps({"planted": Planted(trace)}))
    trial = Trial.__new__(Trial)
    trial.told = deque({"epoch": float(epoch)} for epoch in (2, 3, 4))
    paused = _TrainingResult(Checkpoint.from_directory(str(folder)), {"training_iteration": 3})
    trial.restore(paused)
    assert not trace.exists()
    assert (trial.epoch, trial.iteration, list(trial.told)) == (3, 3, [{"epoch": 4.0}])
    with pytest.raises(TypeError):  # a dict is no folder
        Trainable.restore(trial, paused)
    assert trace.exists()  # what Tune does by itself


PLAIN = ("perturbation.kind=none", "data.augmentation={crop_padding: 0, flip: false}")


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        (PLAIN, True),
        (PLAIN[1:], False),  # perturbed
        (PLAIN[:1], False),  # augmented
        ((*PLAIN, "student.method=ekd", "distillation.ekd.feature=0.1"), False),
    ],
)
def test_trials_share_their_teachers_predictions_where_images_stay_as_they_are(
    changes: tuple[str, ...], shared: bool
) -> None:
    run = load_experiment("digits", changes).student_run()
    assert run.sharing_predictions().training.speed.cache_teachers is shared
    assert load_experiment("digits", changes).control_run().sharing_predictions().teachers == ()
