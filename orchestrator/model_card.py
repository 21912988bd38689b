"""The model card of a registered averaged student: Markdown from plain dictionaries.

It is the description of the registered version and an artifact of its run, so it must answer
on its own what the model is, how good it is and compared to what, and how to use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREDICTORS = {
    "control": "control: the same architecture, labels only",
    "ensemble": "ensemble: mean of the teachers' probabilities",
    "members": "members: the student's members as an ensemble",
    "averaged": "**averaged student: this model**",
}
_METRICS = {
    "accuracy": ("accuracy", "{:.2%}"),
    "nll": ("NLL", "{:.4f}"),
    "ece": ("ECE", "{:.4f}"),
    "brier": ("Brier", "{:.4f}"),
    "cnll": ("NLL, calibrated", "{:.4f}"),
    "cece": ("ECE, calibrated", "{:.4f}"),
}
"""Key in summary.json -> column, format."""


def model_card(summary: Mapping[str, Any], experiment: Mapping[str, Any], lineage: Mapping[str, str]) -> str:
    """The card.

    Args:
        summary: `summary.json`, as it is before the registration: `predictors` with `params`,
            `macs`, `test`, `validation`.
        experiment: the resolved experiment.
        lineage: tags of the version; shown as they are.

    Raises:
        KeyError: the summary has no averaged student.
    """
    sections = [
        _what_it_is(summary, experiment),
        _verdict(summary["predictors"]),
        _table(summary["predictors"]),
        _how_to_use(experiment),
        _how_it_was_made(summary, experiment, lineage),
        _limitations(experiment),
    ]
    return "\n\n".join(sections) + "\n"


def _what_it_is(summary: Mapping[str, Any], experiment: Mapping[str, Any]) -> str:
    architecture = _architecture(experiment["student"]["architecture"])
    count = sum(group["count"] for group in experiment["teachers"])
    what = (
        f"One {architecture} for images of `{experiment['data']['name']}`, distilled from {count} "
        f"teacher{'s' if count != 1 else ''} with `{experiment['student']['method']}`"
    )
    if experiment["student"]["method"] != "kd":
        what += f": {experiment['student']['members']} subnetworks were trained and their weights averaged"
    title = experiment.get("description") or summary["experiment"]
    return f"# {title}\n\n{what}. It runs at the cost of one network."


def _verdict(predictors: Mapping[str, Any]) -> str:
    averaged = predictors["averaged"]["test"]
    lines = []
    for name, label in (("control", "the control"), ("ensemble", "the ensemble"), ("members", "its members")):
        other = predictors.get(name, {}).get("test")
        if other:
            points = 100 * (averaged["accuracy"] - other["accuracy"])
            nll = averaged["nll"] - other["nll"]
            lines.append(f"- against {label}: {points:+.2f} points of accuracy, {nll:+.4f} NLL")
    cost = predictors["averaged"].get("macs")
    ensemble = predictors.get("ensemble", {}).get("macs")
    if cost and ensemble:
        lines.append(f"- at 1/{ensemble / cost:.1f} of the ensemble's multiply-adds")
    measured = f"Test accuracy {averaged['accuracy']:.2%}, NLL {averaged['nll']:.4f}."
    return "\n".join(["## Verdict", "", measured, *([""] if lines else []), *lines])


def _table(predictors: Mapping[str, Any]) -> str:
    metrics = {
        key: shown
        for key, shown in _METRICS.items()
        if any(key in predictor.get("test", {}) for predictor in predictors.values())
    }
    titles = ["predictor (test split)", *(title for title, _ in metrics.values()), "parameters", "MACs"]
    rows = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for name in _ordered(predictors):
        predictor = predictors[name]
        measured = predictor.get("test", {})
        cells = [form.format(measured[key]) if key in measured else "" for key, (_, form) in metrics.items()]
        sizes = [f"{predictor[key]:,}" if key in predictor else "" for key in ("params", "macs")]
        rows.append([_PREDICTORS.get(name, name), *cells, *sizes])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _ordered(predictors: Mapping[str, Any]) -> list[str]:
    """Control, teachers, ensemble, members, averaged; whatever else there is before the last two."""
    last = [name for name in ("ensemble", "members", "averaged") if name in predictors]
    first = [name for name in ("control",) if name in predictors]
    return [*first, *sorted(set(predictors) - set(first) - set(last)), *last]


def _how_to_use(experiment: Mapping[str, Any]) -> str:
    name = experiment["tracking"]["registered_model"] or f"ekd-{experiment['name']}"
    return f"""## How to use it

Images are float32 in [0, 1], of shape (batch, channel, height, width), any batch size; the
normalisation is inside. The answer is logits. Loading needs torch and mlflow only:

```python
import mlflow.pytorch
network = mlflow.pytorch.load_model("models:/{name}@champion")
probs = network(images).softmax(-1)
```

```bash
mlflow models serve --env-manager local -m "models:/{name}@champion"
```"""


def _how_it_was_made(
    summary: Mapping[str, Any], experiment: Mapping[str, Any], lineage: Mapping[str, str]
) -> str:
    student, data = experiment["student"], experiment["data"]
    distillation, perturbation = experiment["distillation"], experiment["perturbation"]
    teachers = ", ".join(f"{g['count']} x {_architecture(g['architecture'])}" for g in experiment["teachers"])
    facts = {
        "run": f"`{summary['run_id']}` of experiment `{summary['experiment']}`, seed {experiment['seed']}",
        "data": f"`{data['name']}`, {data['train_fraction']:.0%} of the training split; "
        "selection and temperature on validation, test measured once",
        "teachers": teachers,
        "training": f"{student['training']['epochs']} epochs, batch {student['training']['batch_size']}, "
        f"learning rate {student['training']['learning_rate']}",
        "distillation": f"temperature {distillation['temperature']}, alpha {distillation['alpha']}",
        "perturbation": f"`{perturbation['kind']}`, strength {perturbation['strength']} grey levels"
        if perturbation["kind"] != "none"
        else "none",
        **{f"`{key}`": f"`{text}`" for key, text in sorted(lineage.items())},
    }
    return "\n".join(["## How it was made", "", *(f"- {key}: {text}" for key, text in facts.items())])


def _limitations(experiment: Mapping[str, Any]) -> str:
    return f"""## Limitations

- Measured on the test split of `{experiment["data"]["name"]}` only, in one run: differences of the
  size of the seed's influence mean nothing. On other images nothing is known.
- Its probabilities are as calibrated as the table says; the calibrated columns need the
  temperature that was fitted on validation, which is not part of the model.
- It always answers with one of its classes, for any image of the right shape."""


def _architecture(architecture: Mapping[str, Any]) -> str:
    """Such as `wide_resnet` depth 10 width 1.0, or a torchvision name alone."""
    parts = [
        f"{key} {architecture[key]}" for key in ("depth", "width") if architecture.get("depth") is not None
    ]
    return " ".join([f"`{architecture['name']}`", *parts])
