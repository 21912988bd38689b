"""One typed description: what it derives, and what it refuses to describe."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment, build_experiment, load_experiment
from orchestrator.experiment.smoke import make_small, one_small_worker
from orchestrator.pipeline.order import training_runs
from orchestrator.tuning.pool import same_in_all_trials, trial_experiment

ROOT = Path(__file__).parents[3]


def described(**changes: object) -> Experiment:
    return build_experiment({"name": "mine", **changes})


def test_one_group_of_teachers_may_be_written_without_a_list():
    group = {"count": 4, "architecture": {"name": "resnet", "depth": 20}}
    assert described(teachers=group).teachers == described(teachers=[group]).teachers


def test_teachers_are_numbered_through_groups_of_different_architectures():
    groups = [
        {"count": 1, "architecture": {"name": "resnet", "depth": 56}},
        {"count": 3, "architecture": {"name": "wide_resnet", "depth": 16}},
    ]
    runs = described(teachers=groups).teacher_runs()
    assert [run.name for run in runs] == ["teacher-0", "teacher-1", "teacher-2", "teacher-3"]
    assert [run.architecture.depth for run in runs] == [56, 16, 16, 16]


def test_an_override_of_one_alias_leaves_the_others_alone(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "teachers: {count: 4, training: &recipe {epochs: 7}}\nstudent: {members: 4, training: *recipe}\n"
    )
    experiment = load_experiment(str(file), ["student.training.epochs=9"])
    assert experiment.student.training.epochs == 9
    assert experiment.teachers[0].training.epochs == 7


def test_lists_take_indices():
    experiment = load_experiment("cifar10_ekd", ["teachers.2.architecture.depth=16"])
    assert [group.architecture.depth for group in experiment.teachers] == [56, 110, 16]


def test_elastic_workers_are_a_pair():
    cluster = described(cluster={"workers_per_run": [1, 4]}).cluster
    assert (cluster.fewest_workers, cluster.most_workers) == (1, 4)


def test_what_a_worker_computes_is_verified_by_another_or_refused():
    assert described(cluster={"workers_per_run": [1, 2], "verify_every": 100}).cluster.verify_every == 100
    with pytest.raises(ExperimentError, match="there is one worker to a run"):
        described(cluster={"verify_every": 100})


def test_where_it_runs_does_not_change_the_run_id():
    elsewhere = described(
        cluster={"cpus_per_worker": 8, "address": "10.0.0.1:6379"},
        storage={"uri": "s3://bucket/runs"},
        tracking={"uri": "http://mlflow:5000"},
        data={"root": "/data"},
    )
    assert elsewhere.default_run_id() == described().default_run_id()


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"student": {"training": {"epochs": 3}}}, {"cluster": {"workers_per_run": 2}}],
    ids=["seed", "epochs", "workers"],
)
def test_what_changes_the_result_changes_the_run_id(change):
    assert described(**change).default_run_id() != described().default_run_id()


def test_the_resolved_description_describes_itself():
    experiment = load_experiment("cifar10_ekd")
    assert build_experiment(experiment.resolved()) == experiment


@pytest.mark.parametrize("objective", ["member_kd", "ekd", "ce_kd"])
def test_a_student_without_members_cannot_pair_them(objective):
    with pytest.raises(ExperimentError, match=r"student\.method=kd has no members"):
        described(student={"method": "kd"}, distillation={"objective": objective})


def test_the_feature_term_needs_branches():
    with pytest.raises(ExperimentError, match=r"distillation\.ekd\.feature .* needs student\.method=ekd"):
        described(distillation={"ekd": {"feature": 1}})


@pytest.mark.parametrize("feature", [0, 1])
def test_weights_that_leave_heads_without_a_loss_are_refused(feature):
    with pytest.raises(ExperimentError, match=r"distillation\.ekd: label and distillation cannot both be 0"):
        described(distillation={"ekd": {"label": 0, "distillation": 0, "feature": feature}})


def test_methods_that_do_not_pair_take_any_number_of_members():
    assert described(student={"members": 2}, distillation={"objective": "mean_kd"}).student.members == 2


def test_a_smoke_run_keeps_every_component_and_shortens_the_rest():
    whole, small = load_experiment("cifar100_latentbe"), make_small(load_experiment("cifar100_latentbe"))
    assert small.student.training.epochs == 2
    assert small.data.train_size == 200  # every one of the 100 classes shows
    assert (small.student.method, small.student.members, small.perturbation) == (
        whole.student.method,
        whole.student.members,
        whole.perturbation,
    )
    kept, was = small.student.architecture, whole.student.architecture
    assert (kept.name, kept.depth, kept.stem_channels) == (was.name, was.depth, was.stem_channels)
    assert (kept.width, was.width) == (1, 4)
    assert build_experiment(small.resolved()) == small


@pytest.mark.parametrize(
    ("overrides", "pixels"),
    [
        (["data.image_size=64"], 16),
        (["data.image_size=12"], 12),
        (["data.image_size=null"], None),  # their own size, whatever that is
        (["student.architecture.small_images=false", "data.image_size=64"], 64),  # its stem may need them
    ],
)
def test_a_smoke_run_makes_large_images_small_where_the_networks_take_that(overrides, pixels):
    overrides = ["data.name=image_folder", *overrides]
    assert make_small(load_experiment("tiny_imagenet", overrides)).data.image_size == pixels


@pytest.mark.parametrize("per_class", [2, 4, 9, 100])
@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("train", "val", "test")])
def test_a_smoke_run_makes_do_with_the_images_of_a_small_folder(tmp_path, splits, per_class):
    from PIL import Image

    from ekd_train.data import load_dataset

    for split in splits:
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(per_class if split != "train" else 3 * per_class):
                Image.new("RGB", (8, 8)).save(tmp_path / split / label / f"{i}.png")
    small = make_small(load_experiment("image_folder", [f"data.root={tmp_path}"]))
    data = load_dataset(small.data)
    assert 2 <= len(data.train) <= 32
    assert len(data.test) <= 32
    assert small.student.training.batch_size <= len(data.train)


def test_a_smoke_run_keeps_its_workers_and_an_image_for_each():
    small = make_small(load_experiment("digits", ["cluster.workers_per_run=32"]))
    assert small.student.training.batch_size == 32
    assert build_experiment(small.resolved()) == small


def test_a_smoke_run_asks_for_no_gpu_where_there_is_none():
    small = one_small_worker(load_experiment("cifar10").cluster)
    assert (small.workers_per_run, small.cpus_per_worker, small.gpus_per_worker) == (1, 1, 0)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "examples").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_example_of_the_documentation_describes_an_experiment(path):
    assert training_runs(load_experiment(str(path)))


PRUNED = {"name": "resnet", "depth": 8, "pruned": 0.25}


def test_a_pruned_student_and_its_control_start_from_the_same_unpruned_network():
    experiment = described(student={"architecture": PRUNED, "training": {"epochs": 7}})
    names = [run.name for run in training_runs(experiment)]
    assert names == [*(f"teacher-{i}" for i in range(4)), "unpruned", "control", "student"]
    unpruned = experiment.unpruned_run()
    assert unpruned.architecture.pruned == 0
    assert (unpruned.architecture.name, unpruned.role, unpruned.training.epochs) == ("resnet", "label", 7)
    for run in (experiment.control_run(), experiment.student_run()):
        assert run.starts_from == unpruned
        assert run.architecture.pruned == 0.25


def test_a_student_that_is_not_pruned_starts_from_nothing():
    experiment = described()
    assert [run.name for run in training_runs(experiment)][-2:] == ["control", "student"]
    assert len(training_runs(experiment)) == 6
    assert experiment.control_run().starts_from is None
    assert experiment.student_run().starts_from is None


def test_a_pruned_teacher_is_refused_by_its_key():
    groups = [{"count": 2}, {"count": 2, "architecture": PRUNED}]
    with pytest.raises(ExperimentError, match=r"^teachers\.1\.architecture\.pruned: only the student"):
        described(teachers=groups)


def test_a_file_whose_name_cannot_be_an_experiments_has_to_name_it(tmp_path):
    path = tmp_path / "é ü.yaml"
    path.write_text("data: {name: digits}\n")
    with pytest.raises(ExperimentError, match="has no name, and its file's cannot be one"):
        load_experiment(str(path))
    assert load_experiment(str(path), ["name=mine"]).name == "mine"


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("evaluation.controls=[papa, papa]", "name each control once"),
        ("evaluation.controls=[soup]", "evaluation.controls"),
    ],
)
def test_a_control_that_is_unknown_or_named_twice_is_refused(override, why):
    with pytest.raises(ExperimentError, match=why):
        load_experiment("digits", [override])


@pytest.mark.parametrize("asked", ["student.method=papa", "evaluation.controls=[papa]"])
def test_networks_that_would_start_alike_are_no_papa(asked):
    with pytest.raises(ExperimentError, match="papa's networks part because they start apart"):
        load_experiment("digits", ["student.architecture={name: resnet, depth: 8, pruned: 0.25}", asked])


def test_how_members_are_averaged_is_part_of_the_run_and_of_no_network_that_is_trained():
    mean, picked = (load_experiment("digits", [f"student.average={way}"]) for way in ("mean", "picked"))
    assert mean.default_run_id() == load_experiment("digits").default_run_id() != picked.default_run_id()
    assert mean.student_run() == picked.student_run()


EKD = ("student.method=ekd", "perturbation.kind=none")


def test_ekd_clips_the_gradient_of_its_sum_where_nothing_else_is_written():
    assert load_experiment("digits").student.training.clip_norm is None
    clipped = load_experiment("digits", EKD)
    assert clipped.student.training.clip_norm == 3
    assert clipped.control_run().training.clip_norm == 3  # trained alike
    assert clipped.teachers[0].training.clip_norm is None
    assert load_experiment("digits", [*EKD, "student.training.clip_norm=1"]).student.training.clip_norm == 1
    for other in ("distillation.ekd.reduction=mean", "student.training.optimiser={name: adamw}"):
        assert load_experiment("digits", [*EKD, other]).student.training.clip_norm is None


def test_a_run_of_ekd_that_an_earlier_version_began_is_continued_as_it_was():
    old = load_experiment("digits", [*EKD, "student.training.clip_norm=null"])
    assert build_experiment(old.resolved()) == old
    assert old.default_run_id() == "digits-7c781a8d0a"
    assert load_experiment("digits", EKD).default_run_id() != old.default_run_id()


def test_in_a_search_over_methods_the_clipping_comes_and_goes_with_ekd():
    plain, ekd = load_experiment("digits", ["perturbation.kind=none"]), load_experiment("digits", EKD)

    def clip_norm(pool, **values):
        return trial_experiment(pool, values).student.training.clip_norm

    assert clip_norm(plain, **{"student.method": "ekd"}) == 3
    assert clip_norm(plain, **{"student.method": "ekd", "student.training.clip_norm": None}) is None
    assert clip_norm(ekd, **{"student.method": "latent_be"}) is None
    assert clip_norm(ekd, **{"distillation.ekd.reduction": "mean"}) is None
    assert clip_norm(ekd, **{"distillation.temperature": 2.0}) == 3
    assert not same_in_all_trials(plain.control_run(), ["student.method"])
    assert same_in_all_trials(plain.control_run(), ["distillation.temperature"])
