import json
import logging

import pytest
import torch
from cutting_off import CutOff, CutsOff
from training_runs import (
    MemoryStore,
    SlowStore,
    checkpoints_in,
    label_run,
    made_up_data,
    papa_run,
    same_tensors,
    student_run,
    untrained_teachers,
    with_training,
)

from ekd_train.data.tensors import TrainingData
from ekd_train.evaluation.evaluate import validate
from ekd_train.objectives import OBJECTIVES, objective_for
from ekd_train.perturbations import PERTURBATIONS
from ekd_train.settings import Architecture, Augmentation, Optimiser, Speed, TrainingRun
from ekd_train.training.errors import TrainingDiverged
from ekd_train.training.loop import Trained, train
from ekd_train.training.reporter import Silent
from ekd_train.training.speed import computing
from ekd_train.training.step import Step

RUNS = {
    "label": label_run(),
    "mean_kd": student_run("kd", "tdiv"),
    "member_kd": student_run("latent_be", "tdiv_sdiv"),
    "ekd": student_run("ekd", "ods", distillation={"ekd": {"feature": 0.1}}),
    "ce_kd": student_run("batch_ensemble", "conf_ods", alpha=0.9),
    "proxy_end2": student_run("kd", "gaussian", objective="proxy_end2", alpha=0.9),
    "dkd": student_run("kd", objective="dkd"),
    "dist": student_run("latent_be", objective="dist", alpha=0.9),
    "papa": papa_run(),
}
"""Every objective and every perturbation, each in at least one run."""

LATENT_BE = RUNS["member_kd"]
WITH_DROPOUT = Architecture(name="mobilenet_v3_small", small_images=True)
AVERAGED = {"optimiser": Optimiser(name="adamw"), "ema": 0.9, "accumulate": 2, "label_smoothing": 0.1}
VARIED = Augmentation.model_validate(
    {"crop": "random_resized", "trivial_augment": True, "random_erasing": 0.5, "mixup": 1, "cutmix": 1}
)
FINE_TUNED = {
    **{"optimiser": Optimiser(name="lamb", decay="weights"), "clip_norm": 0.5},
    **{"layer_decay": 0.7, "freeze": ("group1",)},
}
RESUMED = {
    **RUNS,
    "validated every 2nd epoch": with_training(LATENT_BE, evaluate_every=2),
    "saved every 2nd epoch": with_training(LATENT_BE, checkpoint_every=2),
    "validated and saved at different epochs": with_training(LATENT_BE, evaluate_every=2, checkpoint_every=3),
    "teachers' predictions kept": with_training(student_run(), speed=Speed(cache_teachers=True)),
    "in bfloat16": with_training(LATENT_BE, speed=Speed(precision="bfloat16")),
    "adamw, an average, parts": with_training(LATENT_BE, **AVERAGED),
    "varied and mixed images": with_training(LATENT_BE).model_copy(update={"augmentation": VARIED}),
    "the mean of the last epochs": with_training(LATENT_BE, swa=0.5),
    "checkpoints after every step": with_training(LATENT_BE, checkpoint_every_minutes=1e-9, ema=0.5),
    "lamb, frozen, clipped": with_training(label_run(), **FINE_TUNED),
    "activations computed again": with_training(LATENT_BE, speed=Speed(checkpoint_activations=True)),
    "synchronised batch norm": with_training(LATENT_BE, batch_norm="synchronised"),
}
QUICK = ("label", "member_kd", "adamw, an average, parts", "checkpoints after every step")
"""Those that `make check` continues."""
DROPPING_OUT = {
    "plain": label_run(architecture=WITH_DROPOUT, epochs=2),
    "BatchEnsemble": student_run("latent_be", "tdiv_sdiv", architecture=WITH_DROPOUT, epochs=2),
    "branches": student_run("ekd", "none", architecture=WITH_DROPOUT, epochs=2),
}


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train_in(store: MemoryStore, run: TrainingRun, data: TrainingData | None = None, **arguments) -> Trained:
    data = data or made_up_data()
    arguments.setdefault("reporter", Silent())
    return train(
        run,
        data,
        checkpoints=checkpoints_in(store, run),
        teachers=untrained_teachers(data) if run.teachers else None,
        **arguments,
    )


def newest(store: MemoryStore, run: TrainingRun) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint: weights, buffers, momenta, best weights."""
    found = checkpoints_in(store, run).newest()
    assert found is not None
    return found.tensors | {f"best.{name}": tensor for name, tensor in found.best.items()}


def assert_continues_exactly(run: TrainingRun, data: TrainingData, cuts: int | None = None) -> None:
    """Cut off after every change of the store, or after `cuts` of them evenly spread."""
    store = MemoryStore()
    uninterrupted = train_in(store, run, data)
    states = store.states[1:-1]
    for state in states[:: max(1, len(states) // cuts) if cuts else 1]:
        cut = MemoryStore(state)
        resumed = train_in(cut, run, data)
        assert same_tensors(uninterrupted.network.state_dict(), resumed.network.state_dict())
        assert (uninterrupted.history, uninterrupted.best) == (resumed.history, resumed.best)
        assert same_tensors(newest(store, run), newest(cut, run))


def test_every_objective_and_every_perturbation_is_trained_here():
    assert set(RUNS) == set(OBJECTIVES)
    assert {run.perturbation.kind for run in RUNS.values()} == set(PERTURBATIONS)
    for name, run in RUNS.items():
        if run.student is not None and run.distillation is not None:
            assert objective_for(run.student.method, run.distillation.objective) == name


@pytest.mark.parametrize("name", RUNS)
def test_every_method_lowers_its_loss(name):
    losses = [record["train/loss"] for record in train_in(MemoryStore(), RUNS[name]).history]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RESUMED]
)
def test_a_run_that_was_cut_off_and_continued_ends_with_the_same_bits(name):
    assert_continues_exactly(with_training(RESUMED[name], epochs=3), made_up_data(), cuts=2)


def test_a_run_may_be_cut_off_between_any_two_changes_of_its_store():
    assert_continues_exactly(label_run(), made_up_data(train=14))


def test_however_a_run_ends_its_checkpoints_are_stored_by_then():
    run, data, store = label_run(epochs=2), made_up_data(train=14), SlowStore()
    train_in(store, run, data)
    assert store.objects.keys() >= {
        "checkpoints/control/epoch-00001.json",
        "checkpoints/control/epoch-00002.json",
    }
    store = SlowStore()
    with pytest.raises(CutOff):
        train_in(store, run, data, reporter=CutsOff(2))
    assert "checkpoints/control/epoch-00001.json" in store.objects


@pytest.mark.slow
@pytest.mark.parametrize("name", DROPPING_OUT)
def test_dropout_is_continued_exactly_too(name):
    assert_continues_exactly(DROPPING_OUT[name], made_up_data(train=14, channels=3, size=16), cuts=1)


def test_training_twice_gives_the_same_bits_and_another_seed_or_name_others():
    def weights(run):
        return train_in(MemoryStore(), with_training(run, epochs=1)).network.state_dict()

    run = label_run()
    assert same_tensors(weights(run), weights(run))
    for other in (run.model_copy(update={"seed": 6}), run.model_copy(update={"name": "teacher-0"})):
        assert not same_tensors(weights(run), weights(other))


def test_a_finished_run_is_not_trained_again():
    store = MemoryStore()
    first = train_in(store, LATENT_BE)
    written = len(store.states)
    reporter = Silent()
    again = train_in(store, LATENT_BE, reporter=reporter)
    assert same_tensors(first.network.state_dict(), again.network.state_dict())
    assert (len(store.states), reporter.records) == (written, [])


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_the_weights_of_the_best_epoch_are_returned_validated_in_the_precision_of_training(precision):
    data = made_up_data()
    run = label_run(epochs=6, learning_rate=0.1, speed={"precision": precision})
    found = train_in(MemoryStore(), run, data)
    ranks = [(r["averaged/accuracy"], -r["averaged/nll"]) for r in found.history]
    best = found.history[ranks.index(max(ranks))]
    assert found.best == best
    with computing(run.training.speed, data.validation.images.device):
        measured = validate(found.network, data.validation.images, data.validation.labels)
    assert measured == {name: best[name] for name in measured}


class SecondAStep(Silent):
    """A clock that goes on by a second with every step, and stands still beside them."""

    now = 0.0

    def stepped(self, step):
        self.now += step is not None

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize("every", [1, 2, 5])
def test_the_seconds_of_training_are_those_of_every_epoch_however_seldom_it_saves(monkeypatch, every):
    clock, run = SecondAStep(), with_training(label_run(), epochs=5, checkpoint_every=every)
    monkeypatch.setattr("ekd_train.training.loop.time", clock)
    found = train_in(MemoryStore(), run, made_up_data(train=14), reporter=clock)
    assert clock.now >= 5
    assert found.seconds == clock.now


@pytest.mark.parametrize("key", ["evaluate_every", "checkpoint_every"])
def test_the_last_epoch_validates_and_saves_whatever_the_interval(key):
    store = MemoryStore()
    run = label_run(epochs=3, **{key: 50})
    found = train_in(store, run)
    assert found.history[-1]["epoch"] == 3
    checkpoint = checkpoints_in(store, run).newest()
    assert checkpoint is not None
    assert checkpoint.epoch == 3


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "a byte flipped": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
}


@pytest.fixture(scope="module")
def finished() -> tuple[TrainingRun, MemoryStore, Trained]:
    run, store = label_run(), MemoryStore()
    return run, store, train_in(store, run)


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("part", ["epoch-00003.safetensors", "epoch-00003.json", "best"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(part, how, finished, caplog):
    run, store, uninterrupted = finished
    before_the_last = next(s for s in reversed(store.states) if not any("epoch-00004" in key for key in s))
    cut = MemoryStore(before_the_last)
    key = f"checkpoints/control/{part}"
    if part == "best":
        key = json.loads(cut.objects["checkpoints/control/epoch-00003.json"])["record"]["best"]["key"]
    cut.objects[key] = DAMAGE[how](cut.objects[key])
    with caplog.at_level(logging.WARNING):
        resumed = train_in(cut, run)
    assert same_tensors(uninterrupted.network.state_dict(), resumed.network.state_dict())
    assert uninterrupted.history == resumed.history
    assert "falling back to the checkpoint before it" in caplog.text
    assert key in caplog.text


def with_one(tensors: dict[str, torch.Tensor], prefix: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """`tensors` with another in the place of the first one whose name begins with `prefix`."""
    return tensors | {next(name for name in tensors if name.startswith(prefix)): tensor}


def without_one(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """`tensors` without the first one whose name begins with `prefix`: files list them in any order."""
    left_out = next(name for name in tensors if name.startswith(prefix))
    return {name: tensor for name, tensor in tensors.items() if name != left_out}


LIES = {
    "a weight of another shape": lambda t, r, b: (with_one(t, "trainee.", torch.ones(7)), r, b),
    "a momentum that would be spread": lambda t, r, b: (with_one(t, "momentum.", torch.ones(())), r, b),
    "a momentum of no weight": lambda t, r, b: (t | {"momentum.x": torch.ones(1)}, r, b),
    "a weight too few": lambda t, r, b: (without_one(t, "trainee."), r, b),
    "best weights of another network": lambda t, r, b: (t, r, {"x": torch.ones(1)}),
    "progress of another epoch": lambda t, r, b: (t, r | {"epoch": 4}, b),
    "no progress": lambda t, r, b: (t, {}, b),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_newest_checkpoint_of_other_networks_falls_back_to_the_one_before(lie, finished, caplog):
    """Its hashes are right: whoever wrote it wrote those as well."""
    run, store, uninterrupted = finished
    before_the_last = next(s for s in reversed(store.states) if not any("epoch-00004" in key for key in s))
    cut = MemoryStore(before_the_last)
    found = checkpoints_in(cut, run).newest()
    assert found is not None
    tensors, record, best = LIES[lie](found.tensors, found.record, found.best)
    lying = checkpoints_in(cut, run)
    with lying.storing():
        lying.save(found.epoch, tensors, record, (99, best))
    with caplog.at_level(logging.WARNING):
        resumed = train_in(cut, run)
    assert same_tensors(uninterrupted.network.state_dict(), resumed.network.state_dict())
    assert uninterrupted.history == resumed.history
    assert f"epoch-0000{found.epoch}.json" in caplog.text
    assert "falling back to the checkpoint before it" in caplog.text


def test_a_loss_that_is_not_a_number_stops_at_once_and_says_where():
    store = MemoryStore()
    run = label_run(learning_rate=1e30, schedule={"kind": "constant"})
    with pytest.raises(
        TrainingDiverged, match=r"control: the loss became (nan|inf) at step [23] \(epoch 1\)"
    ) as e:
        train_in(store, run)
    assert "learning rate 1e+30; last good checkpoint: none yet" in str(e.value)
    assert store.objects == {}


def test_the_last_good_checkpoint_is_named(monkeypatch):
    monkeypatch.setattr(Step, "__call__", poisoned_at(6, "loss"))
    store = MemoryStore()
    with pytest.raises(
        TrainingDiverged, match=r"nan at step 6 \(epoch 2\).*checkpoints/control/epoch-00001\."
    ):
        train_in(store, label_run())


def test_weights_that_are_not_numbers_are_never_kept(monkeypatch):
    # The loss of the last step of an epoch is of the weights before it.
    monkeypatch.setattr(Step, "__call__", poisoned_at(8, "weights"))
    store = MemoryStore()
    with pytest.raises(TrainingDiverged, match=r"the weights became .* at step 8 \(epoch 2\).*epoch-00001\."):
        train_in(store, label_run())
    assert "checkpoints/control/epoch-00002.json" not in store.objects


def test_weights_too_large_to_predict_with_stop_it_in_the_same_words(monkeypatch):
    monkeypatch.setattr(Step, "__call__", poisoned_at(8, "size of the weights"))
    store = MemoryStore()
    with pytest.raises(
        TrainingDiverged,
        match=r"predictions .* became NaN at step 8 \(epoch 2\), learning rate .*epoch-00001\.",
    ):
        train_in(store, label_run())
    assert "checkpoints/control/epoch-00002.json" not in store.objects


def poisoned_at(step: int, what: str):
    taken = 0
    original = Step.__call__

    def call(self, *parts):
        nonlocal taken
        taken += 1
        losses = original(self, *parts)
        if taken == step and what == "loss":
            losses["loss"] = torch.tensor(float("nan"))
        if taken == step and what == "weights":
            with torch.no_grad():
                next(iter(self.trainee.parameters())).fill_(float("inf"))
        if taken == step and what == "size of the weights":
            with torch.no_grad():
                list(self.trainee.parameters())[-2].fill_(3e38)
        return losses

    return call


def test_checkpoints_of_other_settings_are_not_continued():
    store, run = MemoryStore(), label_run()
    train_in(store, run)
    fresh = train_in(MemoryStore(), run)
    for key in list(store.objects):
        store.objects[key] = store.objects[key].replace(b"the identity", b"yet another.")
    assert same_tensors(train_in(store, run).network.state_dict(), fresh.network.state_dict())
