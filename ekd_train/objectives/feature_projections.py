"""Learned 1x1 projections from branch features to teacher features, for EKD's feature term."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeatureProjections(nn.Module):
    """One 1x1 convolution per branch, to its teacher's number of channels.

    They are trained with the student and thrown away with the teachers: give their parameters to the
    student's optimiser and checkpoint, and keep them out of the averaged student.

    Args:
        student_channels: channels of each branch's feature map.
        teacher_channels: channels of each teacher's feature map, in the same order.

    Raises `ValueError`: there are not as many branches as teachers.
    """

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().__init__()
        if len(student_channels) != len(teacher_channels):
            raise ValueError(f"{len(student_channels)} branches for {len(teacher_channels)} teachers")
        self.projections = nn.ModuleList(
            nn.Conv2d(ours, theirs, kernel_size=1)
            for ours, theirs in zip(student_channels, teacher_channels, strict=True)
        )

    def forward(
        self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Make each pair of maps comparable.

        Args:
            student_features: one `(b, ch, h, w)` per branch.
            teacher_features: one `(b, ch', h', w')` per teacher.

        Returns:
            Projected student maps and teacher maps, pairwise of shape `(b, ch', min(h, h'), min(w, w'))`:
            where sizes differ the larger map is average-pooled, so that no detail is invented.
        """
        students, teachers = [], []
        for projection, student, teacher in zip(
            self.projections, student_features, teacher_features, strict=True
        ):
            size = (min(student.shape[-2], teacher.shape[-2]), min(student.shape[-1], teacher.shape[-1]))
            # A 1x1 convolution and average pooling commute; pooling first is cheaper.
            students.append(projection(F.adaptive_avg_pool2d(student, size)))
            teachers.append(F.adaptive_avg_pool2d(teacher, size))
        return students, teachers
