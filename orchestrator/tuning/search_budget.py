"""`search.json`: what is searched, and the seconds that all starts together have spent on it."""

import json
import time

from ekd_train.persistence.records import Record
from orchestrator.errors import ExperimentError
from orchestrator.pipeline.manifest import read_record
from orchestrator.storage import Storage
from orchestrator.tuning.request import AskedSearch, SearchRequest

SEARCH = "search.json"


class SearchRecord(Record):
    """The content of `search.json`."""

    WHAT = "the record of a search"

    request: AskedSearch
    seconds: float


class SearchBudget:
    """The time that a search may take, over all its starts.

    Raises `ExperimentError` if the run has searched otherwise before.
    """

    def __init__(self, storage: Storage, request: SearchRequest) -> None:
        self.storage = storage
        found = read_record(storage, SEARCH, SearchRecord)
        if found is not None and not _same(found.request, request):
            raise ExperimentError(
                f"{storage.uri(SEARCH)}: this run searches otherwise (space, trials, seeds, scheduler or "
                "searcher); use the same options to continue it, or another --run-id"
            )
        self.request = request
        self.before = found.seconds if found is not None else 0.0
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
        record = SearchRecord(request=self.request, seconds=self.seconds)
        self.storage.write(SEARCH, json.dumps(record.model_dump(mode="json"), indent=2).encode())


def _same(found: AskedSearch, request: SearchRequest) -> bool:
    """Whether the trials of both are the same; earlier versions noted no baseline, and had none."""
    known = request if found.baseline else request.model_copy(update={"baseline": {}})
    return found.identity() == known.identity()
