"""Parallel branches on shared early stages (EKD, Asif et al. 2019, arXiv 1909.08097)."""

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ekd_train.models.member_layers import rows
from ekd_train.models.residual_parts import he_normal_
from ekd_train.models.stages import stages
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.synchronised_batch_norm import from_synchronised_batch_norm

BranchInit = Literal["copies", "independent"]


class Branched(Subnetworks):
    """A network whose stages after `split` exist `num_members` times; made by `to_branches`.

    `first` is a whole plain network: the shared trunk and branch 0. `others[n - 1]` is branch n:
    its own stages after the split, in the order and with the parameter names of branch 0's.
    """

    def __init__(self, first: nn.Module, others: Sequence[nn.Module], split: str) -> None:
        super().__init__()
        self.first = first
        self.others = nn.ModuleList(others)
        self.split = split
        self.num_members = 1 + len(others)

    def forward(self, images: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """Logits `(s, b, c)`; see `Subnetworks.forward`. The trunk is computed once."""
        return self.forward_with_features(images, members)[0]

    def forward_with_features(
        self, images: Tensor, members: Sequence[int] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits `(s, b, c)`, and of each chosen branch its last feature map `(b, channel, h, w)`.

        The feature map is the input of the branch's `head` stage, before pooling.
        """
        chosen = self.chosen(members)
        trunk, first_tail = trunk_and_tail(self.first, self.split)
        tails = [first_tail, *self.others]
        shared = trunk(images)
        features = [tails[branch][:-1](shared) for branch in chosen]
        logits = [tails[branch][-1](feature) for branch, feature in zip(chosen, features, strict=True)]
        return torch.stack(logits), features

    def averaged(self, weights: Tensor | None = None) -> nn.Module:
        """The plain network of the trunk and the mean of the branches, with the original class and keys.

        Weights and running statistics are means over the branches. Branches that did not start as
        copies have no common basin, so their average is a network in name only. BatchNorms come out as
        ordinary ones. This module is left alone.
        """
        averaged = from_synchronised_batch_norm(self.first)
        _, tail = trunk_and_tail(averaged, self.split)
        other_states = [branch.state_dict() for branch in self.others]
        for name, tensor in tail.state_dict().items():
            if tensor.is_floating_point():  # the rest counts batches, which is the same everywhere
                together = torch.stack([tensor, *(state[name] for state in other_states)])
                tensor.copy_(rows(together, weights)[0])
        return averaged


def to_branches(
    module: nn.Module,
    num_branches: int,
    split: str | None = None,
    init: BranchInit = "copies",
    generator: torch.Generator | None = None,
) -> Branched:
    """`num_branches` parallel branches that part after the stage `split` of `module`.

    `module` is copied and left alone. With equal branches (`copies`) every branch computes what
    `module` computes.

    Args:
        module: a network that `ekd_train.models.stages.stages` knows.
        num_branches: at least 1.
        split: name of the last shared stage; None: half of the stages before the head are shared.
        init: `copies`: branches start equal, so that their average means something;
            `independent`: convolutions and Linears of the branches after the first are redrawn
            (He-normal) and their normalisations reset.
        generator: for `independent`; None: torch's global one.

    Raises `TypeError`: the stages of `module` are not known; `ValueError`: a bad `num_branches` or `init`, or
    a `split` that is no stage before the head.

    >>> from ekd_train.models import build_model
    >>> network = build_model("resnet", num_classes=10, in_channels=1, image_size=8, depth=8, stem_channels=4)
    >>> to_branches(network, 3)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([3, 2, 10])
    """
    if num_branches < 1:
        raise ValueError(f"num_branches must be at least 1, got {num_branches}")
    if init not in get_args(BranchInit):
        raise ValueError(f"init must be one of {', '.join(get_args(BranchInit))}, got {init!r}")
    first = copy.deepcopy(module)
    try:
        *names, _ = stages(first)
    except TypeError as error:
        raise TypeError(f"{error}; methods latent_be and lora make members of it without stages") from None
    split = names[(len(names) - 1) // 2] if split is None else split
    if split not in names:
        raise ValueError(f"split must be one of {', '.join(names)}, got {split!r}")
    _, tail = trunk_and_tail(first, split)
    others = [copy.deepcopy(tail) for _ in range(num_branches - 1)]
    if init == "independent":
        for branch in others:
            _redraw(branch, generator)
    return Branched(first, others, split)


def trunk_and_tail(module: nn.Module, split: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The stages up to and including `split`, and those after it; they hold `module`'s own layers."""
    row = stages(module)
    names, parts = list(row), list(row.values())
    cut = names.index(split) + 1
    return nn.Sequential(*parts[:cut]), nn.Sequential(*parts[cut:])


@torch.no_grad()
def _redraw(branch: nn.Module, generator: torch.Generator | None) -> None:
    he_normal_(branch, generator)
    for layer in branch.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm):
            layer.reset_parameters()  # constants: no random numbers are drawn
