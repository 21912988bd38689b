"""The study's bookkeeping; what its cells train is the product's own code, tested elsewhere."""

import math
from statistics import mean, variance

import pytest
import torch
from torch import nn

from benchmarks.study.arms import ARMS
from benchmarks.study.cells import Cell
from benchmarks.study.choice import FIRST_SEED, choose
from benchmarks.study.regimes import REGIMES
from benchmarks.study.results import METRICS, ArmResult, difference, page
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


def test_temperature_is_chosen_first_and_then_strength_on_seeds_of_their_own():
    asked = []

    def run_all(cells):
        asked.append(cells)
        assert all(cell.seed >= FIRST_SEED and not cell.final for cell in cells)
        score = {2.0: 0.9}.get
        return {
            cell: {
                "best": {
                    "averaged/accuracy": score(cell.temperature, 0.5),
                    "averaged/nll": abs(cell.strength - 0.5),
                }
            }
            for cell in cells
        }

    arms = [ARMS[name] for name in ("control", "kd", "kd-swa", "latent_be+tdiv_sdiv")]
    chosen = choose("digits", arms, 2, run_all)
    assert chosen == {"kd": (2.0, 1.0), "latent_be+tdiv_sdiv": (2.0, 0.5)}
    temperatures, strengths = asked
    assert {cell.strength for cell in temperatures} == {1.0}
    assert {(cell.arm, cell.temperature) for cell in strengths} == {("latent_be+tdiv_sdiv", 2.0)}


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
        ArmResult("control", None, None, [seed(0.90), seed(0.92)]),
        ArmResult("kd-uniform-average", 4.0, None, [seed(0.10)]),
    ]
    pool = {"teachers": [seed(0.9)["averaged"]], "ensemble": seed(0.95)["averaged"]}
    text = page("digits", "Because", {"same": pool}, arms, command="python -m x", untuned=True)
    assert "| control | – | – | 91.00 ± 1.41 |" in text
    assert "| kd-uniform-average | 4 | – | 10.00 |" in text
    assert "| kd-uniform-average | – | – | – | – |" in text  # one seed: no interval
    assert "nan" not in text


def test_what_students_saw_is_shown_where_every_seed_has_told_it():
    told = {"train/teachers_diversity/pairwise_kl": 0.25, "train/teachers_diversity/agreement": 0.5}
    one, other = ({"averaged": {"test": dict.fromkeys(METRICS, value)}} for value in (0.5, 0.6))
    pool = {"teachers": [one["averaged"]], "ensemble": one["averaged"]}
    arms = [
        ArmResult("kd", 4.0, None, [{**one, "best": told}, {**other, "best": told}]),
        ArmResult("kd+tdiv", 4.0, 1.0, [{**one, "best": told}, other]),
    ]
    text = page("digits", "Because", {"same": pool}, arms, command="python -m x", untuned=False)
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
