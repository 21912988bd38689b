"""What is found wrong before anything starts, on capacities and descriptions made by hand."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
from pathlib import Path
from typing import get_args

import pytest
from training_runs import a_description

from ekd_train.settings import StudentMethod
from ekd_train.settings.distillation import ObjectiveName
from orchestrator.errors import ExperimentError
from orchestrator.experiment.infrastructure import Cluster
from orchestrator.experiment.redaction import one_line
from orchestrator.experiment.schema import load_experiment
from orchestrator.planning.capacity import Capacity, Node, NodeGroup, runs_at_once, why_never
from orchestrator.planning.networks import bytes_needed, check_networks, distinct_runs
from orchestrator.planning.preflight import (
    log_of_ray,
    nothing_left,
)
from orchestrator.runtime import ray_logging, ray_session
from orchestrator.runtime.address import why_unreachable
from orchestrator.runtime.ray_session import LaunchError, cluster_capacity

LAPTOP = Capacity((Node(2),), "this machine")
TWO_GPU_HOSTS = Capacity((Node(16, 4), Node(16, 4)), "10.0.0.1:6379")
GROWING = Capacity((Node(4),), "10.0.0.1:6379", (NodeGroup(Node(16, 2), 4), NodeGroup(Node(8), 8)))
DIGITS = a_description(train=300, validation=497, test=1000, num_classes=10)


def test_a_log_that_an_error_names_is_kept_and_any_other_is_not():
    with log_of_ray() as passing:
        passing.write_text("well")
    assert not passing.parent.exists()
    asking = log_of_ray()
    kept = asking.__enter__()
    kept.write_text("ill")
    assert not asking.__exit__(LaunchError, LaunchError(f"see {kept}"), None)
    assert kept.read_text() == "ill"
    shutil.rmtree(kept.parent)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_does_not_fit_on_the_disk_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(logging, "raiseExceptions", True)
    with ray_logging.logging_kept():
        ray_logging.divert_logging(Path("/dev/full"))
        logging.getLogger("ray").error("something")
    assert capsys.readouterr().err == ""


def test_a_home_that_cannot_be_written_is_what_the_message_names(monkeypatch, tmp_path):
    def no_home(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/nonexistent")

    monkeypatch.setenv("HOME", "/nonexistent")  # that of Debian's users for services
    monkeypatch.setattr(ray_session, "divert_logging", lambda _: None)
    monkeypatch.setattr(ray_session, "_init", no_home)
    with pytest.raises(LaunchError, match=r"'/nonexistent'; see .*set HOME to a folder that this user may"):
        ray_session.start_ray(Cluster(address="local"), tmp_path / "ray.log")


@pytest.mark.parametrize(
    ("wanted", "capacity", "reason"),
    [
        (Cluster(), LAPTOP, None),
        (Cluster(workers_per_run=2), LAPTOP, None),
        (Cluster(workers_per_run=3), LAPTOP, "a run needs 3 workers of 1 CPU, but 2 can ever fit"),
        (Cluster(workers_per_run=(1, 8)), LAPTOP, None),
        (Cluster(cpus_per_worker=3), LAPTOP, "1 worker of 3 CPUs, but none can ever fit"),
        (Cluster(gpus_per_worker=1), LAPTOP, "there is no GPU .*; set cluster.gpus_per_worker=0"),
        (Cluster(workers_per_run=8, gpus_per_worker=1), TWO_GPU_HOSTS, None),
        (Cluster(workers_per_run=9, gpus_per_worker=1), TWO_GPU_HOSTS, "9 workers of 1 CPU and 1 GPU, but 8"),
        # CPUs of different hosts do not add up to one worker.
        (Cluster(cpus_per_worker=20), TWO_GPU_HOSTS, "none can ever fit"),
        (Cluster(workers_per_run=8, gpus_per_worker=1), GROWING, None),
        (Cluster(workers_per_run=9, gpus_per_worker=1), GROWING, "growing to 4 of 16 CPUs and 2 GPUs and 8"),
        (Cluster(workers_per_run=128), GROWING, None),
        (Cluster(cpus_per_worker=20), GROWING, "none can ever fit"),
    ],
)
def test_what_can_never_be_scheduled_is_said_with_the_reason(wanted, capacity, reason):
    found = why_never(wanted, capacity)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert pytest.raises(AssertionError, match=reason).matches(AssertionError(found))


def test_gpus_that_an_experiment_leaves_idle_are_said():
    assert "cluster.gpus_per_worker=1" in TWO_GPU_HOSTS.unused_gpus(Cluster())
    assert "cluster.gpus_per_worker=1" in GROWING.unused_gpus(Cluster())
    assert TWO_GPU_HOSTS.unused_gpus(Cluster(gpus_per_worker=0.5)) == ""
    assert LAPTOP.unused_gpus(Cluster()) == ""


def test_as_many_runs_go_side_by_side_as_fit_but_no_more_than_there_are():
    assert runs_at_once(Cluster(), LAPTOP, 5) == 2
    assert runs_at_once(Cluster(workers_per_run=2), LAPTOP, 5) == 1
    assert runs_at_once(Cluster(gpus_per_worker=1), TWO_GPU_HOSTS, 5) == 5
    assert runs_at_once(Cluster(gpus_per_worker=1, runs_at_once=3), TWO_GPU_HOSTS, 5) == 3
    assert runs_at_once(Cluster(cpus_per_worker=8), GROWING, 5) == 5, "an idle cluster grows"


def test_what_an_autoscaler_may_start_is_part_of_what_a_cluster_has(monkeypatch):
    group = NodeGroup(Node(4, 1), 8)
    monkeypatch.setattr(ray_session, "node_groups", lambda: (group,))
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    assert cluster_capacity("here") == Capacity((Node(2),), "here", (group,))


@pytest.mark.parametrize("address", ["", "host", "host:port", "10.0.0.1:99999", "http://"])
def test_an_address_that_is_none_is_not_waited_for(address):
    assert why_unreachable(address) == "it is not host:port or ray://host:port"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers there is not Ray"),
        (b"", "what answers there is not Ray"),
        (bytes.fromhex("000018 04 00 00000000"), None),  # gRPC's SETTINGS, as Ray 2.60 begins
    ],
)
def test_what_is_not_ray_is_told_from_it(answer, reason):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        found = why_unreachable(f"127.0.0.1:{server.getsockname()[1]}")
    assert found is None if reason is None else found is not None and found.startswith(reason)


@pytest.mark.slow
def test_what_accepts_a_connection_and_never_answers_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = why_unreachable(f"127.0.0.1:{server.getsockname()[1]}")
    assert found == "nothing answers there (timed out)"


def test_each_group_of_teachers_is_built_once_under_its_own_key():
    assert list(distinct_runs(load_experiment("digits"))) == ["teachers.architecture", "student"]
    assert list(distinct_runs(load_experiment("cifar10_ekd"))) == [
        *(f"teachers.{i}.architecture" for i in range(3)),
        "student",
    ]


@pytest.mark.parametrize(
    "setting",
    [
        *(f"student.method={method}" for method in get_args(StudentMethod)),
        *(
            f"distillation.objective={name}"
            for name in get_args(ObjectiveName)
            if name not in ("ekd", "papa")
        ),
        "distillation.standardise=true",
        "distillation.teacher_weights=confidence",
    ],
)
def test_every_method_and_objective_passes_the_checks_of_its_networks(setting):
    experiment = load_experiment("digits", [setting, "perturbation.kind=none"])
    check_networks(experiment, DIGITS)


def test_a_network_that_images_are_too_small_for_is_refused_with_their_size():
    experiment = load_experiment("digits", ["teachers.architecture={name: inception_v3}"])
    with pytest.raises(ExperimentError, match=r"teachers\.architecture: .*images are 1x8x8"):
        check_networks(experiment, DIGITS)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (["cluster.workers_per_run=2"], True),  # 2 + 1 images
        (["cluster.workers_per_run=2", "teachers.training.batch_size=4"], False),
        (["cluster.workers_per_run=1"], False),
        (["cluster.workers_per_run=2", "teachers.training.batch_norm=synchronised"], False),
    ],
)
def test_a_share_of_one_image_is_refused_where_batch_norm_would_see_one_value(settings, refused):
    tiny = [
        "teachers.architecture={name: resnet18, small_images: true}",
        "teachers.training.batch_size=3",
        "student.training.batch_size=8",
    ]
    experiment = load_experiment("digits", [*tiny, *settings])
    if not refused:
        return check_networks(experiment, DIGITS)
    with pytest.raises(ExperimentError, match=r"^teachers.architecture: a worker's share of a batch is one"):
        check_networks(experiment, DIGITS)


def test_the_space_that_a_run_needs_grows_with_its_networks():
    small = bytes_needed(load_experiment("digits"), DIGITS)
    wide = bytes_needed(load_experiment("digits", ["student.architecture.width=8"]), DIGITS)
    assert 64 << 20 < small < wide < 1 << 30


def test_folders_that_a_check_made_are_removed_and_others_kept(tmp_path):
    folder = tmp_path / "a" / "b"
    with nothing_left(folder):
        folder.mkdir(parents=True)
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    with nothing_left(folder):
        pass
    assert folder.is_dir()


def test_an_error_becomes_one_line_without_credentials():
    assert (
        one_line(ValueError("cannot reach\n  http://ann:s3cret@host/x")) == "cannot reach http://***@host/x"
    )
    assert one_line(ValueError()) == "ValueError"


def test_a_pruned_student_is_built_before_and_after_pruning():
    pruned = load_experiment("digits", ["student.architecture.pruned=0.25"])
    assert list(distinct_runs(pruned)) == ["teachers.architecture", "student.architecture", "student"]
    check_networks(pruned, DIGITS)
    assert bytes_needed(pruned, DIGITS) > bytes_needed(load_experiment("digits"), DIGITS)


def test_a_student_that_cannot_be_pruned_is_refused_by_name():
    student = "student.architecture={name: shufflenet_v2_x0_5, small_images: true, pruned: 0.25}"
    with pytest.raises(ExperimentError, match=r"student: channels of .*ShuffleNetV2 cannot be pruned; known"):
        check_networks(load_experiment("digits", [student]), DIGITS)


def test_a_teacher_whose_features_nobody_knows_is_refused_where_they_are_compared():
    ekd = ["student.method=ekd", "perturbation.kind=none", "distillation.ekd.feature=0.1"]
    teacher = "teachers.architecture={name: mnasnet0_5, small_images: true}"
    with pytest.raises(ExperimentError, match=r"teachers.architecture: the stages of .*MNASNet are"):
        check_networks(load_experiment("digits", [*ekd, teacher]), DIGITS)
    check_networks(load_experiment("digits", ekd), DIGITS)
