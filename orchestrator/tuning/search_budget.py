"""`search.json`: what is searched, and the seconds that all starts together have spent on it."""

import json
import time
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import ExperimentError
from orchestrator.pipeline.manifest import read_json
from orchestrator.storage import Storage
from orchestrator.tuning.request import SearchRequest

SEARCH = "search.json"


class SearchBudget:
    """The time that a search may take, over all its starts.

    Raises `ExperimentError` if the run has searched otherwise before.
    """

    def __init__(self, storage: Storage, request: SearchRequest) -> None:
        self.storage = storage
        found = read_json(storage, SEARCH)
        if found is not None and not _same(found["request"], request):
            raise ExperimentError(
                f"{storage.uri(SEARCH)}: this run searches otherwise (space, trials, seeds, scheduler or "
                "searcher); use the same options to continue it, or another --run-id"
            )
        self.request = request
        self.before: float = found["seconds"] if found is not None else 0.0
        self.began = time.monotonic()
        self.save()

    @property
    def seconds(self) -> float:
        """Spent so far, all starts together."""
        return self.before + time.monotonic() - self.began

    def left(self) -> float | None:
        """Seconds that are left of the time budget; None: no limit."""
        budget = self.request.time_budget_s
        return None if budget is None else max(0.0, budget - self.seconds)

    def save(self) -> None:
        """Store it."""
        content = {"request": self.request.model_dump(mode="json"), "seconds": self.seconds}
        self.storage.write(SEARCH, json.dumps(content, indent=2).encode())


def _same(stored: dict[str, Any], request: SearchRequest) -> bool:
    """Whether the trials of both are the same; no request is that of a scheduler that is no more."""
    try:
        return SearchRequest.model_validate(stored).identity() == request.identity()
    except ValidationError:
        return False
