import pytest
import torch

from ekd_train.data.augment import AugmentationDraw, as_float, augment, draw_augmentation
from ekd_train.settings import Augmentation


def images_of(batch, channels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


def one_by_one(images, draw):
    """The oracle: pad, cut and mirror each image with plain slices."""
    _, channels, height, width = images.shape
    p = draw.padding
    out = []
    for image, top, left, flipped in zip(images, draw.top, draw.left, draw.flipped, strict=True):
        canvas = torch.zeros(channels, height + 2 * p, width + 2 * p, dtype=torch.uint8)
        canvas[:, p : p + height, p : p + width] = image
        crop = canvas[:, top : top + height, left : left + width]
        out.append((torch.flip(crop, [2]) if flipped else crop) / 255)
    return torch.stack(out)


@pytest.mark.parametrize("shape", [(32, 3, 32, 32), (17, 1, 28, 28), (9, 1, 8, 8), (5, 3, 6, 10)])
@pytest.mark.parametrize(
    "settings", [{"crop_padding": 4, "flip": True}, {"crop_padding": 1}, {"flip": True}, {}]
)
def test_augmenting_a_batch_equals_augmenting_its_images_one_by_one(shape, settings):
    images = images_of(*shape)
    draw = draw_augmentation(torch.Generator().manual_seed(1), shape[0], Augmentation(**settings))
    assert torch.equal(augment(images, draw), one_by_one(images, draw))


def test_the_result_is_contiguous_float32_between_0_and_1():
    images = images_of(8, 3, 12, 12)
    result = augment(images, draw_augmentation(torch.Generator(), 8, Augmentation(crop_padding=2, flip=True)))
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert result.min() >= 0
    assert result.max() <= 1


def test_images_in_channels_last_memory_are_augmented_alike():
    images = images_of(8, 3, 12, 12)
    draw = draw_augmentation(torch.Generator(), 8, Augmentation(crop_padding=2, flip=True))
    assert torch.equal(augment(images.to(memory_format=torch.channels_last), draw), augment(images, draw))


def test_workers_shares_are_the_global_batch_in_pieces():
    images = images_of(10, 3, 8, 8)
    draw = draw_augmentation(torch.Generator().manual_seed(3), 10, Augmentation(crop_padding=2, flip=True))
    whole = augment(images, draw)
    pieces = [augment(images[a:b], draw.rows(a, b)) for a, b in [(0, 3), (3, 6), (6, 10)]]
    assert torch.equal(torch.cat(pieces), whole)


def test_the_same_seed_draws_the_same_and_another_draws_differently():
    settings = Augmentation(crop_padding=4, flip=True)
    first, second, other = (
        draw_augmentation(torch.Generator().manual_seed(seed), 64, settings) for seed in (5, 5, 6)
    )
    assert torch.equal(first.top, second.top)
    assert torch.equal(first.left, second.left)
    assert torch.equal(first.flipped, second.flipped)
    assert not torch.equal(first.top, other.top)


def test_every_crop_position_is_drawn_and_half_of_the_images_are_flipped():
    draw = draw_augmentation(
        torch.Generator().manual_seed(0), 20_000, Augmentation(crop_padding=2, flip=True)
    )
    assert torch.bincount(draw.top * 5 + draw.left, minlength=25).min() > 600  # expected 800, sd 28
    assert abs(draw.flipped.float().mean().item() - 0.5) < 0.02  # sd 0.0035


def test_turning_the_flip_off_leaves_the_crops_and_later_draws_as_they_were():
    with_flip, without = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    first = draw_augmentation(with_flip, 16, Augmentation(crop_padding=4, flip=True))
    second = draw_augmentation(without, 16, Augmentation(crop_padding=4))
    assert torch.equal(first.top, second.top)
    assert not second.flipped.any()
    assert torch.equal(torch.rand(3, generator=with_flip), torch.rand(3, generator=without))


def test_a_crop_beyond_the_edge_is_black_there():
    images = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    draw = AugmentationDraw(torch.tensor([0]), torch.tensor([2]), torch.tensor([False]), padding=1)
    result = augment(images, draw)[0, 0]
    assert result[0].eq(0).all()
    assert result[:, -1].eq(0).all()
    assert result[1:, :-1].eq(1).all()


def test_evaluation_images_are_grey_levels_over_255():
    images = images_of(2, 1, 3, 3)
    result = as_float(images)
    assert result.dtype == torch.float32
    assert torch.equal(result, images.float() / 255)
