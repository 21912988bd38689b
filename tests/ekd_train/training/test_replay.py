"""Workers that compare what they compute: training is the same, and a flipped bit is found and named."""

import socket

import pytest
from three_workers import Case, outcomes
from training_runs import label_run, same_tensors, student_run

from ekd_train.training.replay import suspects

OWN = student_run("latent_be", "tdiv_sdiv", epochs=2, accumulate=2)
"""Whose perturbation reads the running statistics, which are each worker's own."""
CASES = {
    "never": Case(OWN, 0),
    "every step": Case(OWN, 1),
    "synchronised, never": Case(label_run(epochs=2, batch_norm="synchronised"), 0),
    "synchronised, every other step": Case(label_run(epochs=2, batch_norm="synchronised"), 2),
    "weight": Case(OWN, 2, "a weight"),
    "gradients": Case(OWN, 2, "its gradients"),
    "once": Case(OWN, 2, "a gradient once"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return outcomes(CASES, tmp_path_factory.mktemp("three"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("often", "never"),
    [("every step", "never"), ("synchronised, every other step", "synchronised, never")],
)
def test_training_ends_with_the_same_bits_whether_or_not_it_is_verified(often, never, found):
    assert all(same_tensors(one, found[never][0]) for one in found[often])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "what", "who"),
    [
        ("weight", "weights", "worker 1 on {host}"),
        ("gradients", "gradients", "worker 1 on {host}"),
        ("once", "gradients", "worker 0 on {host} or worker 1 on {host}"),
    ],
)
def test_a_flipped_bit_is_found_at_the_next_comparison_and_its_worker_named(harm, what, who, found):
    (said,) = set(found[harm])
    named = who.format(host=socket.gethostname())
    assert said.startswith(f"student: before step 4 workers' {what} differ: {named} computes wrongly")
    assert "they agreed at step 2" in said
    assert "checkpoints/student" in said


def test_of_two_workers_that_differ_either_may_be_wrong():
    assert suspects("ab", own="xy", others="yx") == [0, 1]
    assert suspects("aa", own="xy", others="yX") == [0, 1]
    assert suspects("aa", own="xy", others="yx") == []
