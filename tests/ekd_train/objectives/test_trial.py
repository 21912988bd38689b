"""What an objective of one's own gives is looked at before teachers are trained for it."""

import pytest
import torch

from ekd_train.objectives import Objective
from ekd_train.objectives.trial import try_objective


def giving(make, teachers=True, features=False):
    class Own(Objective):
        needs_teachers, needs_features = teachers, features

        def __call__(self, predictions):
            return make(predictions)

    return Own()


def squared(predictions):
    return (predictions.student - predictions.teachers).square()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (giving(lambda given: {"loss": squared(given)}), r"'loss' of shape \(3, 4, 5\), not a scalar"),
        (giving(lambda given: squared(given).mean()), "a dictionary with the tensor 'loss', not Tensor"),
        (giving(lambda given: {"kd": squared(given).mean()}), "the tensor 'loss', not dict"),
        (
            giving(lambda given: {"loss": squared(given).mean().detach()}),
            "without a gradient: is it detached",
        ),
        (giving(lambda given: {"loss": squared(given).mean() * torch.nan}), "'loss' = nan for ordinary"),
        (
            giving(lambda given: {"loss": squared(given).mean()}, teachers=False),
            "needs_teachers = True: Type",
        ),
        (
            giving(lambda given: {"loss": given.student[7].mean()}),
            r"student \(3, 4, 5\), teachers .*IndexError",
        ),
        (giving(lambda given: {"loss": squared(given).mean(), "part": 1.0}), "'part' of shape float"),
    ],
)
def test_what_is_no_loss_is_named(own, said):
    with pytest.raises(ValueError, match=said):
        try_objective(own, members=3, teachers=3, classes=5)


def test_a_loss_passes_and_one_of_features_is_left_to_the_training():
    try_objective(giving(lambda given: {"loss": squared(given).mean()}), members=3, teachers=3, classes=5)
    try_objective(giving(lambda given: None, features=True), members=3, teachers=3, classes=5)
