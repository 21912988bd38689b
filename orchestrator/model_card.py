"""The model card of a registered averaged student: Markdown from plain dictionaries.

It is the description of the registered version and an artifact of its run, so it must answer
on its own what the model is, how good it is and compared to what, and how to use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.rebuilding import rebuilding
from orchestrator.summary import WHAT_THEY_ARE, kind_of, markdown, order, verdict


def model_card(
    summary: Mapping[str, Any],
    experiment: Mapping[str, Any],
    lineage: Mapping[str, str],
    runs: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
) -> str:
    """The card; its first line, which lists of versions show, is the verdict.

    Args:
        summary: `summary.json`, as it is before the registration: `predictors` with `params`,
            `macs`, `test`, `validation`.
        experiment: the resolved experiment.
        lineage: tags of the version; shown as they are.
        runs: links to the MLflow runs it came from, by name, such as `#/experiments/1/runs/ab`.
        data: `ekd_train.data.describe`'s; with it, the card of a pruned student says how to build one.

    Raises:
        KeyError: the summary has no averaged student.
    """
    sections = [
        verdict(summary["predictors"]),
        _what_it_is(summary, experiment),
        _results(summary["predictors"]),
        _how_to_use(experiment),
        *_how_to_build(experiment["student"]["architecture"], data),
        _how_it_was_made(summary, experiment, lineage, runs or {}),
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
    about = f"\n\n> {' '.join(experiment['description'].split())}" if experiment.get("description") else ""
    return f"{what}. It runs at the cost of one network.{about}"


def _results(predictors: Mapping[str, Any]) -> str:
    kinds = dict.fromkeys(kind_of(name) for name in order(predictors))
    legend = "\n".join(f"- {kind}: {WHAT_THEY_ARE[kind]}" for kind in kinds)
    return f"""## Results on the test images

{markdown(predictors)}
{legend}
- cNLL, cECE: after one temperature that was fitted on the validation images"""


def _how_to_use(experiment: Mapping[str, Any]) -> str:
    name = experiment["tracking"]["registered_model"] or f"ekd-{experiment['name']}"
    return f"""## How to use it

Images are float32 in [0, 1], of shape (batch, channel, height, width), any batch size; the
normalisation is inside. The answer is logits. Loading needs torch and mlflow only:

```python
import mlflow
mlflow.set_tracking_uri(...)  # the server or file on which you read this; or MLFLOW_TRACKING_URI
network = mlflow.pytorch.load_model("models:/{name}@champion")
probs = network(images).softmax(-1)
```

```bash
mlflow models serve --env-manager local -m "models:/{name}@champion"
```"""


def _how_to_build(architecture: Mapping[str, Any], data: Mapping[str, Any] | None) -> list[str]:
    if not architecture.get("pruned") or data is None:
        return []
    return [
        f"""## Its weights alone

Channels were pruned, so no stock class has its shapes: a file of `ekd export --format state-dict` loads
where this project is installed. The pt2 and ONNX forms need nothing of it.

```python
{rebuilding(architecture, data)}
```"""
    ]


def _how_it_was_made(
    summary: Mapping[str, Any],
    experiment: Mapping[str, Any],
    lineage: Mapping[str, str],
    runs: Mapping[str, str],
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
        **({"runs": ", ".join(f"[{name}]({link})" for name, link in runs.items())} if runs else {}),
        **{
            f"`{key}`": f"`{text}`" for key, text in sorted(lineage.items()) if not (runs and "run_id" in key)
        },
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
    """Such as `wide_resnet` depth 10 width 1.0, or a torchvision name alone, and what was pruned."""
    parts = [
        f"{key} {architecture[key]}" for key in ("depth", "width") if architecture.get("depth") is not None
    ]
    if architecture.get("pruned"):
        parts.append(f"with {100 * architecture['pruned']:g} % of its channels pruned")
    return " ".join([f"`{architecture['name']}`", *parts])
