"""What changes an identity, and what does not."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, Field, create_model

from ekd_train.persistence import identity
from ekd_train.persistence.identity import differing, identity_of
from ekd_train.persistence.networks import identity as network_identity
from ekd_train.settings import DataSettings, PerturbationSettings, Settings, Student, Training
from orchestrator.experiment.schema import PLACES, Experiment, build_experiment


class Sgd(Settings):
    name: Literal["sgd"] = "sgd"
    rate: float = 0.1


class Adam(Settings):
    name: Literal["adam"] = "adam"
    rate: float = 0.1
    epsilon: float = 1e-8


class Recipe(Settings):
    optimiser: Sgd | Adam = Field(default=Sgd(), discriminator="name")
    late: Training = Training(epochs=7)
    ema: Sgd | None = None
    groups: tuple[Training, ...] = (Training(),)
    limits: dict[str, float] = Field(default_factory=dict)


def grown(model: type[BaseModel], **fields: Any) -> Any:
    """`model` with further keys, as a later version may have them."""
    return create_model(f"New{model.__name__}", __base__=model, **fields)


def test_defaults_leave_nothing():
    for model in (DataSettings, Training, Student, PerturbationSettings, Recipe):
        assert differing(model()) == {}
    assert differing(Experiment(name="a")) == {"name": "a"}


def test_only_what_differs_is_kept_however_deep_it_lies():
    experiment = build_experiment(
        {
            "name": "a",
            "teachers": [{"count": 2, "training": {"epochs": 3}}, {"count": 2}],
            "student": {"training": {"speed": {"precision": "float32"}, "epochs": 200}},
        }
    )
    assert experiment.result_settings() == {
        "teachers": [{"count": 2, "training": {"epochs": 3}}, {"count": 2}],
        "student": {"training": {"speed": {"precision": "float32"}}},
    }


def test_a_new_key_with_a_default_changes_nothing():
    training = grown(Training, clip_norm=(float | None, None), ema=(Sgd, Sgd()))
    teachers = grown(type(Experiment(name="a").teachers[0]), training=(training, training()), note=(str, ""))
    later = grown(Experiment, teachers=(tuple[teachers, ...], (teachers(),)), more=(Recipe, Recipe()))
    for tree in (
        {"name": "a"},
        {"name": "a", "seed": 3, "teachers": [{"count": 4, "training": {"epochs": 2}}]},
    ):
        now = Experiment.model_validate(tree)
        then = later.model_validate(tree)
        assert then.result_hash() == now.result_hash()
    assert later.model_validate({"name": "a", "more": {"late": {"epochs": 8}}}).result_settings() == {
        "more": {"late": {"epochs": 8}}
    }


def test_a_key_is_compared_with_the_default_of_its_own_place():
    assert differing(Recipe(late=Training(epochs=200))) == {"late": {"epochs": 200}}
    assert differing(Recipe(late=Training(epochs=7, momentum=0.5))) == {"late": {"momentum": 0.5}}


def test_members_of_a_union_are_told_apart():
    assert differing(Recipe(optimiser=Adam())) == {"optimiser": {"name": "adam"}}
    assert differing(Recipe(optimiser=Adam(epsilon=1e-7))) == {"optimiser": {"name": "adam", "epsilon": 1e-7}}
    assert differing(Recipe(ema=Sgd())) == {"ema": {"name": "sgd"}}


def test_how_a_value_is_spelled_does_not_matter():
    whole = {"name": "a", "student": {"training": {"learning_rate": 1, "epochs": 3}}, "seed": 2}
    exact = {"seed": 2, "student": {"training": {"epochs": 3, "learning_rate": 1.0}}, "name": "a"}
    assert build_experiment(whole).result_hash() == build_experiment(exact).result_hash()
    assert identity_of({"a": 1, "b": [2.0]}) == identity_of({"b": (2,), "a": 1.0})
    assert identity_of(True) != identity_of(1)
    assert identity_of("1") != identity_of(1)
    assert identity_of([]) != identity_of({}) != identity_of(None)


def test_the_format_is_part_of_every_identity(monkeypatch):
    before = identity_of(Training())
    monkeypatch.setattr(identity, "FORMAT", identity.FORMAT + 1)
    assert identity_of(Training()) != before


def test_identities_stay_what_they_are():
    """A change here makes every stored run and network another one: change `FORMAT` too, and say so."""
    tree = {
        "name": "a",
        "teachers": {"count": 2, "architecture": {"depth": 10}, "training": {"epochs": 3}},
        "student": {"members": 2, "architecture": {"depth": 10}, "factors": {"init": "normal"}},
        "perturbation": {"kind": "tdiv", "strength": 2},
    }
    experiment = build_experiment(tree)
    assert identity.FORMAT == 2
    assert experiment.default_run_id() == "a-899040cff1"
    assert network_identity(experiment.teacher_runs()[0], "f")[:10] == "b359eadaff"
    assert network_identity(experiment.student_run(), "f")[:10] == "e6c319d59a"


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    """Every dotted key that has a value of its own, with the model and the name it has there."""
    for name, field in model.model_fields.items():
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        models = [a for a in inner if issubclass(a, BaseModel)]
        if models:
            yield from keys(models[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", model, name


ALL = sorted(key for key, _, _ in keys(Experiment))
BY_KEY = {key: (model, name) for key, model, name in keys(Experiment)}


def others(annotation: Any, default: Any) -> Iterator[Any]:
    """Values that a field of this type may have."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from others(arguments[0], default)
    elif origin in (Union, types.UnionType):
        for one in arguments:
            yield from others(one, default)
    elif origin is Literal:
        yield from arguments
    elif origin is tuple:
        yield from ((value,) for value in others(arguments[0], None))
        yield from ((value, value) for value in others(arguments[0], None))
    elif annotation is bool:
        yield not default
    elif annotation in (int, float):
        yield from (3, 0.25, 0.5, 0.95) if annotation is float else (3, 7)
    elif annotation is str:
        yield "another"
    elif origin is dict:
        yield {"another": "value"}
    elif annotation is type(None):
        yield None
    else:
        raise TypeError(f"{annotation}: teach this test what else a field of this type may be")


def changed(settings: Any, path: list[str], value: Any) -> Any:
    """`settings` with another value at `path`; of groups the first; rules between keys are not looked at."""
    if isinstance(settings, tuple):
        return (changed(settings[0], path, value), *settings[1:])
    name, *rest = path
    value = changed(getattr(settings, name), rest, value) if rest else value
    return settings.model_copy(update={name: value})


@pytest.mark.parametrize("key", ALL)
def test_every_key_that_can_change_a_result_changes_the_identity(key):
    model, name = BY_KEY[key]
    field = model.model_fields[name]
    begun = Experiment(name="a")
    owner: Any = begun
    for part in key.split(".")[:-1]:
        owner = getattr(owner, part)
        owner = owner[0] if isinstance(owner, tuple) else owner
    now = getattr(owner, name)
    candidates = [value for value in others(field.annotation, now) if value != now]
    assert candidates, f"{key}: no other value was found"
    hashes = {changed(begun, key.split("."), value).result_hash() for value in candidates}
    placed = key != "cluster.workers_per_run" and (key in PLACES or key.split(".")[0] in PLACES)
    if placed or name == "checkpoint_every_minutes":
        assert hashes == {begun.result_hash()}
    else:
        assert len(hashes) == len({json.dumps(value) for value in candidates})
        assert begun.result_hash() not in hashes
