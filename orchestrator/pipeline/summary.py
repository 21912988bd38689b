"""`summary.json` and the table that a person reads at the end."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field
from rich.table import Table

from ekd_train.persistence.records import Latency, Record
from orchestrator.pipeline.gain import gained
from orchestrator.pipeline.manifest_content import (
    Gain,
    ManifestContent,
    Output,
    Predictor,
    Registered,
    Searched,
    Source,
)


class StageTime(Output):
    """How long a stage took."""

    seconds: float


class SearchSummary(Searched):
    """What a search found, and what it gained."""

    gain: Gain | None = None
    """As `Evaluated.gain`: None too where the baseline was best, which gains nothing."""
    gained: str | None = None
    """The same in words, or why it is not known."""


class Summary(Record):
    """The content of `summary.json`."""

    WHAT = "the summary of a run"

    run_id: str
    experiment: str
    predictors: dict[str, Predictor] = Field(default_factory=dict)
    """Empty before they are measured."""
    to_control: Gain | None = None
    """Test accuracy of the averaged student minus the control's."""
    member_weights: tuple[float, ...] = ()
    """How much each member counts in the averaged student, where they do not count alike."""
    latency: Latency | None = None
    search: SearchSummary | None = None
    """None: nothing was searched."""
    sources: dict[str, Source] = Field(default_factory=dict)
    """By training run: the weights that existed before it."""
    registered_model: Registered | None = None
    class_names: tuple[str, ...] = ()
    """In the order of the logits; empty before the data is known."""
    stages: dict[str, StageTime]
    reused: dict[str, str] = Field(default_factory=dict)
    """Training run -> the run, and after a slash the trial of a search, that had trained it before."""
    data_fingerprint: str
    result_hash: str
    code_version: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, without what was not measured."""
        return self.model_dump(mode="json", exclude_none=True)


def summarise(manifest: ManifestContent) -> Summary:
    """The summary of a run, as far as it has come."""
    evaluated = manifest.evaluated if manifest.done("evaluate") else None
    return Summary(
        run_id=manifest.run_id,
        experiment=manifest.experiment,
        predictors=evaluated.predictors if evaluated else {},
        to_control=evaluated.to_control if evaluated else None,
        member_weights=manifest.averaged.member_weights if manifest.done("average") else (),
        latency=evaluated.latency if evaluated else None,
        search=_search(manifest),
        sources={name: made.source for name, made in manifest.trained.items() if made.source is not None},
        registered_model=manifest.registered if manifest.done("register") else None,
        class_names=manifest.prepared.data.class_names if manifest.done("prepare") else (),
        stages={name: StageTime(seconds=stage.seconds) for name, stage in manifest.stages.items()},
        reused={name: made.reused_from for name, made in manifest.trained.items() if made.reused_from},
        data_fingerprint=manifest.data_fingerprint,
        result_hash=manifest.result_hash,
        code_version=manifest.code_version,
    )


def _search(manifest: ManifestContent) -> SearchSummary | None:
    if not manifest.done("search"):
        return None
    gain = manifest.evaluated.gain if manifest.done("evaluate") else None
    return SearchSummary(**dict(manifest.searched), gain=gain, gained=gained(manifest) or None)


COLUMNS = {
    "accuracy": ("acc. %", 100, 2),
    "nll": ("NLL", 1, 4),
    "ece": ("ECE", 1, 4),
    "brier": ("Brier", 1, 4),
    "cnll": ("cNLL", 1, 4),
    "cece": ("cECE", 1, 4),
}
"""Key of a metric -> heading, factor, digits. The c stands for calibrated: after the temperature."""

SPARE = ("cECE", "Brier", "parameters", "cNLL", "ECE")
"""Headings of columns that a narrow terminal can do without, the first of them first."""

MEANINGS = {
    "NLL": "mean negative log-likelihood of the true class, in nats; lower is better",
    "ECE": "expected calibration error: how far confidence is from accuracy; lower is better",
    "Brier": "mean squared error of the probabilities; lower is better",
    "cNLL": "NLL, and cECE the ECE, after one temperature that was fitted on validation",
    "MACs": "multiply-accumulates of a prediction for one image: what it costs",
}

WHAT_THEY_ARE = {
    "control": "one network of the same architecture, labels only",
    "teacher": "one of the networks that were learned from",
    "ensemble": "mean of the teachers' probabilities",
    "members": "the student's members as an ensemble",
    "averaged": "one network of the members' averaged weights: the result",
}

CONTROLS = {
    "control/best_teacher": "the same, taught by the one teacher that is best on validation images",
    "control/papa": "the average of networks that learned labels alone and were pulled together (PAPA)",
}
"""What further controls are, by name."""


HEADLINE = ("accuracy", "balanced_accuracy", "nll", "cnll", "ece")
"""Test metrics of the averaged student that a run shows in tables of runs and of models; the rest is in
`summary.json`."""
COMPARED = ("accuracy", "nll", "balanced_accuracy")
"""Validation metrics by which versions are compared."""


def headline(predictors: Mapping[str, Predictor], to_control: Gain) -> dict[str, float]:
    """The numbers by which a person chooses among averaged students; those that were measured.

    `to_control`: test accuracy minus the control's, with its 95 % interval.
    """
    averaged = predictors["averaged"]
    return {
        **{metric: averaged.test[metric] for metric in HEADLINE if metric in averaged.test},
        "gain_over_control": to_control.value,
        "gain_over_control_low": to_control.low,
        "gain_over_control_high": to_control.high,
        "share_of_ensemble_cost": averaged.macs / predictors["ensemble"].macs,
        **{f"validation/{m}": averaged.validation[m] for m in COMPARED if m in averaged.validation},
    }


def weighed(weights: Sequence[float]) -> str:
    """How members were averaged that do not count alike.

    >>> weighed((0.25, 0.75))
    'with weights 0.25, 0.75, picked on validation images'
    """
    return f"with weights {', '.join(f'{weight:.3g}' for weight in weights)}, picked on validation images"


def kind_of(predictor: str) -> str:
    """The kind of a predictor: `teacher/0` is a `teacher`, the others are their own."""
    return predictor.split("/")[0]


def order(predictors: Iterable[str]) -> list[str]:
    """Predictors as they are read: control, teachers, ensemble, members, averaged."""
    kinds = list(WHAT_THEY_ARE)

    def place(name: str) -> tuple[int, int, str]:
        number = name.partition("/")[2]
        return kinds.index(kind_of(name)), int(number) if number.isdigit() else 0, name

    return sorted(predictors, key=place)


def rows(predictors: Mapping[str, Predictor]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of predictors, on the test images; what is absent is blank."""
    headings = ["predictor", *(title for title, _, _ in COLUMNS.values()), "parameters", "MACs"]
    cells = []
    for name in order(predictors):
        values = predictors[name]
        test = values.test
        metrics = [
            f"{scale * test[key]:.{digits}f}" if key in test else ""
            for key, (_, scale, digits) in COLUMNS.items()
        ]
        cells.append([name, *metrics, compact(values.params), compact(values.macs)])
    return headings, cells


def table(predictors: Mapping[str, Predictor]) -> Table:
    """The table of predictors for a terminal."""
    headings, cells = rows(predictors)
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for row in cells:
        made.add_row(*row, style="bold" if row[0] == "averaged" else None)
    return made


def legend(predictors: Mapping[str, Predictor]) -> str:
    """What the table's headings and rows mean, a line each."""
    kinds = {kind_of(name) for name in predictors}
    meanings = MEANINGS | {kind: what for kind, what in WHAT_THEY_ARE.items() if kind in kinds}
    meanings |= {name: what for name, what in CONTROLS.items() if name in predictors}
    return "\n".join(f"{name}: {what}" for name, what in meanings.items())


def markdown(predictors: Mapping[str, Predictor]) -> str:
    """The table of predictors as Markdown, the averaged student in bold."""
    headings, cells = rows(predictors)
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1)]
    lines += [[f"**{cell}**" if row[0] == "averaged" and cell else cell for cell in row] for row in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def verdict(predictors: Mapping[str, Predictor], to_control: Gain | None = None) -> str:
    """One sentence: the averaged student against whichever of control and ensemble were measured.

    `to_control`: test accuracy minus the control's; its interval is put in brackets.

    >>> averaged = Predictor(params=9, macs=10, test={"accuracy": 0.96, "nll": 0.15})
    >>> control = Predictor(params=9, macs=10, test={"accuracy": 0.94, "nll": 0.2})
    >>> verdict({"averaged": averaged, "control": control})
    'Test accuracy 96.00 %, NLL 0.1500: +2.00 points and NLL -0.0500 against the control.'
    """
    averaged = predictors["averaged"]
    test = averaged.test
    sentence = f"Test accuracy {100 * test['accuracy']:.2f} %, NLL {test['nll']:.4f}"
    others, brackets = [], ""
    for name in ("control", "ensemble"):
        if name in predictors and (other := predictors[name].test):
            points = 100 * (test["accuracy"] - other["accuracy"])
            interval = ""
            if name == "control" and to_control is not None:
                interval = f" [{100 * to_control.low:+.2f}, {100 * to_control.high:+.2f}]"
                unsure = "; 0 is in it, so nothing is shown" * (to_control.low <= 0 <= to_control.high)
                brackets = f" In brackets the 95 % interval over the test images{unsure}."
            others.append(
                f"{points:+.2f} points{interval} and NLL {test['nll'] - other['nll']:+.4f} against the {name}"
            )
    if "ensemble" in predictors and predictors["ensemble"].macs:
        share = averaged.macs / predictors["ensemble"].macs
        others.append(f"at {100 * share:.0f} % of the ensemble's cost")
    return f"{sentence}{': ' if others else ''}{', '.join(others)}.{brackets}"


def unrecognised(predictor: Predictor, class_names: Sequence[str]) -> str | None:
    """Which classes a predictor never recognises on the test images, in a sentence; None: it does all.

    >>> never = Predictor(params=9, macs=10, recall_per_class=(1.0, 0.0, 0.0))
    >>> unrecognised(never, ["cat", "dog", "cow"])
    "the averaged student is right on 'cat' alone: its accuracy is that class's share"
    """
    recalls = dict(zip(class_names, predictor.recall_per_class, strict=False))
    never = [name for name, recall in recalls.items() if recall == 0]
    known = [name for name, recall in recalls.items() if recall]
    if not never:
        return None
    if len(known) == 1:
        return f"the averaged student is right on {known[0]!r} alone: its accuracy is that class's share"
    shown = ", ".join(map(repr, never[:5])) + (f" and {len(never) - 5} more" if len(never) > 5 else "")
    return f"the averaged student recognises no test image of {shown}"


def compact(number: float) -> str:
    """A count in a few characters.

    >>> compact(19714), compact(5_243_000_000)
    ('19.7 k', '5.24 G')
    """
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"
