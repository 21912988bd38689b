"""Ray Train's trainer, without the helper processes that a run has no use for.

Each is an actor in a process of its own: it imports Ray Train while the workers want to start, and from then
on wakes up a hundred times a second, beside them. Ray has no setting for it: what is overridden here is
private to Ray, and the tests say if a newer one has moved it.
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

NEVER_NEEDED = frozenset({"DatasetsCallback"})
"""Its actor hands out Ray Data's datasets; runs here have none."""

NEEDED_WHERE_SHARED = frozenset({"PlacementGroupCleanerCallback"})
"""Its actor frees the CPUs of a controller that died; a Ray of our own ends with the run."""


class NothingToScale(FixedScalingPolicy):
    """As many workers as wanted, on machines that are there: no actor asks an autoscaler for more."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Ask for nothing."""


class Trainer(DataParallelTrainer):
    """A `DataParallelTrainer` of workers that read no Ray datasets."""

    def __init__(self, *arguments: Any, own: bool, **named: Any) -> None:
        """`own`: Ray was started by and for this run, so nobody adds machines or takes them away."""
        super().__init__(*arguments, **named)
        self._own = own

    def _create_default_callbacks(self) -> list[Any]:
        left_out = NEVER_NEEDED | NEEDED_WHERE_SHARED if self._own else NEVER_NEEDED
        return [one for one in super()._create_default_callbacks() if type(one).__name__ not in left_out]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = arguments.get("scaling_policy")
        if self._own and type(policy) is FixedScalingPolicy:
            arguments["scaling_policy"] = NothingToScale(policy.scaling_config)
        return super()._initialize_and_run_controller(**arguments)
