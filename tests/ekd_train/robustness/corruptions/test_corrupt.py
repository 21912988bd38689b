"""What every corruption promises, and what each is."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from ekd_train.robustness.corruptions import CORRUPTIONS, corrupt
from ekd_train.robustness.corruptions.blur import ZOOMS
from ekd_train.robustness.corruptions.optics import drag, move, smooth, zoom
from ekd_train.robustness.settings import FAMILIES, CorruptionName

NOT_RANDOM = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg"}
GENTLER = {"glass_blur", "elastic"}
"""Whose published severities change fewer grey levels at 5 than at 1, at some sizes."""


def scenes(count=6, channels=3, side=32):
    """Smooth blobs, which are closer to photographs than noise is."""
    noise = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(3))
    blobs = smooth(noise, side / 12)
    low, high = blobs.amin((2, 3), keepdim=True), blobs.amax((2, 3), keepdim=True)
    return ((blobs - low) / (high - low) * 255).round().to(torch.uint8)


def change(images, corrupted):
    return (corrupted.float() - images.float()).abs().mean().item()


def test_the_settings_the_families_and_the_table_name_the_same_corruptions():
    named = [name for family in FAMILIES.values() for name in family]
    assert sorted(named) == sorted(CORRUPTIONS) == sorted(get_args(CorruptionName))


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 8), (1, 28), (3, 32), (3, 64)])
def test_every_size_and_number_of_channels_is_corrupted_and_stays_an_image(kind, channels, side):
    images = scenes(2, channels, side)
    before = images.clone()
    for severity in (1, 5):
        corrupted = corrupt(images, kind, severity)
        assert corrupted.shape == images.shape
        assert corrupted.dtype == torch.uint8
        assert change(images, corrupted) > 0.05
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", sorted(set(CORRUPTIONS) - GENTLER))
@pytest.mark.parametrize("side", [8, 32])
def test_a_higher_severity_changes_more(kind, side):
    images = scenes(20, side=side)
    assert change(images, corrupt(images, kind, 5)) > change(images, corrupt(images, kind, 1))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_same_seed_gives_the_same_images_and_another_seed_others(kind):
    images = scenes()
    once = corrupt(images, kind, 3, seed=1)
    assert torch.equal(once, corrupt(images, kind, 3, seed=1))
    assert torch.equal(once, corrupt(images, kind, 3, seed=2)) == (kind in NOT_RANDOM)


@pytest.mark.parametrize("kind", sorted(set(CORRUPTIONS) - NOT_RANDOM))
def test_equal_images_of_a_batch_are_corrupted_each_in_its_own_way(kind):
    images = scenes(1).expand(2, -1, -1, -1)
    one, other = corrupt(images, kind, 3)
    assert not torch.equal(one, other)


def test_parts_give_what_the_whole_gives():
    images = scenes(1, 1, 8).expand(501, -1, -1, -1)
    whole = corrupt(images, "gaussian_noise", 2, seed=4)
    assert torch.equal(whole[500:], corrupt(images[500:], "gaussian_noise", 2, seed=4, first=500))
    assert not torch.equal(whole[:1], whole[500:])


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (1, 8, 8)])
def test_other_than_grey_or_colour_images_are_refused(shape):
    with pytest.raises(ValueError, match="1 or 3 channels"):
        corrupt(torch.zeros(shape, dtype=torch.uint8), "fog", 1)


def test_severities_are_one_to_five():
    with pytest.raises(ValueError, match="1 to 5"):
        corrupt(scenes(), "fog", 6)


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.04), (5, 0.10)])
def test_gaussian_noise_has_the_published_size(severity, sigma):
    grey = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    noise = (corrupt(grey, "gaussian_noise", severity).float() - 128) / 255
    assert noise.std().item() == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize(("severity", "photons"), [(1, 500), (5, 50)])
def test_shot_noise_has_the_variance_of_its_photons(severity, photons):
    grey = torch.full((20, 3, 32, 32), 102, dtype=torch.uint8)  # 0.4
    noise = corrupt(grey, "shot_noise", severity).float() / 255
    assert noise.std().item() == pytest.approx(math.sqrt(0.4 / photons), rel=0.03)


def test_impulse_noise_makes_as_many_values_white_as_black():
    grey = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    noisy = corrupt(grey, "impulse_noise", 5)
    assert set(noisy.unique().tolist()) == {0, 128, 255}
    for extreme in (0, 255):
        assert (noisy == extreme).double().mean().item() == pytest.approx(0.035, rel=0.1)


def test_glass_blur_only_moves_pixels_where_its_own_blur_is_next_to_nothing():
    images = scenes()
    moved = corrupt(images, "glass_blur", 1).flatten(2).sort().values
    assert (moved.float() - images.flatten(2).sort().values.float()).abs().max() <= 1


def test_brightness_keeps_hue_and_saturation():
    import colorsys

    images = torch.tensor([[60, 120, 30], [0, 0, 0]], dtype=torch.uint8).view(2, 3, 1, 1)
    brighter = corrupt(images, "brightness", 2).view(2, 3)
    for before, after in zip(images.view(2, 3).tolist(), brighter.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(x / 255 for x in before))
        expected = colorsys.hsv_to_rgb(hue, saturation, value + 0.1)
        assert after == pytest.approx([255 * x for x in expected], abs=1)


def test_contrast_shrinks_the_distance_to_the_mean():
    images = scenes(1)
    mean = images.float().mean((2, 3), keepdim=True)
    lower = corrupt(images, "contrast", 5).float()
    assert torch.allclose(lower - mean, 0.15 * (images.float() - mean), atol=0.51)


def test_pixelate_leaves_as_many_blocks_as_it_says():
    images = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8)
    assert len(corrupt(images, "pixelate", 5)[0, 0].unique(dim=0)) == 20  # int(32 * 0.65)


@pytest.mark.parametrize("side", [8, 28, 32, 64])
@pytest.mark.parametrize(("severity", "share"), [(1, 0.95), (3, 0.85), (5, 0.65)])
def test_pixelate_is_pillows_box_filter_and_nearest_neighbour(side, severity, share):
    images = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    small = picture.resize((int(side * share),) * 2, Image.Resampling.BOX)
    expected = np.asarray(small.resize((side, side), Image.Resampling.NEAREST)).transpose(2, 0, 1)
    # Pillow rounds to grey levels between its two passes.
    assert np.abs(corrupt(images, "pixelate", severity)[0].numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("severity", "radius", "soft"), [(1, 0.3, 0.4), (2, 0.4, 0.5), (3, 0.5, 0.6), (4, 1, 0.2), (5, 1.5, 0.1)]
)
def test_defocus_blur_of_32_pixels_is_the_published_kernel(severity, radius, soft):
    """A disk of whole pixels, softened by a Gaussian of 3 x 3 taps."""
    down, across = np.mgrid[-8:9, -8:9]
    disk = (down**2 + across**2 <= radius**2).astype(float)
    taps = np.exp(-(np.arange(-1, 2) ** 2) / (2 * soft**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(taps, taps) / taps.sum() ** 2)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = ndimage.convolve(images.double().numpy(), kernel[None, None], mode="mirror")
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    difference = corrupt(images, "defocus_blur", severity).double().numpy() - expected
    assert np.abs(difference[inner]).max() <= 1


def test_zooms_are_as_many_as_the_published_ranges_have():
    ends = (1.06, 1.11, 1.16, 1.21, 1.26)
    assert tuple(len(np.arange(1, end, 0.01)) for end in ends) == ZOOMS


@pytest.mark.parametrize(("side", "variance"), [(16, 0.162), (28, 0.092), (32, 0.081)])
def test_between_pixels_a_blur_of_small_images_is_wider_as_documented(side, variance):
    """In squared pixels of 32, of the Gaussian of severity 1: the published kernel's is 0.081."""
    images = torch.zeros(1, 1, side, side)
    images[..., side // 2, side // 2] = 1
    scale = side / 32
    blurred = smooth(images, 0.4 * scale, scale)[0, 0].sum(0)
    places = (torch.arange(side) - side // 2) / scale
    assert (blurred * places**2).sum().item() == pytest.approx(variance, abs=5e-4)


def test_a_drag_has_imagemagicks_weights_a_pixel_apart():
    point = torch.zeros(1, 1, 1, 32)
    point[..., 16] = 1
    dragged = drag(point, radius=6, sigma=1, degrees=torch.zeros(1))[0, 0, 0]
    weights = np.exp(-(np.arange(5.0) ** 2) / 2)
    assert dragged[12:17].flip(0).numpy() == pytest.approx(weights / weights.sum(), abs=1e-5)


def test_jpeg_is_what_libjpeg_makes_of_it_in_torchvision():
    io = pytest.importorskip("torchvision.io")
    images = scenes(1)
    with pytest.warns(DeprecationWarning, match="TorchVision"):
        expected = io.decode_jpeg(io.encode_jpeg(images[0], quality=58))
    assert (corrupt(images, "jpeg", 3)[0].float() - expected.float()).abs().mean() < 1


def test_fog_and_snow_brighten_what_is_dark_and_fog_keeps_the_maximum():
    scene = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    scene[..., 16:] = 255
    for kind in ("fog", "snow"):
        assert corrupt(scene, kind, 5)[..., :14].float().mean() > 40, kind
    assert corrupt(scene, "fog", 5).float().mean() < 0.8 * 255


def test_blurs_and_warps_leave_an_even_surface_alone():
    grey = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    for kind in (*FAMILIES["blur"], "elastic", "pixelate", "contrast"):
        assert change(grey, corrupt(grey, kind, 5)) < 1, kind


def test_motion_blur_goes_rather_across_than_down():
    images = torch.zeros(40, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 16] = 255
    blurred = corrupt(images, "motion_blur", 5).float().mean((0, 1))
    places = torch.arange(32.0) - 16
    across, down = ((blurred.sum(axis) * places**2).sum() / blurred.sum() for axis in (0, 1))
    assert across > 2 * down > 0


def test_smooth_is_scipys_gaussian_filter():
    image = torch.rand(20, 24, dtype=torch.float64)
    for sigma in (0.4, 3.0):
        expected = ndimage.gaussian_filter(image.numpy(), sigma, mode="reflect")
        assert torch.allclose(smooth(image, sigma), torch.from_numpy(expected), atol=1e-3)


def test_move_by_whole_pixels_is_a_shift():
    image = torch.rand(1, 1, 6, 8)
    moved = move(image, torch.tensor(2.0), torch.tensor(1.0))
    assert torch.allclose(moved[..., :5, :6], image[..., 1:, 2:], atol=1e-5)


def test_zoom_by_one_changes_nothing_and_by_two_shows_the_middle():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8).contiguous()
    assert torch.allclose(zoom(ramp, 1.0), ramp, atol=1e-5)
    assert torch.allclose(zoom(ramp, 2.0)[0, 0, 0], 3.5 + (torch.arange(8.0) - 3.5) / 2, atol=1e-5)


def test_a_drag_to_the_right_leaves_no_trace_up_or_down():
    point = torch.zeros(1, 1, 9, 9)
    point[0, 0, 4, 4] = 1
    dragged = drag(point, radius=3, sigma=2, degrees=torch.zeros(1))
    assert dragged[0, 0, 4].sum().item() == pytest.approx(1, abs=0.05)
    assert (dragged[0, 0, 4] > 0).sum() > 2
    assert dragged[0, 0, [*range(4), *range(5, 9)]].abs().max() < 1e-5
