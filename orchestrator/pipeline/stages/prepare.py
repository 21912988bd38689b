"""Record what is about to run, and bring up the worker groups."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from orchestrator.pipeline.run_context import RunContext
from orchestrator.pipeline.stages.teachers import queued_first


def prepare(context: RunContext) -> dict[str, Any]:
    """Queue the first training runs, so that their workers start, and describe the run in MLflow."""
    context.submit(queued_first(context.checked.experiment))
    tags = {"ekd.command": shlex.join(["ekd", *sys.argv[1:]])}
    context.tracker.set_tags(context.tracker.run_id, tags)
    return describe(context)


def describe(context: RunContext) -> dict[str, Any]:
    """Settings, code and data, as params, tags and data sets of the parent run; repeatable."""
    experiment, description = context.checked.experiment, context.checked.description
    tracker = context.tracker
    tracker.log_params(tracker.run_id, experiment.resolved())
    tracker.log_dict(tracker.run_id, "experiment.json", experiment.resolved())
    tracker.set_tags(
        tracker.run_id,
        {
            "ekd.result_hash": experiment.result_hash(),
            "ekd.code_version": context.manifest.content["code_version"],
        },
    )
    for split in ("train", "validation", "test"):
        tracker.log_dataset(
            tracker.run_id,
            experiment.data.name,
            experiment.data.root or experiment.data.name,
            description["fingerprint"],
            context=split,
            image_shape=tuple(description["image_shape"]),
            profile={"images": description[split], "classes": description["num_classes"]},
        )
    return {"data": description}
