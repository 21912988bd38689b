"""The study's bookkeeping; what its cells train is the product's own code, tested elsewhere."""

import math
from statistics import mean, variance

import pytest
import torch
from torch import nn

from benchmarks.study.arms import ARMS
from benchmarks.study.cells import Cell
from benchmarks.study.choice import FIRST_SEED, Choice, choose
from benchmarks.study.regimes import REGIMES
from benchmarks.study.results import METRICS, ArmResult, chosen_by, difference, page
from benchmarks.study.weight_averages import uniform_average


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_valid_experiment_in_every_regime(arm):
    for regime in REGIMES:
        run = Cell(regime, arm, seed=3, temperature=2, strength=0.5).run()
        assert run.seed == 3
        teachers = {teacher.architecture.name for teacher in run.teachers}
        assert len(teachers) == (0 if arm == "control" else 2 if ARMS[arm].pool == "mixed" else 1)
        assert {teacher.seed for teacher in run.teachers} <= {0}


def test_students_of_all_seeds_learn_from_the_same_teachers():
    first, second = (Cell("digits", "latent_be+tdiv_sdiv", seed, 4, 1).run() for seed in (0, 1))
    assert first.teachers == second.teachers
    assert first.name != second.name


def test_the_rate_is_chosen_first_then_temperature_and_strength_on_seeds_of_their_own():
    asked = []
    seeds = {"rate": 3, "temperature": 2, "strength": 1}

    def run_all(cells):
        asked.append({(cell.arm, cell.temperature, cell.strength, cell.rate) for cell in cells})
        assert all(cell.seed >= FIRST_SEED and not cell.final for cell in cells)
        return {
            cell: {
                "best": {
                    "averaged/accuracy": (cell.temperature == 2) + 0.1 * (cell.rate < 1) * (cell.arm != "kd"),
                    "averaged/nll": abs(cell.strength - 0.5) + (cell.rate < 1),
                }
            }
            for cell in cells
        }

    arms = [ARMS[name] for name in ("control", "kd", "kd-swa", "latent_be+tdiv_sdiv")]
    chosen = choose("digits", arms, seeds, run_all)
    assert chosen == {
        "control": Choice(rate=0.4),
        "kd": Choice(temperature=2),
        "latent_be+tdiv_sdiv": Choice(temperature=2, strength=0.5, rate=0.4),
    }
    rates, temperatures, strengths = asked
    assert rates == {(name, 4, 1, rate) for name in chosen for rate in (0.4, 1)}
    assert temperatures == {
        (name, temperature, 1, rate)
        for name, rate in (("kd", 1), ("latent_be+tdiv_sdiv", 0.4))
        for temperature in (1, 2, 4, 8)
    }
    assert strengths == {("latent_be+tdiv_sdiv", 2, strength, 0.4) for strength in (0.5, 1, 2, 4)}


def test_where_losses_of_branches_add_up_lower_rates_are_tried():
    tried = set()

    def run_all(cells):
        tried.update((cell.arm, cell.rate) for cell in cells)
        return {cell: {"best": {"averaged/accuracy": 0.5, "averaged/nll": 1.0}} for cell in cells}

    seeds = {"rate": 1, "temperature": 0, "strength": 0}
    choose("digits", [ARMS["ekd-mixed"], ARMS["latent_be"]], seeds, run_all)
    assert tried == {("ekd-mixed", 0.08), ("ekd-mixed", 0.2), ("latent_be", 0.4), ("latent_be", 1.0)}


def test_what_has_no_seeds_to_be_chosen_with_stays_as_it_is():
    def run_all(cells):
        assert cells == []
        return {}

    seeds = {"rate": 0, "temperature": 0, "strength": 0}
    assert choose("digits", [ARMS["latent_be+tdiv"]], seeds, run_all) == {"latent_be+tdiv": Choice()}


def test_a_rate_is_a_share_of_the_regimes_and_of_nothing_else():
    whole, half = (Cell("digits", "latent_be", 0, 4, 1, rate).run() for rate in (1, 0.5))
    assert half.training.learning_rate == whole.training.learning_rate / 2
    assert half.teachers == whole.teachers
    assert half.name != whole.name


def test_a_difference_has_welchs_interval():
    ours, theirs = [0.97, 0.95, 0.96], [0.90, 0.94, 0.93, 0.91]
    middle, low, high = difference(ours, theirs)
    a, b = variance(ours) / len(ours), variance(theirs) / len(theirs)
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    from scipy.stats import t

    half = t.ppf(0.975, freedom) * math.sqrt(a + b)
    assert middle == pytest.approx(mean(ours) - mean(theirs))
    assert (low, high) == pytest.approx((middle - half, middle + half))
    assert difference(ours, theirs[:1]) is None


def test_the_page_says_nothing_of_what_was_not_measured():
    def seed(accuracy, **more):
        test = {"accuracy": accuracy, "nll": 0.2, "cnll": 0.2, "ece": 0.01, "cece": 0.01}
        return {"averaged": {"test": test, "validation": test}, **more}

    arms = [
        ArmResult("control", None, None, 0.4, [seed(0.90), seed(0.92)]),
        ArmResult("kd-uniform-average", 4.0, None, 1.0, [seed(0.10)]),
    ]
    pool = {"teachers": [seed(0.9)["averaged"]], "ensemble": seed(0.95)["averaged"]}
    text = page(
        "digits", "Because", {"same": pool}, arms, command="python -m x", chosen="those of the papers"
    )
    assert "| control | – | – | 0.4 | 91.00 ± 1.41 |" in text
    assert "| 90.0, 92.0 |" in text
    assert "| kd-uniform-average | 4 | – | 1 | 10.00 |" in text
    assert "| kd-uniform-average | – | – | – | – |" in text  # one seed: no interval
    assert "nan" not in text


def test_what_students_saw_is_shown_where_every_seed_has_told_it():
    told = {"train/teachers_diversity/pairwise_kl": 0.25, "train/teachers_diversity/agreement": 0.5}
    one, other = ({"averaged": {"test": dict.fromkeys(METRICS, value)}} for value in (0.5, 0.6))
    pool = {"teachers": [one["averaged"]], "ensemble": one["averaged"]}
    arms = [
        ArmResult("kd", 4.0, None, 1.0, [{**one, "best": told}, {**other, "best": told}]),
        ArmResult("kd+tdiv", 4.0, 1.0, 1.0, [{**one, "best": told}, other]),
    ]
    text = page("digits", "Because", {"same": pool}, arms, command="python -m x", chosen=chosen_by(None))
    assert "| kd | 0.2500 ± 0.0000 | 0.5000 ± 0.0000 | – | – |" in text
    assert "| kd+tdiv | 0.25" not in text


def test_a_uniform_average_has_the_mean_weights_and_statistics_of_its_own():
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)) for _ in range(3)]
    images = torch.randint(0, 256, (40, 1, 5, 5), dtype=torch.uint8)
    average = uniform_average(networks, images)
    weights = torch.stack([network[0].weight for network in networks]).mean(0)
    torch.testing.assert_close(average[0].weight, weights)
    seen = average[0](images / 255)
    torch.testing.assert_close(average[1].running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert not any(module.training for module in average.modules())
