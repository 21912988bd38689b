"""Everything that can be found wrong with weights that exist already, before anything is started."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from ekd_train.data.dataset import Dataset
from ekd_train.data.description import DataDescription
from orchestrator.errors import ExperimentError
from orchestrator.experiment.schema import Experiment
from orchestrator.pretrained.class_names import in_the_order_of
from orchestrator.pretrained.fit import chosen, fitted
from orchestrator.pretrained.given import Given
from orchestrator.pretrained.holders import with_weights
from orchestrator.pretrained.kept import Kept
from orchestrator.pretrained.measure import measured
from orchestrator.pretrained.network import PretrainedNetwork
from orchestrator.pretrained.read import read_pretrained
from orchestrator.pretrained.same_function import check_same

Look = Callable[[Dataset, DataDescription], Given]
"""Looks at networks that were read: whether they fit the data, and what given teachers predict."""


def read_given(
    experiment: Experiment, run_id: str | Callable[[Experiment], str] | None = None
) -> tuple[Experiment, Look]:
    """As `read_pretrained`: the experiment, and how to check what was read; `run_id` as `Kept` takes it."""
    kept = Kept(experiment, run_id)
    experiment, networks = read_pretrained(experiment, kept)
    former = kept.former_run(experiment, networks)
    notices = (*kept.notices, former) if former is not None else (*kept.notices,)
    return experiment, partial(_look, experiment, networks, notices)


def _look(
    experiment: Experiment,
    networks: Mapping[str, PretrainedNetwork],
    notices: tuple[str, ...],
    dataset: Dataset,
    description: DataDescription,
) -> Given:
    weights: dict[str, Mapping[str, Tensor]] = {}
    lines, warnings, taught_by = [], [], set[str]()
    for key, (holder, run) in with_weights(experiment).items():
        sha256 = str(holder.weights_sha256)
        given, network = run.role == "given", networks[sha256]
        source = f"{holder.weights}, SHA-256 {sha256[:12]}"
        if given and sha256 in taught_by:
            warnings.append(
                f"{key}.weights: {holder.weights}: the same network as another teacher's: two alike show no "
                "diversity, and count double in the ensemble"
            )
        try:
            network = chosen(network, run.architecture, description, str(holder.weights))
            state = fitted(network, run.architecture, description, new_head=not given)
            if weights.setdefault(sha256, state).keys() != state.keys():
                part = f"{network.key}, such as weights: {holder.weights}#{network.key}"
                raise ExperimentError(f"another network of the same file is named too; name this one {part}")
            if network.program is not None and len(state) == len(network.weights):
                check_same(network.program, run.architecture, state, description)
            taught_by |= {sha256} if given else set()
            if not given:
                head = "" if len(state) == len(network.weights) else ", with a new head"
                lines.append(f"start     {key.partition('.arch')[0]}: from {source}{head}")
                continue
            seen = measured(run, state, dataset, description)
        except (ExperimentError, ValueError, RuntimeError) as error:
            raise ExperimentError(
                f"{key}.weights: {holder.weights}: {' '.join(str(error).split())}"
            ) from None
        text = f"{100 * seen.accuracy:.1f} % of {seen.images} validation images"
        mean = run.architecture.mean
        scaled = "the data's" if mean is None else ", ".join(f"{value:g}" for value in mean)
        names = network.class_names
        order = "" if in_the_order_of(names, description.class_names) else _unchecked(names)
        left_out = f"; passed over: {_some(network.passed_over)}" if network.passed_over else ""
        lines.append(f"given     {run.name}: {text}; {source}; mean: {scaled}{order}{left_out}")
        if seen.accuracy <= seen.by_luck:
            warnings.append(
                f"{key}.weights: {holder.weights}: {text}, which may be chance ({100 * seen.chance:.1f} %; "
                f"of so few images up to {100 * seen.by_luck:.1f} %); are mean, std and image_size what it "
                "was trained with, and its classes in the data's order?"
            )
        elif seen.unrecognised:
            ours = description.class_names
            taken = "; ".join(
                f"{ours[label]!r} ({count} images, most taken for {ours[answer]!r})"
                for label, (count, answer) in list(seen.unrecognised.items())[:5]
            )
            warnings.append(
                f"{key}.weights: {holder.weights}: {text}, but hardly one of the classes {taken}; are its "
                "classes in the data's order?"
            )
        if seen.squashed:
            warnings.append(
                f"{key}.weights: {holder.weights}: all its outputs lie in [0, 1]; if a sigmoid is at its end "
                "they are probabilities: take it off, so that it gives logits"
            )
    return Given(weights, tuple(lines), tuple(warnings), notices)


def _unchecked(names: Sequence[str] | None) -> str:
    why = "it names none" if names is None else f"its names are others, {_some(names)}"
    return f"; order of classes: not checked, {why}"


def _some(names: Sequence[str]) -> str:
    """A few words of names that somebody else gave: whatever they hold, they stay in a line."""
    return ", ".join(repr(name[:40]) for name in names[:3]) + ", ..." * (len(names) > 3)
