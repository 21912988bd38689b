"""A pruned student and its control go on from the same trained network, and a cut costs neither a bit."""

from __future__ import annotations

import pytest
import torch
from training_runs import (
    MemoryStore,
    a_description,
    checkpoints_in,
    label_run,
    made_up_data,
    made_up_images,
    networks_in,
    student_run,
)

from ekd_train.data.tensors import DeviceData
from ekd_train.distributed import Workers
from ekd_train.models.build_network import averaged, build_network, build_plain
from ekd_train.models.pruning import prune_channels
from ekd_train.models.subnetworks import Subnetworks
from ekd_train.persistence.networks import identity, load_network_record
from ekd_train.persistence.records import NetworkRecord
from ekd_train.settings import Architecture, TrainingRun, TrialStep
from ekd_train.training.loop import Loop
from ekd_train.training.reporter import Silent
from ekd_train.workers.jobs import execute
from ekd_train.workers.trial_runner import TrialRunner

WHOLE = Architecture(name="resnet", depth=8, stem_channels=4)
PRUNED = WHOLE.model_copy(update={"pruned": 0.5})
UNPRUNED = label_run("unpruned", WHOLE, epochs=2)
START = {"starts_from": UNPRUNED}
CONTROL = label_run("control", PRUNED, epochs=3).model_copy(update=START)
STUDENTS = {
    method: student_run(method, perturbation, architecture=PRUNED, epochs=2).model_copy(update=START)
    for method, perturbation in (
        ("kd", "none"),
        ("latent_be", "tdiv_sdiv"),
        ("batch_ensemble", "none"),
        ("ekd", "none"),
    )
}
DESCRIPTION = a_description()


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData(made_up_data(), made_up_images(12, seed=3), DESCRIPTION)


def do(job: TrainingRun, data: DeviceData, store: MemoryStore) -> NetworkRecord:
    return execute(job, data, networks_in(store), Silent(), Workers())


@pytest.fixture
def store(data) -> MemoryStore:
    """With the teachers and the unpruned network."""
    made = MemoryStore()
    for run in (*STUDENTS["kd"].teachers, UNPRUNED):
        do(run, data, made)
    return made


def the_pruned(store: MemoryStore) -> torch.nn.Module:
    return prune_channels(networks_in(store).load(UNPRUNED), 0.5, (1, 8, 8)).eval()


@pytest.mark.parametrize("run", [CONTROL, *STUDENTS.values()], ids=["control", *STUDENTS])
def test_control_and_students_begin_as_the_pruned_network(run, store):
    network = build_network(run, DESCRIPTION, start=networks_in(store).starting_weights(run)).eval()
    images = torch.rand(4, 1, 8, 8)
    expected = the_pruned(store)(images)
    if run.student is not None and run.student.method == "batch_ensemble":
        with torch.no_grad():  # whose factors may be random: set them to 1
            for name, parameter in network.named_parameters():
                if name.endswith((".r", ".s")):
                    parameter.fill_(1)
    logits = network(images)
    for member in logits if isinstance(network, Subnetworks) else [logits]:
        torch.testing.assert_close(member, expected, rtol=1e-4, atol=1e-5)


def test_a_run_that_starts_from_nothing_has_random_weights(store):
    assert networks_in(store).starting_weights(UNPRUNED) is None


def test_synchronised_batch_norms_are_pruned_like_others(data):
    store = MemoryStore()
    training = UNPRUNED.training.model_copy(update={"batch_norm": "synchronised"})
    unpruned = UNPRUNED.model_copy(update={"training": training})
    control = CONTROL.model_copy(update={"training": training, "starts_from": unpruned})
    for run in (unpruned, control):
        assert do(run, data, store).best


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_every_method_trains_a_pruned_student_that_averages_to_the_pruned_shape(name, data, store):
    do(STUDENTS[name], data, store)
    plain = averaged(networks_in(store).load(STUDENTS[name]))
    wanted = build_plain(PRUNED, DESCRIPTION).state_dict()
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in wanted.items()}


@pytest.mark.slow
@pytest.mark.parametrize("run", [CONTROL, STUDENTS["latent_be"]], ids=["control", "student"])
def test_a_cut_in_a_pruned_run_costs_not_a_bit(run, data, store):
    begun = len(store.states)
    whole = do(run, data, store)
    for state in store.states[begun - 1 : -1]:
        cut = MemoryStore(state)
        again = do(run, data, cut)
        assert again.sha256 == whole.sha256
        assert again.history == whole.history


def test_what_a_run_starts_from_and_its_share_are_part_of_its_identity():
    other = UNPRUNED.model_copy(update={"seed": 6})
    less = PRUNED.model_copy(update={"pruned": 0.25})
    seen = {
        identity(run, "f")
        for run in (
            CONTROL,
            CONTROL.model_copy(update={"starts_from": None}),
            CONTROL.model_copy(update={"starts_from": other}),
            CONTROL.model_copy(update={"architecture": less}),
        )
    }
    assert len(seen) == 4


def test_a_trial_starts_where_the_run_would(data, store):
    run = STUDENTS["latent_be"]
    made = made_up_data()
    bench = TrialRunner(made, networks_in(store))
    record = bench.step(TrialStep(name="trial-0000", runs=(run,), after=0), Silent())
    do(run, data, store)
    first = load_network_record(store, "student").history[0]
    assert record["train/loss"] == pytest.approx(first["train/loss"], rel=1e-6)
    assert record["averaged/accuracy"] == first["averaged/accuracy"]


def test_the_loop_begins_with_the_weights_that_it_is_given(store):
    start = networks_in(store).starting_weights(CONTROL)
    made = made_up_data()
    loop = Loop(CONTROL, made, checkpoints_in(MemoryStore(), CONTROL), Silent(), Workers(), None, start)
    for name, value in loop.step.trainee.network.state_dict().items():
        assert torch.equal(value, start[name]), name
