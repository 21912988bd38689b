"""The model card of a registered averaged student: Markdown from plain dictionaries.

It is the description of the registered version and, whole, the artifact `model_card.md` of its run, so
it must answer on its own what the model is, how good it is and compared to what, and how to use it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ekd_train.data.description import DataDescription
from orchestrator.experiment.redaction import visible
from orchestrator.pipeline.manifest import REPORT
from orchestrator.pipeline.manifest_content import Gain, Predictor
from orchestrator.pipeline.summary import (
    WHAT_THEY_ARE,
    Summary,
    kind_of,
    markdown,
    order,
    verdict,
    weighed,
)
from orchestrator.registry.champion import NOT_TO_BE_USED
from orchestrator.registry.promotion import Validation

CARD = "model_card.md"
"""Among the artifacts of the parent run."""
_CLASSES_SHOWN = 20
_CUT = f"\n\n… cut to what the registry keeps: the whole card is the artifact `{CARD}` of the parent run.\n"


def model_card(
    summary: Summary,
    experiment: Mapping[str, Any],
    lineage: Mapping[str, str],
    data: DataDescription,
    *,
    runs: Mapping[str, str] | None = None,
    doubted: str | None = None,
) -> str:
    """The card; its first line, which lists of versions show, is the verdict.

    What grows with the number of teachers comes last, where `fitted` cuts.

    Args:
        summary: as it is before the registration, with the averaged student.
        experiment: resolved.
        lineage: tags of the version; shown as they are.
        data: of the data set.
        runs: links to the MLflow runs it came from, by name, such as `#/experiments/1/runs/ab`.
        doubted: why it is not to be used; the first line begins with it.
    """
    predictors = summary.predictors
    teachers = {name: values for name, values in predictors.items() if kind_of(name) == "teacher"}
    others = {name: values for name, values in predictors.items() if name not in teachers}
    doubt = f"{NOT_TO_BE_USED}: {doubted}. " if doubted else ""
    sections = [
        f"{doubt}{verdict(predictors, summary.to_control)}",
        _what_it_is(summary, experiment),
        _results(others, data, summary.to_control),
        _limitations(experiment),
        _how_to_use(experiment, predictors["averaged"].temperature, data.class_names),
        *_how_to_build(experiment["student"]["architecture"]),
        _how_it_was_made(summary, experiment, lineage, data, runs or {}),
        *([f"## The teachers on the test images\n\n{markdown(teachers)}"] if teachers else []),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def fitted(card: str, limit: int) -> str:
    """`card` in at most `limit` characters: cut after a whole line, and said where the rest is."""
    if len(card) <= limit:
        return card
    kept = card[: card.rindex("\n", 0, limit - len(_CUT))]
    if kept.count("```") % 2:  # the note would become part of an example
        kept = kept[: kept.rindex("```")]
    return kept.rstrip() + _CUT


def _what_it_is(summary: Summary, experiment: Mapping[str, Any]) -> str:
    architecture = _architecture(experiment["student"]["architecture"])
    count = sum(group["count"] for group in experiment["teachers"])
    what = (
        f"One {architecture} for images of `{experiment['data']['name']}`, distilled from {count} "
        f"teacher{'s' if count != 1 else ''} with `{experiment['student']['method']}`"
    )
    if experiment["student"]["method"] != "kd":
        what += f": {experiment['student']['members']} subnetworks were trained and their weights averaged"
        if summary.member_weights:
            what += f", {weighed(summary.member_weights)}"
    description = escaped(experiment.get("description", ""))
    about = f"\n\n> Of the experiment before `--set`: {description}" if description else ""
    return f"{what}. It runs at the cost of one network.{about}"


def _results(predictors: Mapping[str, Predictor], data: DataDescription, to_control: Gain | None) -> str:
    kinds = dict.fromkeys(kind_of(name) for name in order(predictors))
    legend = "\n".join(f"- {kind}: {WHAT_THEY_ARE[kind]}" for kind in kinds)
    compared = _compared(predictors, data)
    interval = (
        f"""
- in brackets above: a paired bootstrap over the {data.test:,} test images, of one training seed"""
        if to_control is not None
        else ""
    )
    return f"""## Results on the test images

{markdown(predictors)}
{legend}
- cNLL, cECE: after one temperature that was fitted on the validation images{interval}{compared}"""


def _compared(predictors: Mapping[str, Predictor], data: DataDescription) -> str:
    """A line for what decides about the champion; of each only what was measured."""
    named = {"averaged": "This network", "control": "its control"}
    found = {name: Validation.of(predictors[name].validation) for name in named if name in predictors}
    told = "; ".join(f"{named[name]}: {of}" for name, of in found.items() if of is not None)
    return f"\n- versions are compared on the {data.validation:,} validation images. {told}" if told else ""


def _how_to_use(experiment: Mapping[str, Any], temperature: float, class_names: Sequence[str]) -> str:
    name = experiment["tracking"]["registered_model"] or f"ekd-{experiment['name']}"
    classes = ", ".join(_code(each) for each in class_names[:_CLASSES_SHOWN])
    more = ", …" if len(class_names) > _CLASSES_SHOWN else ""
    return f"""## How to use it

Images are float32 in [0, 1], of shape (batch, channel, height, width), any batch size; the
normalisation is inside. The answer is logits, of {len(class_names)} classes in this order: {classes}{more}.
Loading needs torch and mlflow only:

```python
import os, mlflow, torch
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # load only a file whose writer you trust
mlflow.set_tracking_uri(...)  # the server or file on which you read this; or MLFLOW_TRACKING_URI
model = "models:/{name}@champion"  # or models:/{name}/NUMBER, the version whose card this is
network = mlflow.pytorch.load_model(model)
network = torch.fx.GraphModule(network, network.graph).eval()  # as loaded, .eval() and .train() raise
about = mlflow.models.get_model_info(model).metadata
class_names, temperature = about["class_names"], about["temperature"]  # {temperature:.4g}: of this card
probs = network(images).softmax(-1)
probs = (network(images) / temperature).softmax(-1)  # calibrated on the validation images
```

```bash
export MLFLOW_TRACKING_URI=...  # as above
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
mlflow models serve --env-manager local -m "models:/{name}@champion"
```"""


def _how_to_build(architecture: Mapping[str, Any]) -> list[str]:
    if not architecture.get("pruned"):
        return []
    return [
        """## Its weights alone

Channels were pruned, so no stock class has its shapes: a file of `ekd export --format state-dict
--output student.safetensors` loads where this project is installed. The pt2 and ONNX forms need nothing of
it.

```python
import json
from pathlib import Path
from safetensors.torch import load_file
from ekd_train.models import build_model
network = build_model(**json.loads(Path("student.safetensors.json").read_text())["build_model"]).eval()
network.network.load_state_dict(load_file("student.safetensors"))  # the normalisation is no part of the file
```"""
    ]


def _how_it_was_made(
    summary: Summary,
    experiment: Mapping[str, Any],
    lineage: Mapping[str, str],
    data: DataDescription,
    runs: Mapping[str, str],
) -> str:
    student, settings = experiment["student"], experiment["data"]
    cuts = " and ".join(
        f"`{key}` {settings[key]}"
        for key, whole in (("train_size", None), ("train_fraction", 1.0))
        if settings[key] != whole
    )
    distillation, perturbation = experiment["distillation"], experiment["perturbation"]
    teachers = ", ".join(map(_group, experiment["teachers"]))
    facts = {
        "run": f"`{summary.run_id}` of experiment `{summary.experiment}`, seed {experiment['seed']}",
        "data": f"`{settings['name']}`: {data.train:,} images for training"
        f"{f' (by {cuts})' if cuts else ''}, {data.validation:,} for selection and temperature, "
        f"{data.test:,} for the test, which was measured once",
        "teachers": teachers,
        **_start(student["architecture"]),
        "training": f"{student['training']['epochs']} epochs, batch {student['training']['batch_size']}, "
        f"learning rate {student['training']['learning_rate']}",
        "distillation": f"at temperature {distillation['temperature']} (of the teachers' and the student's "
        f"softmax in training), alpha {distillation['alpha']}",
        "perturbation": f"`{perturbation['kind']}`, strength {perturbation['strength']} grey levels"
        if perturbation["kind"] != "none"
        else "none",
        **{
            f"`{key}`": _code(text) for key, text in sorted(lineage.items()) if not (runs and "run_id" in key)
        },
        "artifacts of the parent run": f"the report, `{REPORT}`, with every interval and figure; "
        f"this card, `{CARD}`",
        **({"runs": ", ".join(f"[{name}]({link})" for name, link in runs.items())} if runs else {}),
    }
    return "\n".join(["## How it was made", "", *(f"- {key}: {text}" for key, text in facts.items())])


def _limitations(experiment: Mapping[str, Any]) -> str:
    return f"""## Limitations

- Measured on the test split of `{experiment["data"]["name"]}` only, in one run: differences of the
  size of the seed's influence mean nothing. Of other images this card knows nothing; `ekd evaluate` measures
  corrupted and foreign ones and adds them to the report.
- Its probabilities are as calibrated as the table says; the calibrated columns need the
  temperature that was fitted on validation, which stands above and is not part of the model.
- It always answers with one of its classes, for any image of the right shape."""


def _start(architecture: Mapping[str, Any]) -> dict[str, str]:
    if architecture.get("weights") is None:
        return {}
    sha256 = str(architecture["weights_sha256"])[:16]
    return {"start of student and control": f"{_code(architecture['weights'])}, SHA-256 `{sha256}`"}


def _group(group: Mapping[str, Any]) -> str:
    """Teachers of one kind, and the weights that they are or were trained on from."""
    what = f"{group['count']} x {_architecture(group['architecture'])}"
    if group.get("weights") is None:
        return what
    how = "trained on from" if group["fine_tune"] else "given:"
    return f"{what} ({how} {_code(group['weights'])}, SHA-256 `{str(group['weights_sha256'])[:16]}`)"


def _architecture(architecture: Mapping[str, Any]) -> str:
    """Such as `wide_resnet` depth 10 width 1.0, or a torchvision name alone, and what was pruned."""
    parts = [
        f"{key} {architecture[key]}" for key in ("depth", "width") if architecture.get("depth") is not None
    ]
    if architecture.get("pruned"):
        parts.append(f"with {100 * architecture['pruned']:g} % of its channels pruned")
    return " ".join([_code(architecture["name"]), *parts])


def escaped(text: str) -> str:
    """What a user wrote, in one line that is the same text in Markdown: no link, image, tag or heading.

    >>> escaped("see ![x](http://evil/x.png) <b>")
    'see \\\\!\\\\[x\\\\](http:\\\\//evil/x.png) \\\\<b\\\\>'
    """
    line = visible(" ".join(text.split()))
    return re.sub(r"[\\`*_\[\]<>!|~&#]", r"\\\g<0>", line).replace("://", ":\\//")


def _code(text: str) -> str:
    """`text` as code, which ends at the next backtick and knows no escapes."""
    return f"`{' '.join(visible(text).replace('`', chr(39)).split())}`"
