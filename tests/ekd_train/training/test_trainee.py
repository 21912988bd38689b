import pytest
import torch
from training_runs import label_run, made_up_data, student_run, untrained_teachers, with_training

from ekd_train.data.description import ImageSpec
from ekd_train.models.batch_ensemble import BatchEnsemble
from ekd_train.models.branches import Branched
from ekd_train.models.build_network import averaged, build_network, member_logits
from ekd_train.objectives import build_objective
from ekd_train.settings import Distillation
from ekd_train.training.trainee import build_trainee

SPEC = ImageSpec(num_classes=3, image_shape=(1, 8, 8))


def build(run) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(run, SPEC)


@pytest.mark.parametrize(
    ("method", "kind"), [("latent_be", BatchEnsemble), ("batch_ensemble", BatchEnsemble), ("ekd", Branched)]
)
def test_a_students_method_decides_its_subnetworks(method, kind):
    network = build(student_run(method))
    assert isinstance(network, kind)
    assert network.num_members == 2


@pytest.mark.parametrize("run", [label_run(), student_run("kd")])
def test_a_plain_network_has_one_member(run):
    assert member_logits(build(run), torch.rand(4, 1, 8, 8)).shape == (1, 4, 3)


@pytest.mark.parametrize("method", ["kd", "latent_be", "batch_ensemble", "ekd"])
@pytest.mark.parametrize("batch_norm", ["per_worker", "synchronised"])
def test_every_student_averages_to_the_controls_architecture(method, batch_norm):
    student = averaged(build(with_training(student_run(method), batch_norm=batch_norm)))
    control = build(label_run())
    assert {k: v.shape for k, v in student.state_dict().items()} == {
        k: v.shape for k, v in control.state_dict().items()
    }
    assert {type(part) for part in student.modules()} == {type(part) for part in control.modules()}


def test_the_control_and_the_student_start_from_draws_of_their_own_seed():
    first, again = build(label_run()), build(label_run())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_the_feature_term_needs_branches():
    objective = build_objective("ekd", Distillation.model_validate({"ekd": {"feature": 1.0}}))
    data = made_up_data()
    with pytest.raises(ValueError, match=r"needs student\.method=ekd and teachers"):
        build_trainee(
            build(student_run("latent_be")), objective, untrained_teachers(data), torch.rand(2, 1, 8, 8)
        )
    with pytest.raises(ValueError, match=r"needs student\.method=ekd and teachers"):
        build_trainee(build(student_run("ekd")), objective, None, torch.rand(2, 1, 8, 8))


def test_one_forward_gives_all_that_a_step_asks_for():
    objective = build_objective("ekd", Distillation.model_validate({"ekd": {"feature": 1.0}}))
    data = made_up_data()
    images = torch.rand(4, 1, 8, 8)
    trainee = build_trainee(build(student_run("ekd")), objective, untrained_teachers(data), images)
    theirs = [torch.rand(4, 8, 2, 2) for _ in range(2)]
    logits, clean, ours, compared = trainee.eval()(images, images, theirs)
    torch.testing.assert_close(logits, clean)
    assert ours is not None
    assert compared is not None
    assert [f.shape for f in ours] == [f.shape for f in compared]
    assert trainee(images)[1:] == (None, None, None)
