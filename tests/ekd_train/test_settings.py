import pytest
from pydantic import ValidationError
from training_runs import label_run, student_run

from ekd_train import settings as settings_module
from ekd_train.settings import Settings, Student, TrainingRun

ALL = [
    kind
    for kind in vars(settings_module).values()
    if isinstance(kind, type) and issubclass(kind, Settings) and kind is not Settings
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_settings_class_is_frozen_and_knows_its_keys(kind):
    assert kind.model_config["frozen"]
    assert kind.model_config["extra"] == "forbid"


@pytest.mark.parametrize("run", [label_run(), student_run("latent_be", "tdiv_sdiv"), student_run("ekd")])
def test_a_training_run_survives_json(run):
    assert TrainingRun.model_validate_json(run.model_dump_json()) == run


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("weight_decay", -1e-9),
        ("evaluate_every", 0),
        ("checkpoint_every", 0),
        ("batch_norm", "syncronised"),
        ("schedule", {"kind": "flat_linear", "flat_until": 0.9, "decay_until": 0.9}),
    ],
)
def test_what_makes_no_sense_cannot_be_written(key, value):
    with pytest.raises(ValidationError):
        label_run(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 0.0), ("temperature", -1.0), ("alpha", 1.1), ("alpha", -0.1)]
)
def test_distillation_is_within_its_range(key, value):
    with pytest.raises(ValidationError):
        student_run(distillation={key: value})


def test_heads_that_would_learn_nothing_are_refused():
    with pytest.raises(ValidationError, match="heads"):
        student_run("ekd", distillation={"ekd": {"label": 0, "distillation": 0, "feature": 1}})


@pytest.mark.parametrize(
    ("architecture", "kept"),
    [({}, False), ({"weights": "w.pth"}, True), ({"pruned": 0.5}, True), ({"name": "my.nets:Net"}, True)],
)
def test_what_stays_as_it_started_did_not_start_at_random(architecture, kept):
    student = {"method": "lora", "lora": {"train_base": False}, "architecture": architecture}
    if kept:
        assert not Student.model_validate(student).lora.train_base
    else:
        with pytest.raises(ValidationError, match=r"lora\.train_base=false .* set architecture\.weights"):
            Student.model_validate(student)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        label_run().seed = 3
