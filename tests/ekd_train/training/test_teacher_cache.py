"""Teachers' cached predictions are their predictions, and a run that uses them resumes exactly."""

import pytest
import torch
from cutting_off import CutOff, CutsOff
from pydantic import ValidationError
from training_runs import (
    MemoryStore,
    checkpoints_in,
    made_up_data,
    same_tensors,
    student_run,
    untrained_teachers,
)

from ekd_train.data.augment import augment, draw_augmentation, variant, variant_indices
from ekd_train.settings import Augmentation
from ekd_train.training.loop import train
from ekd_train.training.reporter import Silent
from ekd_train.training.teacher_cache import open_cache

CROPS = Augmentation(crop_padding=1, flip=True)
ALIKE = {"precision": "float32"}
CACHED = {"speed": {"cache_teachers": True, **ALIKE}, "epochs": 18}


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ekd" / "teachers"


@pytest.mark.parametrize("flip", [False, True])
def test_each_variant_is_one_augmentation_and_all_of_them_are_counted(flip):
    settings = Augmentation(crop_padding=2, flip=flip)
    draws = [variant(index, 1, settings) for index in range(settings.variants)]
    assert [int(variant_indices(draw)) for draw in draws] == list(range(settings.variants))
    choices = {(int(d.top), int(d.left), bool(d.flipped)) for d in draws}
    assert len(choices) == settings.variants == 25 * (1 + flip)


def test_the_cache_answers_what_the_teachers_say_of_the_augmented_images(tmp_path):
    data = made_up_data()
    teachers = untrained_teachers(data)
    cache = open_cache(tmp_path, teachers, data.train.images, CROPS)
    rows = torch.tensor([3, 17, 3, 0, 27])
    draw = draw_augmentation(torch.Generator().manual_seed(4), len(rows), CROPS)
    expected = teachers(augment(data.train.images[rows], draw))
    torch.testing.assert_close(cache.lookup(rows, draw), expected)


def test_other_teachers_images_or_augmentation_have_a_cache_of_their_own(tmp_path):
    data = made_up_data()
    teachers = untrained_teachers(data)
    open_cache(tmp_path, teachers, data.train.images, CROPS)
    first = set(tmp_path.glob("*.npy"))
    open_cache(tmp_path, untrained_teachers(data), data.train.images, CROPS)
    assert set(tmp_path.glob("*.npy")) == first
    open_cache(tmp_path, teachers, data.train.images, Augmentation())
    open_cache(tmp_path, teachers, data.train.images.flip(0), CROPS)
    with torch.no_grad():
        next(teachers.parameters()).mul_(1.5)
    open_cache(tmp_path, teachers, data.train.images, CROPS)
    assert len(set(tmp_path.glob("*.npy"))) == 4


def test_a_cache_that_was_cut_off_while_it_was_made_is_made_again(tmp_path):
    data = made_up_data()
    teachers = untrained_teachers(data)

    def stop(images):
        raise CutOff

    original, teachers.forward = teachers.forward, stop
    with pytest.raises(CutOff):
        open_cache(tmp_path, teachers, data.train.images, CROPS)
    teachers.forward = original
    assert open_cache(tmp_path, teachers, data.train.images, CROPS).logits.shape == (28, 18, 2, 3)


@pytest.mark.slow
def test_training_from_the_cache_gives_the_same_student_to_rounding():
    data = made_up_data()
    finals = []
    for settings in (CACHED, {"speed": ALIKE, "epochs": 18}):
        run = student_run(**settings)
        trained = train(
            run,
            data,
            checkpoints=checkpoints_in(MemoryStore(), run),
            reporter=Silent(),
            teachers=untrained_teachers(data),
        )
        finals.append(trained.history[0])
    for name, value in finals[0].items():
        assert value == pytest.approx(finals[1][name], rel=1e-3, abs=1e-4), name


@pytest.mark.slow
def test_a_cut_off_run_with_a_cache_ends_with_the_same_bits(own_cache_folder):
    data = made_up_data()
    run = student_run(**CACHED)

    def go(store, reporter):
        teachers = untrained_teachers(data)
        return train(run, data, checkpoints=checkpoints_in(store, run), reporter=reporter, teachers=teachers)

    whole = go(MemoryStore(), Silent())
    store = MemoryStore()
    with pytest.raises(CutOff):
        go(store, CutsOff(7))
    for file in own_cache_folder.glob("*.npy"):
        file.unlink()  # continued on another machine
    continued = go(store, Silent())
    assert same_tensors(whole.network.state_dict(), continued.network.state_dict())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"perturbation": "gaussian"}, "perturbation.kind=gaussian"),
        ({"epochs": 17}, "18 variants"),
        ({"method": "ekd", "distillation": {"ekd": {"feature": 1.0}}}, "distillation.ekd.feature"),
    ],
)
def test_a_cache_that_cannot_help_is_refused(changes, why):
    with pytest.raises(ValidationError, match=why):
        student_run(**{**CACHED, **changes})
