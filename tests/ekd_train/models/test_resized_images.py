"""A network that wants other images than the data's: they are resized inside, and gradients reach them."""

import pytest
import torch
from torchvision.transforms.v2.functional import normalize, resize

from ekd_train.data.description import ImageSpec
from ekd_train.models.build_network import build_plain
from ekd_train.models.teachers import Teachers
from ekd_train.perturbations import PERTURBATIONS
from ekd_train.perturbations.ascent import pixel_gradient
from ekd_train.settings import Architecture

DATA = ImageSpec(num_classes=5, image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def a_teacher(size: int, data: ImageSpec = DATA, **changes) -> torch.nn.Module:
    torch.manual_seed(0)
    wanted = {"name": "resnet", "depth": 8, "mean": MEAN, "std": STD, "image_size": size} | changes
    return build_plain(Architecture(**wanted), data).double().eval()


@pytest.mark.parametrize("size", [5, 8, 12])
def test_it_gives_what_its_network_gives_of_images_that_torchvision_resized(size):
    teacher, images = a_teacher(size), torch.rand(4, 3, 8, 8, dtype=torch.float64)
    outside = normalize(resize(images, [size, size], antialias=True), MEAN, STD)
    assert torch.allclose(teacher(images), teacher.network(outside), atol=1e-6)  # the means are float32


def test_grey_images_are_all_three_channels_of_a_network_that_has_three():
    grey = DATA.model_copy(update={"image_shape": (1, 8, 8), "mean": (0.5,), "std": (0.5,)})
    teacher, images = a_teacher(12, grey), torch.rand(4, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(teacher(images), teacher(images.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("size", [5, 12])
def test_the_gradient_that_perturbations_follow_is_that_of_the_common_pixels(size):
    teachers, images = Teachers([a_teacher(size)]), torch.rand(2, 3, 8, 8, dtype=torch.float64)

    def objective(pixels: torch.Tensor) -> torch.Tensor:
        return teachers[0](pixels).log_softmax(1)[:, 2]

    found = pixel_gradient(images, objective)
    assert found.shape == images.shape
    step = 1e-6
    for place in [(0, 0, 0, 0), (0, 2, 7, 3), (1, 1, 4, 4), (1, 0, 7, 7)]:
        moved = torch.zeros_like(images)
        moved[place] = step
        change = (objective(images + moved) - objective(images - moved))[place[0]] / (2 * step)
        assert found[place].item() == pytest.approx(change.item(), rel=1e-4, abs=1e-9)


def test_teachers_of_several_sizes_are_perturbed_against_each_other():
    from ekd_train.perturbations import perturb

    teachers = Teachers([a_teacher(5).float(), a_teacher(12).float(), a_teacher(8, image_size=None).float()])
    images = torch.rand(2, 3, 8, 8)
    for kind in PERTURBATIONS.keys() - {"tdiv_sdiv"}:
        moved = perturb(
            images,
            kind=kind,
            strength=1.0,
            teachers=teachers,
            student=None,
            temperature=1.0,
            generator=torch.Generator().manual_seed(0),
        )
        assert moved.shape == images.shape
        assert (kind == "none") == torch.equal(moved, images)
