import pytest
import torch

from ekd_train import metrics
from ekd_train.evaluation.bootstrap import CALIBRATED, METRICS, Bootstrap, BootstrapOfMeans

TEMPERATURES = {"sharp": 0.7, "blunt": 1.6}


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (300,), generator=generator)
    sharp = torch.randn(300, 5, generator=generator)
    sharp[torch.arange(300), labels] += 1.5
    blunt = sharp + torch.randn(300, 5, generator=generator)
    return {"sharp": sharp.softmax(-1), "blunt": blunt.softmax(-1)}, labels


def test_the_value_is_that_of_the_metrics(predictions):
    probs, labels = predictions
    boot = Bootstrap(probs, labels, resamples=10)
    for name in METRICS:
        assert boot.of("sharp", name).value == pytest.approx(getattr(metrics, name)(probs["sharp"], labels))


def test_a_resample_is_measured_as_the_metrics_measure_the_drawn_images(predictions):
    """The oracle draws the same images and calls the metrics on them."""
    probs, labels = predictions
    boot = Bootstrap(probs, labels, resamples=50, seed=3)
    drawn = torch.randint(300, (50, 300), generator=torch.Generator().manual_seed(3))
    for name in METRICS:
        metric = getattr(metrics, name)
        differences = torch.tensor(
            [metric(probs["sharp"][d], labels[d]) - metric(probs["blunt"][d], labels[d]) for d in drawn],
            dtype=torch.float64,
        )
        if name == "ece":  # a resample has more noise, which adds to it: down by the mean excess
            own = metric(probs["sharp"], labels) - metric(probs["blunt"], labels)
            differences -= differences.mean() - own
        low, high = torch.quantile(differences, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        interval = boot.difference("sharp", "blunt", name)
        if name == "ece":  # what both have by chance is tested below
            low, high = low + interval.value - own, high + interval.value - own
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)


def test_calibrated_metrics_are_those_at_the_given_temperature_in_every_resample(predictions):
    """The oracle scales the probabilities first, and then draws."""
    probs, labels = predictions
    boot = Bootstrap(probs, labels, TEMPERATURES, resamples=50, seed=3)
    scaled = {name: metrics.apply_temperature(p, TEMPERATURES[name]) for name, p in probs.items()}
    plain = Bootstrap(scaled, labels, resamples=50, seed=3)
    for name, after in zip(CALIBRATED, ("nll", "ece"), strict=True):
        assert boot.of("blunt", name) == plain.of("blunt", after)
        assert boot.difference("sharp", "blunt", name) == plain.difference("sharp", "blunt", after)
        known = metrics.all_metrics(probs["sharp"], labels, TEMPERATURES["sharp"])[name]
        assert boot.of("sharp", name).value == pytest.approx(known)
    for name in METRICS:
        untouched = Bootstrap(probs, labels, resamples=50, seed=3)
        assert boot.of("blunt", name).low == pytest.approx(untouched.of("blunt", name).low)


def test_the_interval_of_an_accuracy_is_about_the_binomial_one(predictions):
    probs, labels = predictions
    interval = Bootstrap(probs, labels).of("sharp", "accuracy")
    half = 1.96 * (interval.value * (1 - interval.value) / 300) ** 0.5
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_equal_predictors_differ_by_exactly_nothing(predictions):
    probs, labels = predictions
    boot = Bootstrap({"a": probs["sharp"], "b": probs["sharp"]}, labels, resamples=50)
    interval = boot.difference("a", "b", "nll")
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)
    assert not interval.excludes_zero


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(predictions):
    probs, labels = predictions
    first, again, other = (
        Bootstrap(probs, labels, resamples=100, seed=s).of("sharp", "nll") for s in (0, 0, 1)
    )
    assert first == again != other


def test_memory_bounds_do_not_change_the_result(predictions, monkeypatch):
    probs, labels = predictions
    whole = Bootstrap(probs, labels, resamples=100).of("blunt", "ece")
    monkeypatch.setattr("ekd_train.evaluation.bootstrap.COUNTS_AT_ONCE", 7 * 300)
    assert Bootstrap(probs, labels, resamples=100).of("blunt", "ece").low == pytest.approx(whole.low)


def test_means_over_the_images_have_the_intervals_of_the_metrics_that_are_such_means(predictions):
    probs, labels = predictions
    means = BootstrapOfMeans(
        {n: metrics.per_image(p, labels) for n, p in probs.items()}, resamples=50, seed=3
    )
    boot = Bootstrap(probs, labels, resamples=50, seed=3)
    for metric in ("accuracy", "nll"):
        for found, known in (
            (means.of("blunt", metric), boot.of("blunt", metric)),
            (means.difference("sharp", "blunt", metric), boot.difference("sharp", "blunt", metric)),
        ):
            assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high))


def calibrated(images, seed):
    """Of the same labels a predictor that is sure and one whose confidences are spread, both right about
    themselves."""
    generator = torch.Generator().manual_seed(seed)
    blunt = (1.5 * torch.randn(images, 10, generator=generator, dtype=torch.float64)).softmax(-1)
    labels = torch.multinomial(blunt, 1, generator=generator)[:, 0]
    confidence = 0.9 + 0.1 * torch.rand(images, generator=generator, dtype=torch.float64)
    right = torch.rand(images, generator=generator, dtype=torch.float64) < confidence
    said = (labels + torch.where(right, 0, torch.randint(1, 10, (images,), generator=generator))) % 10
    sharp = ((1 - confidence) / 9).unsqueeze(1).repeat(1, 10)
    sharp[torch.arange(images), said] = confidence
    return {"sharp": sharp, "blunt": blunt}, labels


@pytest.mark.parametrize("images", [300, 1000])
def test_of_two_calibrated_predictors_the_surer_is_not_said_to_be_calibrated_better(images):
    found, values = 0, []
    for seed in range(100):
        boot = Bootstrap(*calibrated(images, seed), resamples=100, seed=seed)
        interval = boot.difference("sharp", "blunt", "ece")
        found += interval.excludes_zero
        values.append(interval.value)
    assert found <= 10
    values = torch.tensor(values)
    assert values.mean().abs() < 3 * values.std() / 10  # nor is it on the average


@pytest.mark.parametrize("images", [300, 1000])
def test_a_predictor_that_is_too_sure_of_itself_is_still_found(images):
    for seed in range(10):
        probs, labels = calibrated(images, seed)
        probs["bent"] = metrics.apply_temperature(probs["blunt"], 0.5)
        interval = Bootstrap(probs, labels, resamples=200).difference("bent", "blunt", "ece")
        assert interval.low > 0, seed


def test_what_a_difference_of_ece_leaves_out_is_what_labels_drawn_from_the_predictions_show(predictions):
    """The oracle draws labels of each predictor's own, a thousand times, and calls the metric."""
    probs, labels = predictions
    boot = Bootstrap(probs, labels, TEMPERATURES, resamples=10)
    generator = torch.Generator().manual_seed(0)
    for name, after in (("ece", dict.fromkeys(probs, 1.0)), ("cece", TEMPERATURES)):
        own = {}
        for predictor, p in probs.items():
            scaled = metrics.apply_temperature(p, after[predictor])
            drawn = torch.multinomial(scaled.double(), 1000, replacement=True, generator=generator)
            chance = sum(metrics.ece(scaled, column) for column in drawn.T) / 1000
            own[predictor] = metrics.ece(scaled, labels) - chance
        expected = own["sharp"] - own["blunt"]
        assert boot.difference("sharp", "blunt", name).value == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("images", [200, 2000])
def test_the_interval_of_a_calibrated_predictors_ece_holds_its_own_value(images):
    """Labels are drawn from the probabilities themselves, twenty times."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        probs = (2 * torch.randn(images, 10, generator=generator)).softmax(-1)
        labels = torch.multinomial(probs, 1, generator=generator)[:, 0]
        interval = Bootstrap({"one": probs}, labels, resamples=200, seed=seed).of("one", "ece")
        assert interval.value == pytest.approx(metrics.ece(probs, labels))
        assert interval.low < interval.value < interval.high, seed


def test_temperatures_for_some_predictors_only_are_refused(predictions):
    probs, labels = predictions
    with pytest.raises(ValueError, match="all predictors or none; see blunt"):
        Bootstrap(probs, labels, {"sharp": 0.7}, resamples=10)
