import pytest
import torch
from training_runs import made_up_images, student_run

from ekd_train.data.augment import as_float
from ekd_train.data.description import ImageSpec
from ekd_train.distributed import Workers
from ekd_train.evaluation.evaluate import averaging_gap_warning, predict, validate
from ekd_train.models.build_network import averaged, build_network

IMAGES = made_up_images(11, seed=4)


def network(method: str = "latent_be") -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(student_run(method), ImageSpec(num_classes=3, image_shape=(1, 8, 8)))


def record(epoch: int, gap: float, **more: float) -> dict[str, float]:
    return {
        "epoch": epoch,
        "averaging_gap": gap,
        "members/accuracy": 0.9,
        "averaged/accuracy": 0.9 - gap,
    } | more


@pytest.mark.parametrize(("method", "members"), [("kd", 1), ("latent_be", 2), ("ekd", 2)])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 500])
def test_probabilities_do_not_depend_on_how_images_are_batched(method, members, batch_size):
    net = network(method)
    probs = predict(net, IMAGES.images, batch_size=batch_size)
    expected = net.eval()(as_float(IMAGES.images)).softmax(-1).reshape(members, 11, 3)
    torch.testing.assert_close(probs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_predicting_leaves_the_network_as_it_was(training):
    net = network().train(training)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    predict(net, IMAGES.images)
    assert all(module.training == training for module in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("method", ["kd", "latent_be", "ekd"])
def test_a_worker_without_images_predicts_none(method):
    class First(Workers):
        def concatenate(self, rows, total, dim=0):
            return rows

    probs = predict(network(method), IMAGES.images[:1], First(rank=0, size=3))
    assert probs.shape == (1 if method == "kd" else 2, 0, 3)


def test_validation_measures_the_average_and_the_members():
    net = network()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith((".r", ".s")):
                parameter += torch.randn_like(parameter)
    found = validate(net, IMAGES.images, IMAGES.labels)
    for name, probs in (
        ("averaged", predict(averaged(net), IMAGES.images)),
        ("members", predict(net, IMAGES.images)),
    ):
        right = (probs.mean(0).argmax(-1) == IMAGES.labels).float().mean()
        assert found[f"{name}/accuracy"] == pytest.approx(float(right))
    assert found["averaging_gap"] == pytest.approx(found["members/accuracy"] - found["averaged/accuracy"])
    assert found["factors/r_max"] > found["factors/r_min"]


def test_a_plain_network_is_its_own_average():
    found = validate(network("kd"), IMAGES.images, IMAGES.labels)
    assert {name.partition("/")[0] for name in found} == {"averaged"}


@pytest.mark.parametrize(
    ("gaps", "warns"),
    [
        ([], False),
        ([0.9], False),
        ([0.9, 0.01], False),
        ([0.01, 0.9], False),
        ([0.06, 0.06], True),
        ([0.05, 0.05], False),
        ([0.01, 0.06, 0.06], True),
        ([0.06, 0.06, 0.06], False),
        ([0.06, 0.06, 0.01, 0.06], False),
        ([0.06, 0.06, 0.01, 0.06, 0.06], True),
        ([-0.2, -0.2], False),
    ],
)
def test_an_open_averaging_gap_is_told_once_for_each_opening(gaps, warns):
    history = [record(epoch, gap) for epoch, gap in enumerate(gaps, start=1)]
    assert (averaging_gap_warning(history) is not None) == warns


def test_the_warning_says_how_far_and_what_to_change():
    spread = {"factors/r_min": -1.7, "factors/r_max": 1.5, "factors/s_min": 0.2, "factors/s_max": 2.4}
    told = averaging_gap_warning([record(1, 0.8, **spread), record(2, 0.8, **spread)])
    assert told is not None
    assert "after epoch 2 the members reach 90.0 % but their average 10.0 %" in told
    assert "lie in -1.70 to 2.40" in told
    assert "student.factors.learning_rate_multiplier" in told


def test_a_plain_networks_history_never_warns():
    plain = [{"epoch": float(epoch), "averaged/accuracy": 0.5} for epoch in (1, 2, 3)]
    assert averaging_gap_warning(plain) is None
