"""Record what is about to run."""

from __future__ import annotations

import shlex
import sys

from orchestrator.pipeline.manifest_content import Prepared
from orchestrator.pipeline.run_context import RunContext


def prepare(context: RunContext) -> Prepared:
    """Describe the run in MLflow; the data that it is trained on."""
    tags = {"ekd.command": shlex.join(["ekd", *sys.argv[1:]])}
    context.tracker.set_tags(context.tracker.run_id, tags)
    return describe(context)


def describe(context: RunContext) -> Prepared:
    """Settings, code and data, as params, tags and data sets of the parent run; repeatable."""
    experiment, description = context.checked.experiment, context.checked.description
    tracker = context.tracker
    tracker.log_params(tracker.run_id, experiment.resolved())
    tracker.log_dict(tracker.run_id, "experiment.json", experiment.resolved())
    tracker.set_tags(
        tracker.run_id,
        {
            "ekd.result_hash": experiment.result_hash(),
            "ekd.code_version": context.manifest.content.code_version,
        },
    )
    for split in ("train", "validation", "test"):
        tracker.log_dataset(
            tracker.run_id,
            experiment.data.name,
            experiment.data.root or experiment.data.name,
            description.fingerprint,
            context=split,
            image_shape=description.image_shape,
            profile={"images": getattr(description, split), "classes": description.num_classes},
        )
    return Prepared(data=description)
