"""Training on packed images: the batches, and so the weights, of training on the same images in memory."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as vision
from training_runs import MemoryStore, label_run

from ekd_train.data import load_dataset
from ekd_train.data.augment import augment, crops_of
from ekd_train.data.boxes import crop_boxes
from ekd_train.data.mixing import mix
from ekd_train.data.packed.records import records_in
from ekd_train.data.tensors import place
from ekd_train.distributed import Workers
from ekd_train.persistence.checkpoint import Checkpoints
from ekd_train.settings import Augmentation, DataSettings
from ekd_train.training.batches import Batches
from ekd_train.training.loop import train
from ekd_train.training.reporter import Silent

CPU = torch.device("cpu")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads 26 training images of 12 x 9 pixels, packed or in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for label, name in enumerate(("cat", "dog", "owl")):
        for number in range(12):
            path = tmp_path / "images/train" / name / f"{number:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = np.random.default_rng(100 * label + number).integers(0, 80, (4, 4, 3), dtype=np.uint8)
            coarse[label] += 120
            Image.fromarray(coarse).resize((12, 9), Image.Resampling.BICUBIC).save(path)

    def load_it(form, **more):
        values = {"name": "image_folder", "root": str(tmp_path / "images"), "image_size": 8, "pack": form}
        return load_dataset(DataSettings(**values, validation_size=6, test_size=4, **more))

    return load_it


@pytest.fixture
def both(load):
    """The same images packed and in memory."""
    packed, held = load("always"), load("never")
    alike = replace(held, mean=packed.mean, std=packed.std)  # else those of a sample
    return place(packed, CPU).training, place(alike, CPU).training


def batches(data, workers=Workers(), run=None):
    return Batches(run or label_run(batch_size=8, epochs=3), data, workers, None, None)


def drawn(data, steps, workers=Workers()):
    made = batches(data, workers)
    found = []
    for step in steps:
        rows = made.of_epoch(step // made.per_epoch + 1)[step % made.per_epoch]
        found.append(made.draw(step, rows).images.clone())
    return found


def test_every_step_has_the_images_of_memory(both):
    packed, held = both
    assert all(map(torch.equal, drawn(packed, range(9)), drawn(held, range(9))))


@pytest.mark.parametrize("step", [1, 4, 8])
def test_a_run_that_goes_on_in_the_middle_of_an_epoch_has_the_images_that_it_would_have_had(both, step):
    packed, _ = both
    assert all(map(torch.equal, drawn(packed, range(step, 9)), drawn(packed, range(9))[step:]))


@pytest.mark.parametrize("size", [2, 3])
def test_the_shares_of_any_number_of_workers_are_the_whole_batch(both, size):
    packed, _ = both
    shares = [drawn(packed, range(6), Workers(rank, size)) for rank in range(size)]
    for step, whole in enumerate(drawn(packed, range(6))):
        assert torch.equal(torch.cat([share[step] for share in shares]), whole)


def test_a_share_that_is_drawn_twice_is_the_same_and_another_workers_is_what_that_one_draws(both):
    packed, _ = both
    first, second = (batches(packed, Workers(rank, 2)) for rank in range(2))
    for step in range(3):
        rows = first.of_epoch(1)[step]
        drawn_by = [made.draw(step, rows).images for made in (first, first.of_worker(1), first, second)]
        assert torch.equal(drawn_by[0], drawn_by[2])
        assert torch.equal(drawn_by[1], drawn_by[3])


def test_two_runs_that_take_turns_have_their_own_batches(both):
    packed, held = both
    runs = [label_run(name, batch_size=8, epochs=3) for name in ("control", "teacher-0")]
    ours, theirs = ([batches(data, run=run) for run in runs] for data in (packed, held))
    for step in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            rows = mine.of_epoch(1)[step]
            assert torch.equal(mine.draw(step, rows).images, other.draw(step, rows).images)


def with_crops(**more):
    augmentation = Augmentation(crop="photograph", scale=(0.2, 1.0), flip=True, **more)
    return label_run(batch_size=8, epochs=3).model_copy(update={"augmentation": augmentation})


def opened(images, row):
    """The photograph itself."""
    with records_in(images.folder).image(images.rows[row]).open() as file:
        return Image.open(file).copy()


def learned_from(data, steps, workers=Workers()):
    """The images of each step as its network sees them."""
    made = batches(data, workers, with_crops(mixup=0.5))
    found = []
    for step in steps:
        (part,) = made.parts(step, made.of_epoch(step // made.per_epoch + 1)[step % made.per_epoch])
        found.append(mix(augment(part.images, part.augmentation), part.mixing)[0])
    return found


def test_crops_of_whole_photographs_are_the_same_for_any_number_of_workers_and_from_any_step(load):
    data = place(load("auto", augmentation=with_crops().augmentation), CPU).training
    alone = learned_from(data, range(9))
    assert not torch.equal(alone[0], alone[3])
    assert all(map(torch.equal, learned_from(data, range(4, 9)), alone[4:]))
    shares = [learned_from(data, range(6), Workers(rank, 3)) for rank in range(3)]
    for step in range(6):
        assert torch.equal(torch.cat([share[step] for share in shares]), alone[step])


def test_a_crop_is_torchvisions_of_the_whole_photograph(load):
    dataset = load("auto", augmentation=with_crops().augmentation)
    made = batches(place(dataset, CPU).training, run=with_crops())
    rows = made.of_epoch(1)[0]
    batch, beyond = made.draw(0, rows), 0
    boxes = crop_boxes(crops_of(batch.augmentation), 9, 12, (0.2, 1.0))
    for image, row, box in zip(batch.images, rows.tolist(), boxes.tolist(), strict=True):
        top, left, height, width = box
        photograph = opened(dataset.train.images, row)
        cropped = vision.resized_crop(vision.pil_to_tensor(photograph), top, left, height, width, [8, 8])
        assert (image.int() - cropped.int()).abs().max() <= 1
        beyond += left < 1 or left + width > 11
    assert beyond  # the square in the middle


def test_what_is_measured_is_the_middle_whatever_the_crops(load):
    """ImageNet's usual 224 of 256 pixels."""
    data = load("auto", augmentation=with_crops().augmentation, centre_share=0.875)
    for row in range(len(data.validation)):
        photograph = opened(data.validation.images, row)  # of 9 pixels the middle 7.875
        box = (6 - 3.9375, 4.5 - 3.9375, 6 + 3.9375, 4.5 + 3.9375)
        middle = photograph.resize((8, 8), Image.Resampling.BILINEAR, box=box)
        assert torch.equal(
            torch.from_numpy(data.validation.images[row : row + 1][0]), vision.pil_to_tensor(middle)
        )


def test_a_run_ends_with_the_same_weights(both):
    run = label_run(batch_size=8, epochs=2)
    ends = [
        train(run, data, checkpoints=Checkpoints(MemoryStore(), "c", "i", keep=1), reporter=Silent())
        for data in both
    ]
    assert ends[0].history == ends[1].history
    for mine, other in zip(*(end.network.state_dict().values() for end in ends), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # three processes, each with others that decode, one after the other
def test_a_process_that_is_killed_in_the_middle_of_an_epoch_ends_with_the_same_bits(both, tmp_path):
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, (tests, tests.parents[1])))
    program = str(tests / "packed_training_process.py")

    def run(store, last):
        command = [sys.executable, program, str(tmp_path / "images"), str(tmp_path / store), str(last)]
        environment = os.environ | {"PYTHONPATH": paths}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    whole, killed = run("one", -1), run("two", 5)
    assert killed.returncode == -signal.SIGKILL
    resumed = run("two", -1)
    assert whole.returncode == resumed.returncode == 0, whole.stderr + resumed.stderr
    assert resumed.stdout == whole.stdout
