"""Channel pruning: a classifier with a share of every layer's channels taken out.

Torch-Pruning (Fang et al. 2023, DepGraph, arXiv 2301.12900) finds which layers must lose the same
channel together; what goes is what has the least L2 norm over all of them. Every layer loses the
same share, so that shapes follow from architecture and share, never from the weights.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ekd_train.models.classifier import Classifier
from ekd_train.models.resnet import PadShortcut, ResNet
from ekd_train.models.wide_resnet import WideResNet


def prune_channels(classifier: Classifier, share: float, image_shape: Sequence[int]) -> Classifier:
    """A copy of `classifier` whose convolutions have `int(channels * (1 - share))` output channels each.

    The same weights give the same choice, however often and on however many workers. Image channels
    and logits stay; so does the normalisation. Runs on the CPU, and gives shapes without values for
    a classifier without values (on torch's meta device). The mode (training or evaluation) stays.

    Args:
        classifier: of this project's residual networks, or torchvision's ResNet, VGG, DenseNet or
            MobileNetV2.
        share: of each layer's channels that is taken out, in (0, 1).
        image_shape: `(channels, height, width)` of one image.

    Raises `ValueError`: the network is of another kind, or a layer would be left without a channel or cannot
    lose exactly that share (grouped convolutions).
    """
    if not 0 < share < 1:
        raise ValueError(f"pruned must be more than 0 and less than 1 to prune, got {share}")
    _check_known(classifier.network)
    _check_something_is_left(classifier.network, share)
    weightless = any(parameter.is_meta for parameter in classifier.parameters())
    pruned = copy.deepcopy(classifier)
    with torch.device("cpu"), torch.enable_grad():  # the layers' dependencies are read off the autograd graph
        if weightless:
            pruned = pruned.to_empty(device="cpu")
            for tensor in (*pruned.parameters(), *pruned.buffers()):
                tensor.data.fill_(1)
        if isinstance(pruned.network, ResNet):
            _prune_residual_stream(pruned, share, image_shape)
        _prune_layers(pruned, share, image_shape)
    pruned.train(classifier.training)
    _check_shares(classifier.network, pruned.network, share)
    return pruned.to("meta") if weightless else pruned


def kept_channels(channels: int, share: float) -> int:
    """How many of a layer's channels are left; Torch-Pruning's own rounding.

    >>> kept_channels(16, 0.375)
    10
    """
    return int(channels * (1 - share))


def _library() -> Any:
    import torch_pruning  # a second that only a pruned network is worth

    return torch_pruning


def _prune_layers(classifier: Classifier, share: float, image_shape: Sequence[int]) -> None:
    """Prune every group of layers that depend on each other, once."""
    torch_pruning = _library()
    network = classifier.network
    head = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    left_alone: list[nn.Module] = [head]
    if isinstance(network, ResNet):
        left_alone += _stream_layers(network)
    torch_pruning.pruner.BasePruner(
        classifier,
        torch.zeros(1, *image_shape),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=left_alone,
    ).step()


def _prune_residual_stream(classifier: Classifier, share: float, image_shape: Sequence[int]) -> None:
    """Prune what the blocks of a `ResNet` add to.

    Its shortcuts pass the channels of a group on to the next one, which adds new ones behind them. So
    a channel is taken out of the group that it is new in and of all that follow: group 1's channels,
    then those that are new in group 2, then in group 3. Where the earlier ones come from is cut off
    meanwhile, by a shortcut that gradients do not pass.
    """
    torch_pruning = _library()
    network = classifier.network
    assert isinstance(network, ResNet)
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    shortcuts = [module for module in network.modules() if isinstance(module, PadShortcut)]
    firsts: list[Any] = [network.stem, network.group2[0].conv2, network.group3[0].conv2]
    hooks = []
    left = [kept_channels(layer.out_channels, share) for layer in firsts]
    passed_on = 0
    for index, layer in enumerate(firsts):
        if index:
            hooks.append(shortcuts[index - 1].register_forward_pre_hook(lambda _, args: args[0].detach()))
        graph = torch_pruning.DependencyGraph().build_dependency(classifier, torch.zeros(1, *image_shape))
        everything = list(range(layer.out_channels))  # Torch-Pruning cannot weigh a part
        group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, everything)
        order = importance(group)[passed_on:].argsort(stable=True) + passed_on
        worst = order[: layer.out_channels - left[index]].tolist()
        graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, worst).prune()
        if index:
            shortcuts[index - 1].new_channels = layer.out_channels - passed_on
        passed_on = layer.out_channels
    for hook in hooks:
        hook.remove()


def _stream_layers(network: ResNet) -> list[nn.Module]:
    seconds = [m for name, m in network.named_modules() if name.endswith("conv2")]
    return [network.stem, *seconds]


def _check_known(network: nn.Module) -> None:
    classes = [kind for kind in type(network).__mro__ if kind.__module__.startswith("torchvision.models.")]
    known = ("ResNet", "WideResNet", "VGG", "DenseNet", "MobileNetV2")
    if not isinstance(network, ResNet | WideResNet) and not {kind.__name__ for kind in classes} & set(known):
        kind_here = f"{type(network).__module__}.{type(network).__name__}"
        raise ValueError(
            f"channels of {kind_here} cannot be pruned; known are "
            f"this project's and torchvision's {', '.join(known)}: choose one of these for the student, or "
            "pruned=0"
        )


def _check_something_is_left(network: nn.Module, share: float) -> None:
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and kept_channels(layer.out_channels, share) < 1:
            raise ValueError(f"pruned={share:g} leaves no channel of {name}, which has {layer.out_channels}")


def _check_shares(before: nn.Module, after: nn.Module, share: float) -> None:
    for (name, old), new in zip(before.named_modules(), after.modules(), strict=True):
        if isinstance(old, nn.Conv2d) and isinstance(new, nn.Conv2d):
            wanted = kept_channels(old.out_channels, share)
            if new.out_channels != wanted:
                raise ValueError(
                    f"pruned={share:g} cannot be taken out of {name}: {new.out_channels} of its "
                    f"{old.out_channels} channels would be left, not {wanted}, because of the groups that "
                    "convolutions divide them into; choose a share that fits, or another architecture"
                )
