"""Members of a BatchEnsemble by definition: plain networks whose weights are multiplied row by row."""

import copy
from collections import defaultdict

import torch
from torch import Tensor, nn

from ekd_train.models.batch_ensemble import BatchEnsemble, factors


def with_scaled_weights(plain: nn.Module, ensemble: BatchEnsemble, member: int | None) -> nn.Module:
    """`plain` with every weight `w[o, i]` multiplied by `s[o] r[i]`, and every bias by s.

    The factors are those of a member, or for None their means over the members.
    """
    scaled = copy.deepcopy(plain)
    by_layer: dict[str, list[Tensor]] = defaultdict(list)
    for name, factor in factors(ensemble):
        layer_name = name.rpartition(".")[0].removeprefix("shared.").replace(".layer.out_proj", ".out_proj")
        by_layer[layer_name].append(factor.detach().mean(0) if member is None else factor.detach()[member])
    for name, (r, s) in by_layer.items():
        layer = scaled.get_submodule(name)
        if isinstance(layer, nn.MultiheadAttention):
            _scale_attention(layer, r, s)
            continue
        (_scale_transposed if getattr(layer, "transposed", False) else _scale)(layer, r, s)
        if layer.bias is not None:
            layer.bias.data *= s
    return scaled


def _scale(layer: nn.Module, r: Tensor, s: Tensor) -> None:
    """Of weights `(out, in / groups, ...)`: output o reads the inputs of its own group."""
    groups, kernel = getattr(layer, "groups", 1), [1] * (layer.weight.dim() - 2)
    for weight, rows, columns in zip(
        layer.weight.data.chunk(groups), s.chunk(groups), r.chunk(groups), strict=True
    ):
        weight *= torch.outer(rows, columns).view(len(rows), len(columns), *kernel)


def _scale_transposed(layer: nn.Module, r: Tensor, s: Tensor) -> None:
    """Of weights `(in, out / groups, ...)`: input i writes the outputs of its own group."""
    _scale(layer, r=s, s=r)


def _scale_attention(layer: nn.MultiheadAttention, r: Tensor, s: Tensor) -> None:
    """Of weights for queries, keys and values, packed or apart."""
    packed = layer.in_proj_weight
    apart = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    weights = apart if packed is None else packed.data.split(layer.embed_dim)
    columns = r.split([layer.embed_dim, layer.kdim, layer.vdim])
    for weight, row, column in zip(weights, s.split(layer.embed_dim), columns, strict=True):
        weight.data *= torch.outer(row, column)
    layer.in_proj_bias.data *= s
