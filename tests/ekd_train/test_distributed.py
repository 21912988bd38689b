import shutil

import pytest
import torch
from training_runs import MemoryStore, label_run, papa_run, same_tensors, student_run, with_training
from two_workers import FolderStore, in_one_process, in_processes

from ekd_train.distributed import Workers
from ekd_train.objectives import OBJECTIVES
from ekd_train.perturbations import PERTURBATIONS
from ekd_train.settings import Augmentation

TOGETHER = {"epochs": 2, "batch_norm": "synchronised", "speed": {"precision": "float32"}}
RUNS = {
    "label": label_run(**TOGETHER),
    "mean_kd": student_run("kd", "gaussian", **TOGETHER),
    "member_kd": student_run("latent_be", "tdiv_sdiv", **TOGETHER),
    "ekd": student_run("ekd", "ods", distillation={"ekd": {"feature": 0.1}}, **TOGETHER),
    "ce_kd": student_run("batch_ensemble", "conf_ods", alpha=0.9, **TOGETHER),
    "proxy_end2": student_run("kd", "tdiv", objective="proxy_end2", alpha=0.9, **TOGETHER),
    "dkd": student_run("kd", objective="dkd", **TOGETHER),
    "dist": student_run("latent_be", objective="dist", alpha=0.9, **TOGETHER),
    "papa": papa_run(**TOGETHER),
}
"""Every objective and perturbation; batches of 7 images, so that two workers have 3 and 4 of them."""

EVERY_STEP = student_run("latent_be", "tdiv_sdiv", epochs=2, ema=0.5, checkpoint_every_minutes=1e-9)
VARIED = Augmentation.model_validate(
    {
        **{"crop": "random_resized", "flip": True, "color_jitter": {"brightness": 0.4, "contrast": 0.4}},
        **{"rand_augment": {"operations": 2}, "random_erasing": 0.5, "mixup": 1, "cutmix": 1},
    }
)
RECIPES = {
    "varied and mixed": student_run(alpha=0.5, label_smoothing=0.1, ema=0.8, **TOGETHER).model_copy(
        update={"augmentation": VARIED}
    ),
    # Where batch statistics are frozen, parts change nothing either.
    "in parts": label_run(
        optimiser={"name": "adamw"}, accumulate=2, freeze=["backbone"], clip_norm=0.1, **TOGETHER
    ),
}

OWN_STATISTICS = student_run("latent_be", "tdiv_sdiv", epochs=4, evaluate_every=2)
"""Batch statistics of each worker's share, which the perturbation sees in the next step."""


def test_every_objective_and_perturbation_is_shared_out_here():
    assert set(RUNS) == set(OBJECTIVES)
    assert {"none", *(run.perturbation.kind for run in RUNS.values())} == set(PERTURBATIONS)


ALONE = {**RUNS, **RECIPES, "in parts": with_training(RECIPES["in parts"], accumulate=1)}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, in_processes(
        2, RUNS | RECIPES | {"own statistics": OWN_STATISTICS, "every step": EVERY_STEP}, folder
    )


@pytest.fixture(scope="module")
def by_one():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {name: in_one_process(run, MemoryStore()) for name, run in ALONE.items()}
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_workers_see_the_augmented_images_that_one_sees(name, by_one, by_two):
    one, two = by_one[name], by_two[1][name]
    assert [len(images) for images in two[0]["augment"]] == [3] * 8
    shared = [torch.cat(shares) for shares in zip(*(worker["augment"] for worker in two), strict=True)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(shared, one["augment"], strict=True))


@pytest.mark.slow
def test_two_workers_learn_from_the_varied_and_mixed_images_that_one_learns_from(by_one, by_two):
    one, two = (found["varied and mixed"] for found in (by_one, by_two[1]))
    shared = [torch.cat(shares) for shares in zip(*(worker["apply"] for worker in two), strict=True)]
    for ours, theirs in zip(shared, one["apply"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_workers_see_the_perturbed_images_that_one_sees(name, by_one, by_two):
    one, two = by_one[name], by_two[1][name]
    shared = [torch.cat(shares) for shares in zip(*(worker["apply"] for worker in two), strict=True)]
    for ours, theirs in zip(shared, one["apply"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    if RUNS[name].perturbation.kind != "none":
        assert not torch.equal(one["apply"][0], one["augment"][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RUNS, *RECIPES])
def test_two_workers_with_synchronised_statistics_end_with_the_weights_of_one(name, by_one, by_two):
    one, two = by_one[name], by_two[1][name]
    assert same_tensors(two[0]["weights"], two[1]["weights"])
    torch.testing.assert_close(two[0]["weights"], one["weights"], rtol=1e-4, atol=1e-5)
    assert two[0]["history"] == two[1]["history"]
    for ours, theirs in zip(two[0]["history"], one["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_two_workers_that_were_cut_off_continue_exactly(by_two, tmp_path):
    folder, found = by_two
    cut = {f"after epoch {epoch}": epoch for epoch in (1, 2, 3)}
    for name, epoch in cut.items():
        shutil.copytree(folder / "own statistics", tmp_path / name)
        store = FolderStore(tmp_path / name)
        for key in store.list():
            if "epoch-" in key and int(key.rpartition("-")[2][:5]) > epoch:
                store.delete(key)
    last = "checkpoints/student/epoch-00004.safetensors"
    for name, resumed in in_processes(2, dict.fromkeys(cut, OWN_STATISTICS), tmp_path).items():
        for before, after in zip(found["own statistics"], resumed, strict=True):
            assert same_tensors(before["weights"], after["weights"])
            assert before["history"] == after["history"]
        uninterrupted = FolderStore(folder / "own statistics").read(last)
        assert FolderStore(tmp_path / name).read(last) == uninterrupted, name


@pytest.mark.slow
def test_two_workers_that_were_cut_off_within_an_epoch_continue_exactly(by_two, tmp_path):
    folder, found = by_two
    shutil.copytree(folder / "every step", tmp_path / "cut")
    store = FolderStore(tmp_path / "cut")
    keys = store.list()
    assert "checkpoints/student/epoch-00001_0000002.json" in keys
    for key in keys:
        if "epoch-" in key and key.rpartition("/")[2] > "epoch-00001_0000002.safetensors":
            store.delete(key)
    (resumed,) = in_processes(2, {"cut": EVERY_STEP}, tmp_path).values()
    for before, after in zip(found["every step"], resumed, strict=True):
        assert same_tensors(before["weights"], after["weights"])
        assert before["history"] == after["history"]
        assert len(after["apply"]) == 2
    last = "checkpoints/student/epoch-00002.safetensors"
    assert store.read(last) == FolderStore(folder / "every step").read(last)


def test_the_noise_of_a_seed_is_that_of_torch_manual_seed():
    torch.manual_seed(2**63 + 11)
    expected = torch.rand(5)
    Workers().seed_noise(2**63 + 11)
    assert torch.equal(torch.rand(5), expected)


def test_a_worker_alone_keeps_everything_to_itself():
    workers = Workers()
    rows = torch.arange(6.0).view(3, 2)
    assert workers.is_first
    assert workers.shard(7) == (0, 7)
    assert workers.concatenate(rows, 3) is rows
    assert workers.total(rows) is rows
    network = torch.nn.Linear(2, 2)
    assert workers.parallel(network) is network
    workers.barrier()
