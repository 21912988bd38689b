"""What a perturbation of one's own makes is looked at before teachers are trained for it."""

import pytest
import torch
from torch import nn

from ekd_train import own_code
from ekd_train.own_code import allow, source_hash
from ekd_train.perturbations.trial import try_perturbation
from ekd_train.settings import PerturbationSettings

SOURCE = """
from ekd_train.perturbations import Perturbation
def grey(images, draw, networks, *, levels=1):
    return images.new_full(images.shape, levels / 255)
def another_shape(images, draw, networks):
    return images[:, :, :2]
def doubled(images, draw, networks):
    return images.repeat(2, 1, 1, 1)[:4].repeat(1, 2, 1, 1)
def not_a_number(images, draw, networks):
    return images * float("nan")
def wrong(images, draw, networks):
    raise KeyError("x")
def by_both(images, draw, networks):
    first = networks.teachers[draw.teachers[0]](images)
    return images * (first + networks.student(images, members=[1])[0]).mean()
both = Perturbation(by_both, drawn_teachers=2, needs_student=True)
"""


@pytest.fixture
def tried(tmp_path, monkeypatch):
    """Tries one of `SOURCE` by its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "_allowed", {})
    module = f"own_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    allow({module: source_hash(module)})

    def call(name: str, **options: object) -> None:
        settings = PerturbationSettings(kind=f"{module}:{name}", options=options)
        try_perturbation(settings, image_shape=(1, 6, 6), members=3, teachers=3, classes=4)

    return call


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("another_shape", r"given images \(4, 1, 6, 6\): RuntimeError: The size of tensor"),
        ("doubled", r"makes of images \(4, 1, 6, 6\) others, \(4, 2, 6, 6\)"),
        ("not_a_number", "values that are not finite"),
        ("wrong", "KeyError: 'x'"),
    ],
)
def test_what_makes_no_images_is_named(tried, name, said):
    with pytest.raises(ValueError, match=said):
        tried(name)


def test_what_makes_images_passes_and_leaves_the_global_generator_alone(tried):
    before = torch.get_rng_state()
    tried("grey")
    tried("grey", levels=3)
    tried("both")
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="unexpected keyword argument 'level'"):
        tried("grey", level=3)


def test_photographs_and_many_classes_take_no_networks_of_gigabytes(monkeypatch):
    made = []
    monkeypatch.setattr(nn, "Linear", lambda *shape, linear=nn.Linear: made.append(shape) or linear(*shape))
    shown = {"image_shape": (3, 224, 224), "members": 4, "teachers": 12, "classes": 1000}
    try_perturbation(PerturbationSettings(kind="gaussian"), **shown)
    assert made == [(12, 1000)] * 16
