"""Record what is about to run."""

import shlex
import sys

from orchestrator.pipeline.manifest_content import Prepared
from orchestrator.pipeline.projection import decided_params, described
from orchestrator.pipeline.run_context import RunContext
from orchestrator.tracking import PARENT


def prepare(context: RunContext) -> Prepared:
    """The data that the run is trained on, and the command; with settings and code they are in MLflow."""
    made = Prepared(data=context.checked.description, command=shlex.join(["ekd", *sys.argv[1:]]))
    experiment, request = context.checked.experiment, context.request
    parent = described(experiment, context.manifest.content, made)
    parent.params = decided_params(experiment, request.space.domains if request is not None else ())
    context.tracker.show({PARENT: parent})
    return made
