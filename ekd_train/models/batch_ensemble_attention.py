"""torch's attention with factors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ekd_train.models.batch_ensemble_layers import (
    ActiveMembers,
    BatchEnsembleLayer,
    BatchEnsembleLinear,
    scaled,
)


class BatchEnsembleAttention(BatchEnsembleLayer):
    """`nn.MultiheadAttention`, whose queries, keys and values are three linear layers, mostly packed in one.

    r `(s, embed_dim + kdim + vdim)` and s `(s, 3 embed_dim)` hold the factors of the three one after the
    other. The output projection is a `BatchEnsembleLinear` within.
    """

    def __init__(self, layer: nn.Module, name: str, num_members: int, active: ActiveMembers) -> None:
        assert isinstance(layer, nn.MultiheadAttention)
        sizes = sum((layer.embed_dim, layer.kdim, layer.vdim)), 3 * layer.embed_dim
        super().__init__(layer, name, sizes, num_members, active)
        layer._modules["out_proj"] = BatchEnsembleLinear(
            layer.out_proj, f"{name}.out_proj", num_members, active
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention`'s, of the active members' rows one member after the other."""
        batch_axis = 0 if self.layer.batch_first else 1
        members = self._checked(query.shape[batch_axis])

        def split(x: Tensor | None, axis: int = 0) -> Sequence[Any]:
            return [x] * len(members) if x is None or len(members) == 1 else x.chunk(len(members), axis)

        masks = (
            split(attn_mask) if attn_mask is not None and attn_mask.dim() == 3 else [attn_mask] * len(members)
        )
        inputs = zip(
            *(split(x, batch_axis) for x in (query, key, value)), split(key_padding_mask), masks, strict=True
        )
        attended, weights = [], []
        try:
            for member, own, (q, k, v, padding, mask) in zip(
                members, self._of_members(members), inputs, strict=True
            ):
                self._active.members = (member,)  # whose output projection is read
                further = options | {
                    "key_padding_mask": padding,
                    "need_weights": need_weights,
                    "attn_mask": mask,
                }
                output, weight = functional_call(self.layer, own, (q, k, v), further)
                attended.append(output)
                weights.append(weight)
        finally:
            self._active.members = members
        return torch.cat(attended, batch_axis), torch.cat(weights) if need_weights else None

    def averaged(self) -> nn.Module:
        """The stock attention, with its weights packed as they were."""
        self.layer._modules["out_proj"] = self.layer.out_proj.averaged()
        return super().averaged()

    def _values(self, r: Tensor, s: Tensor, added: Tensor | None) -> dict[str, Tensor]:
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        packed = self.layer.in_proj_weight
        weights = [getattr(self.layer, name) for name in names] if packed is None else packed.chunk(3)
        three = r.split([weight.shape[1] for weight in weights], 1), s.chunk(3, 1)
        own = [scaled(weight, r, s) for weight, r, s in zip(weights, *three, strict=True)]
        values = (
            dict(zip(names, own, strict=True)) if packed is None else {"in_proj_weight": torch.cat(own, 1)}
        )
        if self.layer.in_proj_bias is not None:
            values["in_proj_bias"] = s * self.layer.in_proj_bias
        return values
