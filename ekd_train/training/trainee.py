"""The network in training, and everything else that changes from step to step."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ekd_train.models.branches import Branched
from ekd_train.models.build_network import member_logits
from ekd_train.models.stages import logits_and_features
from ekd_train.models.teachers import Teachers
from ekd_train.objectives import FeatureProjections, Objective


class Trainee(nn.Module):
    """A network together with the projections that only its training needs.

    One `forward` makes all the predictions of a step, so that data-parallel training sees
    one forward for one backward.
    """

    def __init__(
        self,
        network: nn.Module,
        projections: FeatureProjections | None = None,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        """`frozen`: modules of `network` that stay in evaluation mode."""
        super().__init__()
        self.network = network
        self.projections = projections
        self._frozen = tuple(frozen)

    def train(self, mode: bool = True) -> "Trainee":
        """To training mode, but for what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(
        self,
        images: Tensor,
        clean_images: Tensor | None = None,
        teacher_features: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None, list[Tensor] | None, list[Tensor] | None]:
        """Logits on `images (b, ...)` and, if given, on `clean_images`, both `(s, b, c)`.

        With `teacher_features` also the branches' features and the teachers', made comparable.
        """
        ours: list[Tensor] | None = None
        theirs: list[Tensor] | None = None
        if teacher_features is not None and self.projections is not None:
            logits, features = cast(Branched, self.network).forward_with_features(images)
            ours, theirs = self.projections(features, teacher_features)
        else:
            logits = member_logits(self.network, images)
        clean = member_logits(self.network, clean_images) if clean_images is not None else None
        return logits, clean, ours, theirs


def build_trainee(
    network: nn.Module,
    objective: Objective,
    teachers: Teachers | None,
    images: Tensor,
    frozen: Sequence[nn.Module] = (),
) -> Trainee:
    """`network` with the feature projections that `objective` asks for; `images (b, ...)` are any."""
    if not objective.needs_features:
        return Trainee(network, frozen=frozen)
    if not isinstance(network, Branched) or teachers is None:
        raise ValueError("the feature term (distillation.ekd.feature) needs student.method=ekd and teachers")
    with torch.no_grad():
        _, ours = network.eval().forward_with_features(images)
        theirs = [logits_and_features(teacher, images)[1] for teacher in teachers]
    projections = FeatureProjections([f.shape[1] for f in ours], [f.shape[1] for f in theirs])
    return Trainee(network, projections.to(images.device))
