"""What a recipe makes of images is what torchvision makes of each image alone."""

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from ekd_train.data.augment import as_float, augment, draw_augmentation
from ekd_train.data.boxes import CROP, crop_box, crop_boxes, rectangles
from ekd_train.data.mixing import draw_mixing, mix, smoothed
from ekd_train.data.recipe import (
    BINS,
    ERASED_SCALE,
    NAMES,
    NUMBERS,
    RAND_AUGMENT,
    TRIVIAL_AUGMENT,
    draw_numbers,
    erase,
    jitter,
    operate,
    resized_crop,
    unsharpened,
)
from ekd_train.settings import Augmentation

BATCH, SIZE = 24, 20
ALL = {
    **{"crop": "random_resized", "flip": True, "color_jitter": {"brightness": 0.4, "hue": 0.1}},
    **{"rand_augment": {"operations": 2}, "random_erasing": 0.5},
}


def photographs(batch=BATCH, channels=3, size=SIZE):
    """Uint8, smooth as photographs are."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, channels, 5, 5, generator=generator)
    return (
        (torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic") * 255)
        .clamp(0, 255)
        .byte()
    )


def numbers(batch=BATCH, seed=1):
    return draw_numbers(torch.Generator().manual_seed(seed), batch)


def test_resized_crops_are_torchvisions():
    images = as_float(photographs())
    boxes = crop_boxes(numbers()[:, CROP], SIZE, SIZE, (0.08, 1.0))
    flipped = torch.arange(BATCH) % 3 == 0
    ours = resized_crop(images, boxes, flipped)
    for image, (top, left, h, w), mirrored, found in zip(images, boxes.tolist(), flipped, ours, strict=True):
        expected = vision.resized_crop(image, top, left, h, w, [SIZE, SIZE], antialias=False)
        torch.testing.assert_close(found, expected.flip(2) if mirrored else expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (30, 20), (200, 10)])
def test_resized_crops_have_the_shares_ratios_and_places_of_torchvisions(height, width):
    boxes = crop_boxes(numbers(4000)[:, CROP], height, width, (0.25, 1.0)).double()
    torch.manual_seed(0)
    get_params = v2.RandomResizedCrop(8, scale=(0.25, 1.0)).make_params
    theirs = [get_params([torch.empty(3, height, width)]) for _ in range(2000)]
    expected = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in theirs]).double()
    torch.testing.assert_close(boxes.mean(0), expected.mean(0), rtol=0.03, atol=0.35)
    torch.testing.assert_close(boxes.std(0), expected.std(0), rtol=0.06, atol=0.3)
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()
    assert (boxes[:, :2] >= 0).all()


@pytest.mark.parametrize(
    ("ranges", "theirs"),
    [(RAND_AUGMENT, v2.RandAugment(num_ops=1)), (TRIVIAL_AUGMENT, v2.TrivialAugmentWide())],
    ids=["RandAugment", "TrivialAugment"],
)
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_torchvisions_with_the_same_magnitude(name, channels, ranges, theirs):
    images = as_float(photographs(channels=channels))
    levels = torch.arange(BATCH) % BINS
    sign = torch.where(torch.arange(BATCH) % 2 == 0, 1.0, -1.0)
    chosen = torch.full((BATCH,), NAMES.index(name))
    ours = operate(images, chosen, levels / (BINS - 1), sign, ranges)
    called = "".join(part.capitalize() for part in name.split("_"))
    called = {"Autocontrast": "AutoContrast"}.get(called, called)
    magnitudes, signed = theirs._AUGMENTATION_SPACE[called]
    table = magnitudes(BINS, SIZE, SIZE)
    wrong = []
    for image, level, direction, found in zip(images, levels, sign, ours, strict=True):
        magnitude = 0.0 if table is None else float(table[level]) * (float(direction) if signed else 1.0)
        if abs(magnitude - round(magnitude)) < 1e-4:  # 15.999999 pixels of their table
            magnitude = round(magnitude)
        expected = theirs._apply_image_or_video_transform(
            image, called, magnitude, interpolation=v2.InterpolationMode.NEAREST, fill=theirs._fill
        )
        wrong.append(float(((found - expected).abs() > 2e-3).float().mean()))
    # A point midway between pixels may be rounded to either, and a grey level at the edge of a step.
    assert max(wrong) <= 0.05
    assert sum(wrong) / len(wrong) <= 0.01


def test_jitter_is_torchvisions_in_a_fixed_order():
    images, drawn = as_float(photographs()), numbers()
    strengths = {"brightness": 0.4, "contrast": 0.3, "saturation": 0.2, "hue": 0.1}
    ours = jitter(images, drawn, Augmentation.model_validate({"color_jitter": strengths}))
    away = 2 * drawn[:, CROP.stop : CROP.stop + 4] - 1
    for image, (b, c, s, h), found in zip(images, away.tolist(), ours, strict=True):
        expected = vision.adjust_brightness(image, 1 + 0.4 * b)
        expected = vision.adjust_contrast(expected, 1 + 0.3 * c)
        expected = vision.adjust_saturation(expected, 1 + 0.2 * s)
        torch.testing.assert_close(found, vision.adjust_hue(expected, 0.1 * h), rtol=0, atol=1e-4)


def test_erased_is_a_black_rectangle_of_some_images_of_the_size_asked_for():
    images, drawn = torch.ones(2000, 1, SIZE, SIZE), numbers(2000)
    black = erase(images, drawn, 0.4)[:, 0] == 0
    shares = black.float().mean(dim=(1, 2))
    assert abs(float((shares > 0).float().mean()) - 0.4) < 0.04
    assert ERASED_SCALE[0] - 0.02 < float(shares[shares > 0].min())
    assert float(shares.max()) < ERASED_SCALE[1] + 0.03
    rows, columns = black.any(dim=2).sum(1), black.any(dim=1).sum(1)
    assert torch.equal(black.sum(dim=(1, 2)), rows * columns)


def test_a_rectangle_that_never_fits_is_not_found():
    _, found = rectangles(numbers()[:, CROP], 400, 1, (0.5, 1.0), (1.0, 1.0))
    assert not found.any()


def test_all_of_it_is_the_same_for_any_share_of_the_batch_and_changes_images():
    images = photographs()
    draw = draw_augmentation(torch.Generator().manual_seed(3), BATCH, Augmentation.model_validate(ALL))
    whole = augment(images, draw)
    pieces = [augment(images[a:b], draw.rows(a, b)) for a, b in [(0, 1), (1, 10), (10, BATCH)]]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-6)
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1
    assert (whole - as_float(images)).abs().amax(dim=(1, 2, 3)).gt(0.01).all()


def test_one_more_choice_changes_no_other():
    few = draw_augmentation(torch.Generator().manual_seed(3), 9, Augmentation(flip=True, random_erasing=0.1))
    more = draw_augmentation(torch.Generator().manual_seed(3), 9, Augmentation.model_validate(ALL))
    assert few.numbers is not None
    assert torch.equal(few.flipped, more.flipped)
    assert torch.equal(few.numbers, more.numbers)
    assert few.numbers.shape == (9, NUMBERS)


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_mixed_images_and_labels_are_mixed_alike(settings):
    batch = 400
    images = torch.eye(batch).view(batch, batch, 1, 1).expand(-1, -1, 10, 10)  # a channel for each image
    mixing = draw_mixing(torch.Generator().manual_seed(0), batch, Augmentation(**settings))
    mixed, kept = mix(images, mixing)
    amounts = mixed.mean(dim=(2, 3))
    own, other = torch.eye(batch)[mixing.own], torch.eye(batch)[mixing.other]
    torch.testing.assert_close(amounts, kept[:, None] * own + (1 - kept[:, None]) * other)
    assert torch.equal(mixing.other.sort().values, torch.arange(batch))
    pixels = mixed.amax(dim=1)
    plain = (mixing.own == mixing.other) | (pixels == 1).all(dim=(1, 2))
    assert torch.equal(plain | ~mixing.cut, plain | (pixels < 1).any(dim=(1, 2)))
    alpha = settings.get("mixup", 1.0)
    if "cutmix" not in settings:
        assert not mixing.cut.any()
        assert float(kept.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)  # of Beta(α, α)
    elif "mixup" in settings:
        assert 0.4 < float(mixing.cut.float().mean()) < 0.6
    else:
        assert mixing.cut.all()


def test_a_share_needs_its_own_images_and_their_partners_alone():
    images = as_float(photographs())
    mixing = draw_mixing(torch.Generator().manual_seed(0), BATCH, Augmentation(mixup=1, cutmix=1))
    whole, kept = mix(images, mixing)
    for start, stop in [(0, 5), (5, BATCH)]:
        needed, share = mixing.rows(start, stop)
        assert set(needed.tolist()) == {*range(start, stop), *mixing.other[start:stop].tolist()}
        mixed, kept_here = mix(images[needed], share)
        assert torch.equal(mixed, whole[start:stop])
        assert torch.equal(kept_here, kept[start:stop])


@pytest.mark.parametrize(("height", "width"), [(200, 600), (33, 40), (300, 20)])
def test_the_box_of_one_image_is_that_of_a_batch(height, width):
    drawn = numbers(500)[:, CROP]
    boxes = crop_boxes(drawn, height, width, (0.08, 1.0)).tolist()
    assert [list(crop_box(one, (0.08, 1.0), height, width)) for one in drawn.tolist()] == boxes


@pytest.mark.parametrize("shape", [(3, 3, 17, 9), (2, 1, 2, 5), (2, 3, 3, 3)])
def test_what_is_not_sharp_is_torchvisions_bit_for_bit(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unsharpened(images, 0.0), vision.adjust_sharpness(images, 0.0))


def test_smoothed_labels_add_up_to_one():
    probs = smoothed(torch.tensor([2, 0]), 4, 0.2)
    torch.testing.assert_close(probs, torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]))
    assert math.isclose(float(probs.sum()), 2, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scale": [0.9, 0.1]}, "smallest share comes first"),
        ({"trivial_augment": True, "rand_augment": {"operations": 1}}, "two ways of the same"),
        ({"crop": "random_resized", "crop_padding": 2}, "crop_padding is for crop: padded"),
        ({"crop": "photograph", "crop_padding": 2}, "crop_padding is for crop: padded"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Augmentation.model_validate(settings)
