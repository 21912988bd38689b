"""What the report says, computed from the evidence: numbers with intervals, and sentences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ekd_train.class_metrics import class_metrics, recall_per_class
from ekd_train.evaluation.bootstrap import CALIBRATED, METRICS, Bootstrap, Interval
from ekd_train.evaluation.diversity import diversity
from ekd_train.metrics import ECE_BINS, apply_temperature, confidence_bins, in_blocks
from orchestrator.pipeline.manifest_content import Predictor
from orchestrator.pipeline.summary import order, weighed
from orchestrator.report.evidence import Evidence

FEWEST_IN_A_BIN = 10
"""Bins of a reliability diagram with fewer images are left out: their accuracy is noise."""
HARDLY = 1.1
"""Ratio of the teachers' disagreement up to which a perturbation is said to have hardly acted."""
MOST_CLASSES_SHOWN = 20
"""Up to here the confusion matrix is a table of all classes; above, a list of the worst pairs."""


@dataclass(frozen=True)
class Row:
    """One predictor in the tables."""

    name: str
    values: Predictor
    intervals: dict[str, Interval]
    """By metric."""
    to_control: dict[str, Interval]
    """Its metric minus the control's; empty for the control itself."""
    to_ensemble: dict[str, Interval]


@dataclass(frozen=True)
class Reliability:
    """One predictor's reliability diagram: for each bin that has enough images."""

    confidence: list[float]
    accuracy: list[float]
    share: list[float]
    """Of the images."""


class _Pooled(Mapping[str, Tensor]):
    """The probabilities of each predictor, read when they are looked up."""

    def __init__(self, evidence: Evidence, names: Sequence[str]) -> None:
        self._evidence, self._names = evidence, names

    def __getitem__(self, name: str) -> Tensor:
        return self._evidence.probs(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Findings:
    """Everything computed once from the evidence."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        names = order(evidence.predictors)
        self.bootstrap = Bootstrap(
            _Pooled(evidence, names),
            evidence.labels(),
            {name: evidence.predictors[name].temperature for name in names},
        )

    @cached_property
    def rows(self) -> list[Row]:
        """Control, teachers, ensemble, members, averaged."""
        metrics = (*METRICS, *CALIBRATED)
        boot = self.bootstrap

        def against(name: str, reference: str) -> dict[str, Interval]:
            same = name == reference
            return {} if same else {m: boot.difference(name, reference, m) for m in metrics}

        return [
            Row(
                name,
                self.evidence.predictors[name],
                {m: boot.of(name, m) for m in metrics},
                against(name, "control"),
                against(name, "ensemble"),
            )
            for name in order(self.evidence.predictors)
        ]

    def row(self, name: str) -> Row:
        """The row of one predictor."""
        return next(row for row in self.rows if row.name == name)

    @cached_property
    def headline(self) -> str:
        """The verdict in one sentence, no bolder than the intervals allow."""
        averaged = self.row("averaged")
        predictors = self.evidence.predictors
        share = predictors["averaged"].macs / predictors["ensemble"].macs
        control, ensemble = averaged.to_control["accuracy"], averaged.to_ensemble["accuracy"]
        nlls = (_sized(of["nll"], 1, "", 3) for of in (averaged.to_control, averaged.to_ensemble))
        to_control, to_ensemble = (f"(NLL {nll})" for nll in nlls)
        return (
            f"One network at {100 * share:.0f} % of the ensemble's cost reaches "
            f"{100 * averaged.intervals['accuracy'].value:.1f} % accuracy: "
            f"{_compared(control)} the control {to_control}, and {_compared(ensemble)} the ensemble "
            f"{to_ensemble}."
        )

    @cached_property
    def connectivity(self) -> str:
        """A sentence on the loss between members and on the way to their average; empty: not measured."""
        found = self.evidence.manifest.evaluated.connectivity
        if found is None:
            return ""
        weights = self.evidence.manifest.averaged.member_weights
        members, averaged = (
            100 * self.row(name).values.validation["accuracy"] for name in ("members", "averaged")
        )
        return (
            f"On {found.images:,} validation images the NLL along the straight line from a member's weights "
            f"to the next one's rises at most {found.barrier:.3f} above the line between its ends, from a "
            f"member's to the average {found.barrier_to_average:.3f}; the members together are "
            f"{members - averaged:+.2f} points from the average (the averaging gap)."
            + (f" Members were averaged {weighed(weights)}." if weights else "")
        )

    def reliability(self, name: str, calibrated: bool) -> Reliability:
        """Bins of the largest probability on the test images, before or after the temperature."""
        temperature = self.evidence.predictors[name].temperature if calibrated else 1.0
        parts = []
        for block, labels in in_blocks(self.evidence.probs(name), self.evidence.labels()):
            probs = apply_temperature(block, temperature)
            parts.append((*confidence_bins(probs), (probs.argmax(dim=-1) == labels).double()))
        confidence, bins, correct = (torch.cat(column) for column in zip(*parts, strict=True))
        held = [bins == index for index in range(ECE_BINS)]
        filled = [chosen for chosen in held if int(chosen.sum()) >= FEWEST_IN_A_BIN]
        return Reliability(
            [confidence[chosen].mean().item() for chosen in filled],
            [correct[chosen].mean().item() for chosen in filled],
            [chosen.double().mean().item() for chosen in filled],
        )

    @cached_property
    def confusion(self) -> Tensor:
        """Counts `(c, c)` of the averaged student on the test images: label, then prediction."""
        labels, predicted = self.evidence.labels(), self.evidence.probs("averaged").argmax(-1)
        classes = self.evidence.data.num_classes
        return torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)

    @cached_property
    def class_metrics(self) -> dict[str, dict[str, float]]:
        """By predictor, on the test images: what counts every class alike, and the top five."""
        labels = self.evidence.labels()
        return {row.name: class_metrics(self.evidence.probs(row.name), labels) for row in self.rows}

    def worst_recalls(self, count: int = 10) -> list[tuple[str, float, int]]:
        """Classes that the averaged student recognises least: name, recall and test images, lowest first."""
        labels = self.evidence.labels()
        recalls = recall_per_class(self.evidence.probs("averaged"), labels)
        images = torch.bincount(labels, minlength=len(recalls)).tolist()
        named = zip(self.evidence.data.class_names, recalls, images, strict=True)
        return sorted(((n, r, i) for n, r, i in named if r is not None), key=lambda of: of[1])[:count]

    def worst_confusions(self, count: int = 8) -> list[tuple[str, str, int, float]]:
        """Label, prediction, images, and their fraction of the label's images; the most frequent first."""
        names = self.evidence.data.class_names
        wrong = self.confusion.clone()
        wrong.fill_diagonal_(0)
        found = []
        for index in wrong.flatten().argsort(descending=True, stable=True)[:count].tolist():
            label, predicted = divmod(index, len(names))
            if images := int(wrong[label, predicted]):
                total = int(self.confusion[label].sum())
                found.append((names[label], names[predicted], images, images / total))
        return found

    @cached_property
    def disagreement(self) -> dict[str, dict[str, dict[str, float]]]:
        """Diversity of teachers and members on training images, `clean` and `perturbed`."""
        tensors = self.evidence.tensors
        return {
            who: {what: diversity(tensors[f"perturbation/{who}/{what}"]) for what in ("clean", "perturbed")}
            for who in ("teachers", "members")
            if f"perturbation/{who}/clean" in tensors and len(tensors[f"perturbation/{who}/clean"]) > 1
        }

    @property
    def hardly_perturbed(self) -> bool:
        """Whether the teachers disagree on perturbed images hardly more than on clean ones."""
        of = self.disagreement.get("teachers")
        return of is not None and of["perturbed"]["pairwise_kl"] <= HARDLY * of["clean"]["pairwise_kl"]

    @cached_property
    def diversities(self) -> dict[str, dict[str, float]]:
        """`pairwise_kl` and `agreement` on the test images, of the teachers and of the members."""
        predictors = self.evidence.predictors
        return {
            called: several
            for name, called in (("ensemble", "teachers"), ("members", "members"))
            if name in predictors and (several := predictors[name].diversity)
        }


def _sized(difference: Interval, scale: float, unit: str, digits: int) -> str:
    value, low, high = (
        signed(scale * number, digits) for number in (difference.value, difference.low, difference.high)
    )
    return f"{value}{unit} [{low}, {high}]"


def _compared(difference: Interval) -> str:
    size = _sized(difference, 100, " points", 1)
    if not difference.excludes_zero:
        return f"{size}, not distinguishable from"
    return f"{size} {'above' if difference.value > 0 else 'below'}"


def signed(value: float, digits: int) -> str:
    """With its sign, and a true minus.

    >>> signed(-0.5, 1), signed(0.0, 1)
    ('−0.5', '±0.0')
    """
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return f"±{text}"
    return f"{'+' if value > 0 else '−'}{text}"
