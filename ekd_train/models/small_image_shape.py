"""Depth and width rules of the residual networks for small images."""


def blocks_per_group(name: str, depth: int, extra_layers: int) -> int:
    """Blocks in each of three groups, from `depth = 6 n + extra_layers`.

    Raises `ValueError` that names the rule and the nearest valid depth.

    >>> blocks_per_group("wide_resnet", 28, extra_layers=4)
    4
    """
    blocks = max(1, round((depth - extra_layers) / 6))
    nearest = 6 * blocks + extra_layers
    if depth != nearest:
        raise ValueError(
            f"{name}: depth must be 6n+{extra_layers} with n >= 1, got {depth}; the nearest is {nearest}"
        )
    return blocks


def group_channels(stem_channels: int, width: float) -> tuple[int, int, int]:
    """Channels of the three groups: `stem_channels * width`, rounded, then doubled twice.

    >>> group_channels(16, 4)
    (64, 128, 256)
    """
    first = round(stem_channels * width)
    if first < 1:
        raise ValueError(f"width {width} leaves no channel of the {stem_channels} of the stem")
    return first, 2 * first, 4 * first
