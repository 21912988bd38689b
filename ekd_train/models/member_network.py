"""Networks whose members share all but what their layers hold for each of them."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from ekd_train.models.member_layers import CONVOLUTIONS, ActiveMembers, MemberLayer, not_understood
from ekd_train.models.replacement import replace_modules
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.models.synchronised_batch_norm import from_synchronised_batch_norm
from ekd_train.models.unfused_attention import unfused_attention

_WITH_WEIGHTS = (*CONVOLUTIONS, nn.Linear, nn.MultiheadAttention)
_REFUSED = (nn.RNNBase, nn.RNNCellBase, nn.Bilinear, MemberLayer)


class MemberNetwork(Subnetworks):
    """`num_members` members of one network, which differ in its convolutions, Linears and attentions.

    All other parameters are shared by the members: normalisations, layer scales, class tokens, position
    tables. Where batch statistics are kept, they are over all members' rows: the layers share one batch,
    into which members are folded member-major: rows `[m b, (m + 1) b)` are the m-th of the chosen members.
    All other networks are computed member by member, whatever they do with the axes of their batch.
    """

    def __init__(self, shared: nn.Module, num_members: int, active: ActiveMembers) -> None:
        super().__init__()
        self.shared = shared
        self.num_members = num_members
        self._active = active
        buffers = (name.rpartition(".")[2] for name, _ in shared.named_buffers())
        self._in_turn = not any(name.startswith("running_") for name in buffers)

    @classmethod
    def convert(
        cls,
        module: nn.Module,
        num_members: int,
        layer_for: Callable[[str, nn.Module, ActiveMembers], MemberLayer],
    ) -> Self:
        """Members of a copy of `module`, each of whose layers with weights is replaced by `layer_for` of it.

        Raises `TypeError`: a module inside has weights of a kind that is not understood; the error names it
        and its type. Raised by the first forward too, where batch statistics need all members at once and a
        layer is used otherwise than on the batch; `ValueError`: a bad `num_members`.
        """
        if num_members < 1:
            raise ValueError(f"num_members must be at least 1, got {num_members}")
        active = ActiveMembers()

        def replacement(name: str, layer: nn.Module) -> nn.Module | None:
            return layer_for(name, layer, active) if _has_weights(name, layer) else None

        network = cls(replace_modules(copy.deepcopy(module), replacement), num_members, active)
        layers = network.layers()
        uses = Counter(own for part in network.modules() for own in part._parameters.values())
        for layer in layers:
            if any(uses[own] > 1 for own in layer.layer.parameters(recurse=False)):
                raise layer.refused("another module has the same weight, which would become two")
        if not layers:
            raise TypeError("cannot make members of a network without convolutions, Linears and attention")
        return network

    def layers(self) -> list[MemberLayer]:
        """The layers in which members differ, in order."""
        return [module for module in self.modules() if isinstance(module, MemberLayer)]

    def forward(self, images: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """Logits `(s, b, c)`; see `Subnetworks.forward`."""
        chosen = self.chosen(members)
        with unfused_attention():
            if self._in_turn:
                return torch.stack([self._member(member, images) for member in chosen])
            self._active.members, self._active.images = chosen, len(images)
            tiled = images.repeat(len(chosen), *[1] * (images.dim() - 1))
            return self.shared(tiled).unflatten(0, (len(chosen), len(images)))

    def _member(self, member: int, images: Tensor) -> Tensor:
        self._active.members = (member,)
        try:
            return self.shared(images)
        finally:
            self._active.members = ()

    def present(self) -> Callable[[], AbstractContextManager[None]]:
        """What makes the members that are computed now those that are computed, later on."""
        members, images = self._active.members, self._active.images

        @contextmanager
        def again() -> Iterator[None]:
            later = self._active.members, self._active.images
            self._active.members, self._active.images = members, images
            try:
                with unfused_attention():
                    yield
            finally:
                self._active.members, self._active.images = later

        return again

    def averaged(self, weights: Tensor | None = None) -> nn.Module:
        """The plain network of the members' mean: the original class, state-dict keys and shapes.

        BatchNorm statistics are copied, and synchronised BatchNorms come out as ordinary ones.
        """
        return replace_modules(
            from_synchronised_batch_norm(self.shared),
            lambda _, layer: layer.averaged(weights) if isinstance(layer, MemberLayer) else None,
        )


def _has_weights(name: str, module: nn.Module) -> bool:
    """Whether members may differ in `module` itself, its children apart; raises `TypeError`."""
    if isinstance(module, _WITH_WEIGHTS):
        own = {key for key, parameter in module._parameters.items() if parameter is not None}
        if not own & {"weight", "in_proj_weight", "q_proj_weight"}:
            raise not_understood(name, module, "its weight is computed from other parameters")
        return True
    if isinstance(module, _REFUSED):
        raise not_understood(name, module, "its weights are of a kind that is not understood")
    return False
