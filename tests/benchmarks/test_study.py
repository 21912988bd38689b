"""The study's bookkeeping; what its cells train is the product's own code, tested elsewhere."""

import json
import math
from pathlib import Path
from statistics import mean, variance
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.study.__main__ import main
from benchmarks.study.arms import ARMS, KINDS
from benchmarks.study.cells import Cell, Teacher, _measure, run_cell, train_teacher
from benchmarks.study.choice import TRIALS, Choice, ChoiceFailed, chosen, domains, tune
from benchmarks.study.figures import draw_arms, draw_members
from benchmarks.study.records import faults, write
from benchmarks.study.regimes import REGIMES, Regime
from benchmarks.study.results import (
    ArmResult,
    chosen_by,
    difference,
    holm,
    over_images,
    packed,
    page,
    unpacked,
)
from benchmarks.study.together import Compared, draw_regimes, overview
from benchmarks.study.weight_averages import uniform_average
from orchestrator.experiment.schema import load_experiment


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_valid_experiment_in_every_regime(arm):
    for regime in REGIMES:
        run = Cell(regime, arm, 3, Choice(temperature=2, strength=0.5)).run()
        assert run.seed == 3
        teachers = {teacher.architecture.name for teacher in run.teachers}
        assert len(teachers) == (0 if arm in ("control", "papa") else 2 if ARMS[arm].pool == "mixed" else 1)
        assert {teacher.seed for teacher in run.teachers} <= {0}
        other = Cell(regime, arm, 3, Choice(temperature=2, strength=0.5), teacher_set=1).run()
        assert {teacher.seed for teacher in other.teachers} == ({1} if run.teachers else set())
        assert (other.name, other.seed) == (run.name, run.seed)


def test_batch_ensemble_is_as_published_and_not_latent_be_by_another_name():
    published = load_experiment("cifar100_conf_ods")
    for kind in KINDS:
        arm = f"batch_ensemble+{kind}" if kind != "none" else "batch_ensemble"
        run = Cell("digits", arm, 0, Choice()).run()
        assert run.student.factors == published.student.factors
        assert run.student.select_by == published.student.select_by
        assert run.distillation.alpha == published.distillation.alpha


def test_students_of_all_seeds_learn_from_the_same_teachers():
    first, second = (Cell("digits", "latent_be+tdiv_sdiv", seed, Choice()).run() for seed in (0, 1))
    assert first.teachers == second.teachers
    assert first.name != second.name


@pytest.mark.parametrize("arm", [arm for arm in ARMS.values() if not arm.has_kds_settings])
def test_every_arm_has_a_space_of_what_it_has_with_enough_points_for_as_many_trials(arm):
    space = domains(arm, rate=0.05)
    perturbed = ["strength"] if "+" in arm.name else []
    distilled = ["temperature"] if arm.distils else []
    assert [key.rpartition(".")[2] for key in space] == ["learning_rate", *distilled, *perturbed]
    assert math.prod(len(domain["choice"]) for domain in space.values()) >= TRIALS


def test_a_rate_is_a_share_of_the_regimes_and_of_nothing_else():
    whole, half = (Cell("digits", "latent_be", 0, Choice(rate=rate)).run() for rate in (1, 0.5))
    assert half.training.learning_rate == whole.training.learning_rate / 2
    assert half.teachers == whole.teachers
    assert half.name != whole.name


TINY = Regime(
    "digits",
    tuple(
        f"{who}.training={{epochs: 2, batch_size: 64, learning_rate: 0.03, speed: {{precision: float32}}}}"
        for who in ("teachers", "student")
    ),
)


@pytest.mark.slow
@pytest.mark.by_hand
def test_what_ekd_tune_finds_best_is_chosen_and_not_searched_for_again(tmp_path, monkeypatch):
    monkeypatch.setitem(REGIMES, "tiny", TINY)
    found = tune("tiny", ARMS["kd"], 1, tmp_path)
    (ledger,) = (tmp_path / "tune" / "tiny").glob("kd-*/trials")
    trials = [json.loads(file.read_text()) for file in ledger.glob("*/trial.json")]
    tried = [chosen(trial["values"], 0.03) for trial in trials]
    assert {(one.temperature, one.rate) for one in tried} == {(t, r) for t in (1, 2, 4, 8) for r in (0.5, 1)}
    last = {one: trial["history"][-1]["score"] for one, trial in zip(tried, trials, strict=True)}
    assert last[found] == max(last.values())
    for file in ledger.glob("*/trial.json"):
        file.unlink()
    assert tune("tiny", ARMS["kd"], 1, tmp_path) == found


@pytest.mark.slow
def test_a_search_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setitem(REGIMES, "broken", Regime("digits", ("data.root=/nowhere", "data.name=cifar10")))
    with pytest.raises(ChoiceFailed, match=r"(?s)kd: ekd tune ended with 2: .*does not exist"):
        tune("broken", ARMS["kd"], 1, tmp_path)


def test_a_difference_is_of_pairs_and_has_students_interval():
    ours = {(0, 0): 0.97, (0, 1): 0.95, (1, 0): 0.96, (1, 1): 0.5}
    theirs = {(0, 0): 0.90, (1, 0): 0.93, (0, 1): 0.94}
    differences = [0.07, 0.01, 0.03]
    from scipy.stats import t

    half = t.ppf(0.975, 2) * math.sqrt(variance(differences) / 3)
    middle, low, high = difference(ours, theirs)
    assert middle == pytest.approx(mean(differences))
    assert (low, high) == pytest.approx((middle - half, middle + half))
    assert difference(ours, {(0, 0): 0.9}) is None


def test_over_images_the_interval_is_of_the_shares_of_cells_that_recognise_each():
    ours = result("kd", [{"right": packed([1, 1, 0, 1])}, {"right": packed([1, 0, 0, 1])}])
    theirs = result("control", [{"right": packed([0, 1, 0, 1])}, {"right": packed([0, 1, 0, 1])}])
    differences = [1, -0.5, 0, 0]
    from scipy.stats import t

    half = t.ppf(0.975, 3) * math.sqrt(variance(differences) / 4)
    middle = mean(differences)
    assert over_images(ours, theirs) == pytest.approx((middle, middle - half, middle + half))


def test_over_images_a_cell_without_a_counterpart_does_not_count():
    """As it does not over cells: both columns of a table are of one mean."""
    rights = {(0, 0): [1, 1, 0, 1], (0, 1): [0, 0, 0, 0], (1, 0): [1, 1, 1, 0]}
    ours = ArmResult(ARMS["kd"], Choice(), [{"right": packed(r)} for r in rights.values()], list(rights))
    theirs = ArmResult(
        ARMS["control"],
        Choice(),
        [{"right": packed([0, 0, 0, 1])}, {"right": packed([0, 1, 0, 0])}, {"right": packed([1, 1, 1, 1])}],
        [(1, 0), (0, 0), (2, 0)],
    )
    by_pair = {pair: mean(right) for pair, right in rights.items()}
    over_cells = difference(by_pair, {(1, 0): 0.25, (0, 0): 0.25})
    assert over_images(ours, theirs)[0] == pytest.approx(over_cells[0]) == pytest.approx(0.5)


def test_holms_p_is_that_of_the_textbook():
    # Holm 1979: the smallest times n, the next times n - 1, never below the one before.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_truth_values_come_back_as_they_were_whatever_their_number():
    for number in (1, 7, 8, 9, 1000):
        right = [index % 3 == 0 for index in range(number)]
        assert unpacked(packed(right)) == right
        assert len(packed(right)) < number / 5 + 15


def one_seed(accuracy, **more):
    test = {"accuracy": accuracy, "nll": 1 - accuracy, "cnll": 0.2, "ece": 0.01, "cece": 0.01}
    right = packed([index < 100 * accuracy for index in range(100)])
    return {"averaged": {"test": test, "validation": test}, "right": right, **more}


def result(name, cells, choice=None):
    """An arm's cells, all with the first set of teachers."""
    return ArmResult(ARMS[name], choice or Choice(), cells, [(0, seed) for seed in range(len(cells))])


def test_figures_show_every_arm_and_write_the_failed_ones_at_the_edge(tmp_path):
    members = {"members": one_seed(0.93)["averaged"], "diversity": {"agreement": 0.9, "pairwise_kl": 0.1}}
    arms = [
        result("control", [one_seed(0.90), one_seed(0.91)]),
        result("kd", [one_seed(0.92), one_seed(0.92)]),
        result("kd+tdiv", [one_seed(0.93), one_seed(0.92)]),
        result("kd-uniform-average", [one_seed(0.10)]),
        result("latent_be", [one_seed(0.92, **members), one_seed(0.93, **members)]),
    ]
    pool = {"teachers": [one_seed(0.9)["averaged"]], "ensemble": one_seed(0.95)["averaged"]}
    draw_arms(tmp_path / "arms.svg", "digits", {"same": [pool]}, arms)
    text = (tmp_path / "arms.svg").read_text()
    assert all(f">{arm.name}<" in text for arm in arms)
    assert ">← 10<" in text
    draw_members(tmp_path / "members.svg", "digits", arms)
    text = (tmp_path / "members.svg").read_text()
    assert ">latent_be<" in text
    assert ">control<" not in text


def test_an_arm_that_is_published_as_an_ensemble_of_members_is_compared_as_one_and_says_so(tmp_path):
    members = {"members": one_seed(0.93)["averaged"], "diversity": {"agreement": 0.9, "pairwise_kl": 0.1}}
    arms = [
        result("control", [one_seed(0.90), one_seed(0.90)]),
        result("batch_ensemble", [one_seed(0.20, **members), one_seed(0.21, **members)]),
    ]
    pool = {"teachers": [one_seed(0.9)["averaged"]], "ensemble": one_seed(0.95)["averaged"]}
    text = page("digits", "of few images", {"same": [pool]}, arms, command="study", chosen="of the papers")
    assert "| batch_ensemble (members) | 4 | – | 1 | 93.00 ± 0.00 |" in text
    assert "Rows marked (members) are not" in text
    assert "| batch_ensemble | 93.00 ± 0.00 | 20.50 ± 0.71 | 72.50 ± 0.71 |" in text
    draw_arms(tmp_path / "arms.svg", "digits", {"same": [pool]}, arms)
    draw_members(tmp_path / "members.svg", "digits", arms)


def test_regimes_are_compared_by_what_each_arm_gains_over_the_control(tmp_path):
    def compared(regime, *accuracies):
        pool = {
            "teachers": [one_seed(a)["averaged"] for a in (0.88, 0.90)],
            "ensemble": one_seed(0.95)["averaged"],
        }
        arms = [
            result(name, [one_seed(a) for a in seeds])
            for name, seeds in zip(("control", "kd"), accuracies, strict=True)
        ]
        return Compared(regime, {"same": [pool]}, arms)

    regimes = [
        compared("fashion_mnist-5", (0.90, 0.91, 0.90), (0.94, 0.95, 0.95)),
        compared("fashion_mnist-100", (0.90,), (0.94,)),
    ]
    text = overview(regimes, command="python -m benchmarks.study", chosen="of the papers", picture="t.svg")
    assert "| fashion_mnist-5 | +6.00 | 90.33 ± 0.58 | 94.67 ± 0.58 | 95.00 |" in text
    assert "| fashion_mnist-5 | **+4.33 [+2.90, +5.77]** |" in text
    assert "| fashion_mnist-100 | – |" in text  # one seed: no interval, nothing to believe
    draw_regimes(tmp_path / "t.svg", regimes)
    drawn = (tmp_path / "t.svg").read_text()
    assert all(f">{name}<" in drawn for name in ("fashion_mnist-5", "fashion_mnist-100", "kd", "ensemble"))
    assert ">control<" not in drawn


def test_however_many_arms_a_regime_keeps_to_its_place_in_the_figure(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(Axes, "errorbar", lambda self, x, y, **options: drawn.append((x, options)))
    members = {"members": one_seed(0.9)["averaged"]}
    arms = [result(name, [one_seed(0.9, **members), one_seed(0.91, **members)]) for name in ARMS]
    pool = {"teachers": [one_seed(0.9)["averaged"]], "ensemble": one_seed(0.95)["averaged"]}
    draw_regimes(
        tmp_path / "t.svg", [Compared(name, {"same": [pool]}, arms) for name in ("digits", "fashion_mnist-5")]
    )
    assert max(x[0] for x, _ in drawn) < 0.5 < min(x[1] for x, _ in drawn)
    looks = [(index % 10, options["fmt"]) for index, (_, options) in enumerate(drawn[: len(arms) - 1])]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["digits", "fashion_mnist-5"], "several regimes need --page"),
        (["nonsense"], "there is no nonsense"),
        ([], "REGIME"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_trained(words, says, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["study", *words])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    assert says in capsys.readouterr().err


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_cell_is_trained_once_and_again_after_its_settings_changed(tmp_path, monkeypatch):
    monkeypatch.setitem(REGIMES, "tiny", TINY)
    for index in range(4):
        train_teacher(Teacher("tiny", "same", index), tmp_path)
    cell = Cell("tiny", "latent_be", 0, Choice())
    first = run_cell(cell, tmp_path)
    assert first["members"].keys() == first["averaged"].keys() == {"validation", "test"}
    assert first["diversity"].keys() >= {"agreement", "pairwise_kl"}
    assert first["averages"]["mean"]["test"] == first["averaged"]["test"]
    assert first["averages"].keys() == {"mean", "greedy soup", "weights", "statistics anew"}
    (kept,) = (tmp_path / "tiny" / "same-0" / "results" / "final").iterdir()
    written = kept.stat().st_mtime_ns
    assert run_cell(cell, tmp_path) == first
    assert kept.stat().st_mtime_ns == written
    changed = Regime("digits", (*TINY.overrides, "student.training.epochs=3"))
    monkeypatch.setitem(REGIMES, "tiny", changed)
    run_cell(cell, tmp_path)
    assert kept.stat().st_mtime_ns > written
    unseen = run_cell(Cell("tiny", "kd", 0, Choice(), final=False), tmp_path)
    assert unseen.keys() == {"best"}  # and nothing of the test images


def test_the_page_says_nothing_of_what_was_not_measured():
    arms = [
        result("control", [one_seed(0.90), one_seed(0.92)], Choice(rate=0.4)),
        result("kd-uniform-average", [one_seed(0.10)], Choice(strength=2)),
    ]
    pool = {"teachers": [one_seed(0.9)["averaged"]], "ensemble": one_seed(0.95)["averaged"]}
    text = page(
        "digits", "Because", {"same": [pool]}, arms, command="python -m x", chosen="those of the papers"
    )
    assert "| control | – | – | 0.4 | 91.00 ± 1.41 |" in text
    assert "| 90.0 |\n| kd-uniform-average | 4 | – | 1 | 10.00 |" in text
    assert "| kd-uniform-average | – | – | – | – |" in text  # one seed: no interval
    assert "| control | – | – | – | -4.00 [-16.71, +8.71] |" in text  # t(0.975, 1) = 12.706 times 1 point
    assert "nan" not in text
    assert [line for line in text.splitlines() if " of | − control" in line and "ECE" in line] == []


def test_a_page_is_made_again_from_its_record_and_one_that_was_changed_is_found(tmp_path, monkeypatch):
    members = {"members": one_seed(0.93)["averaged"], "diversity": {"agreement": 0.9, "pairwise_kl": 0.1}}
    told = {"train/teachers_diversity/pairwise_kl": 0.25, "train/teachers_diversity/agreement": 0.5}
    pool = {"teachers": [one_seed(0.9)["averaged"]], "ensemble": one_seed(1 / 3)["averaged"]}
    arms = [
        result("control", [one_seed(0.90), one_seed(0.91)]),
        result("latent_be", [one_seed(0.92, best=told, **members), one_seed(0.95, best=told, **members)]),
    ]
    compared = Compared("digits", {"same": [pool]}, arms)
    told = {"command": "python -m x", "chosen": chosen_by(None)}
    made = write(tmp_path, "digits", compared, because="Few", pictures="![it](digits.svg)", **told)
    text = page("digits", "Few", compared.pools, arms, **told)
    assert made.replace("![it](digits.svg)\n\n", "") == text
    assert faults(tmp_path) == []
    (tmp_path / "digits.md").write_text(made.replace("93.50 ± 2.12", "94.50 ± 2.12"))
    assert faults(tmp_path) == [f"{tmp_path}/digits.md is not what records/digits.json makes"]
    monkeypatch.setattr("sys.argv", ["study", "check", str(tmp_path)])
    assert main() == 1


@pytest.mark.parametrize("folder", ["results", "results/records", "elsewhere"])
def test_a_folder_without_a_record_is_not_said_to_be_right(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "results" / "records").mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["study", "check", str(tmp_path / folder)])
    assert main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"there is no record in {tmp_path / folder}/records: nothing was checked"


def test_an_accuracy_that_its_own_images_belie_is_found_though_the_page_shows_it(tmp_path):
    """The record and the page agree with each other; the bits say another number."""
    members = {"members": one_seed(0.93)["averaged"], "diversity": {"agreement": 0.9, "pairwise_kl": 0.1}}
    as_members = {**one_seed(0.2, **members), "right": one_seed(0.93)["right"]}
    arms = [
        result("control", [one_seed(0.90), one_seed(0.91) | {"right": one_seed(0.92)["right"]}]),
        result("batch_ensemble", [as_members, as_members]),  # which is compared by its members
    ]
    pool = {"teachers": [one_seed(0.9)["averaged"]], "ensemble": one_seed(0.95)["averaged"]}
    told = {"because": "Few", "command": "python -m x", "chosen": chosen_by(None), "pictures": ""}
    write(tmp_path, "digits", Compared("digits", {"same": [pool]}, arms), **told)
    (line,) = faults(tmp_path)
    assert line.endswith(
        "digits.json: control, set 0, seed 1: its accuracy is 0.91, and 0.92 by the images that are said to "
        "be recognised"
    )


def test_every_page_is_what_its_record_makes():
    assert faults(Path("docs/results")) == []


def test_other_averages_are_compared_with_the_mean_cell_by_cell():
    def averages(mean, soup):
        return {"averages": {"mean": one_seed(mean)["averaged"], "greedy soup": one_seed(soup)["averaged"]}}

    pool = {"teachers": [one_seed(0.9)["averaged"]], "ensemble": one_seed(0.95)["averaged"]}
    members = {"members": one_seed(0.93)["averaged"], "diversity": {"agreement": 0.9, "pairwise_kl": 0.1}}
    cells = [one_seed(0.9, **members, **averages(0.9, soup)) for soup in (0.91, 0.93)]
    arms = [result("control", [one_seed(0.9), one_seed(0.9)]), result("latent_be", cells)]
    text = page("digits", "Because", {"same": [pool]}, arms, command="python -m x", chosen=chosen_by(None))
    # t(0.975, 1) = 12.706, of a standard error of one point.
    assert "| latent_be | +2.00 [-10.71, +14.71] | -0.0200 [-0.1471, +0.1071] |" in text


def test_what_students_saw_is_shown_where_every_seed_has_told_it():
    told = {"train/teachers_diversity/pairwise_kl": 0.25, "train/teachers_diversity/agreement": 0.5}
    one, other = (one_seed(value) for value in (0.5, 0.6))
    pool = {"teachers": [one["averaged"]], "ensemble": one["averaged"]}
    arms = [
        result("kd", [{**one, "best": told}, {**other, "best": told}]),
        result("kd+tdiv", [{**one, "best": told}, other]),
    ]
    text = page("digits", "Because", {"same": [pool]}, arms, command="python -m x", chosen=chosen_by(None))
    assert "| kd | 0.2500 ± 0.0000 | 0.5000 ± 0.0000 | – | – |" in text
    assert "| kd+tdiv | 0.25" not in text


class Sure(nn.Module):
    """Says of every image whose first pixel is dark the one class, else the other, by 300 nats."""

    def forward(self, images):
        return 300 * torch.stack([images[:, 0, 0, 0] < 0.5, images[:, 0, 0, 0] >= 0.5], dim=-1).float()


def test_calibrated_nll_is_of_probabilities_that_are_smaller_than_a_float32():
    """Half of the images are wrong by 300 nats, of which a temperature of 20, its bound, leaves 15: the label
    has e^-15. In float32 it has 0 before the temperature, and so after it."""
    images = torch.zeros(8, 1, 2, 2, dtype=torch.uint8)
    labels = torch.tensor([0, 1] * 4)
    split = SimpleNamespace(images=images, labels=labels)
    data = SimpleNamespace(training=SimpleNamespace(validation=split), test=split)
    found = _measure(Sure(), data)["test"]
    wrong, right = math.exp(-15) / (1 + math.exp(-15)), 1 / (1 + math.exp(-15))
    expected = -(math.log(wrong + 1e-8) + math.log(right)) / 2
    assert found["cnll"] == pytest.approx(expected, rel=1e-4)
    assert found["accuracy"] == 0.5


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
