"""Search spaces: packaged ones by name, a user's own by file, checked against an experiment."""

import difflib
import itertools
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

import tune_spaces
from ekd_train.own_code import is_own, module_of
from ekd_train.settings import Settings
from orchestrator.errors import ExperimentError
from orchestrator.experiment.explanation import shown_key
from orchestrator.experiment.schema import Experiment
from orchestrator.experiment.yaml_tree import read_text, read_yaml
from orchestrator.tuning.domains import Domain
from orchestrator.tuning.pool import UNSEARCHABLE, pool_experiment, trial_experiment

PACKAGED = Path(tune_spaces.__file__).parent

MOST_COMBINATIONS = 2000
"""Corners of a space that are looked at one by one; of larger spaces, each key's values alone."""


class Space(Settings):
    """Dotted experiment keys and the domain of each."""

    name: str
    description: Annotated[str, Field(min_length=1)]
    domains: Annotated[dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], Domain], Field(min_length=1)]


def load_space(source: str) -> Space:
    """The packaged space of that name, or the one in a `.yaml` file. Raises `ExperimentError`."""
    names = packaged_spaces()
    if source in names:
        name, text = source, (PACKAGED / f"{source}.yaml").read_text()
    elif (path := Path(source)).suffix in (".yaml", ".yml") or "/" in source:
        try:
            name, text = path.stem, read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error  # without the path, which may quote a password
            raise ExperimentError(f"--space {source}: cannot be read: {why}") from None
    else:
        near = difflib.get_close_matches(source, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"packaged are {', '.join(names)}"
        raise ExperimentError(f"--space {source}: no packaged space, and not a .yaml file; {hint}")
    content = read_yaml(text, f"--space {source}")
    if not isinstance(content, dict):
        raise ExperimentError(f"--space {source}: a space is a mapping with description and domains")
    try:
        return Space.model_validate({"name": name, **content})
    except ValidationError as error:
        raise ExperimentError(f"--space {source}: {_explain(error)}") from None


def packaged_spaces() -> list[str]:
    """Names of the spaces that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


CODE = ("student.architecture.name", "distillation.objective", "perturbation.kind")
"""Keys whose values may be `package.module:name`."""


def modules_of(space: Space) -> list[str]:
    """The modules of `package.module:name` among its choices."""
    domains = [space.domains[key] for key in CODE if key in space.domains]
    choices = [value for domain in domains for value in domain.values if isinstance(value, str)]
    return sorted({module_of(value) for value in choices if is_own(value)})


def check_space(space: Space, experiment: Experiment) -> None:
    """Whether every point of `space` gives an experiment that can be run.

    Bounds of fields are intervals, so a range is inside if its ends are. Rules between keys are
    looked at on every combination of ends and choices.

    Raises `ExperimentError`: names the key or the combination, and the rule that it breaks.
    """
    for key in space.domains:
        if key.split(".")[0] in UNSEARCHABLE:
            raise ExperimentError(f"space {space.name}: {key} must be the same in all trials of a search")
        if key.startswith("teachers") and key != "teachers.count":
            raise ExperimentError(
                f"space {space.name}: {key}: teachers are trained once, for all trials; "
                "only teachers.count, how many of them a trial uses, can be searched"
            )
        if key == "student.average":
            raise ExperimentError(
                f"space {space.name}: {key}: a trial is scored by the mean, whatever it says: set it for the "
                "experiment"
            )
    pool = pool_experiment(experiment, space.domains)
    for values in _corners(space, experiment):
        try:
            trial_experiment(pool, values)
        except ExperimentError as error:
            shown = ", ".join(f"{key}={_short(value)}" for key, value in values.items())
            raise ExperimentError(f"space {space.name}: {shown}: {error}") from None


def _corners(space: Space, experiment: Experiment) -> list[dict[str, Any]]:
    per_key = {key: domain.values for key, domain in space.domains.items()}
    if math.prod(map(len, per_key.values())) <= MOST_COMBINATIONS:
        return [dict(zip(per_key, point, strict=True)) for point in itertools.product(*per_key.values())]
    first = {key: values[0] for key, values in per_key.items()}
    return [first | {key: value} for key, values in per_key.items() for value in values]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        location = [shown_key(part) for part in item["loc"]]
        message = item["msg"].removeprefix("Value error, ")
        if location[0] == "domains" and len(location) > 1:
            if item["loc"][-1] == "[key]":
                message = "write a key as in distillation.temperature"
            elif item["type"] != "value_error":
                message = "give it choice, uniform, log_uniform or integer, and a reason"
            lines.append(f"{location[1]}: {message}")
        else:
            lines.append(f"{'.'.join(location)}: {message}")
    return "; ".join(dict.fromkeys(lines))
