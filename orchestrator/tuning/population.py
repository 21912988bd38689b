"""Population-based training: who went on with whose networks, and with which settings.

`rounds.json` in the run's storage is written before a round is acted on, and is all that another
start needs: trials go on after the last round, from their own checkpoints or, where they had not
trained since, from those of the trial that they were to copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from ekd_train.data.seeds import derive_seed
from orchestrator.pipeline.manifest import read_json
from orchestrator.storage import Storage
from orchestrator.tuning.cohorts import Cohort, exploit, explore
from orchestrator.tuning.ledger import Ledger, TrialRecord
from orchestrator.tuning.space import Space

ROUNDS = "rounds.json"


class Population:
    """The rounds of a population so far; only the driver writes them.

    Args:
        ledger: of the search; what earlier rounds changed is put into its records.
        space: whose settings change.
        seed: with a round's epoch, decides everything that is drawn in it.
        changed: hears of every trial that goes on with another's networks.
    """

    def __init__(
        self,
        storage: Storage,
        ledger: Ledger,
        space: Space,
        seed: int,
        changed: Callable[[TrialRecord], None],
    ) -> None:
        self.storage, self.ledger, self.space, self.seed, self.changed = storage, ledger, space, seed, changed
        self.rounds: list[dict[str, Any]] = (read_json(storage, ROUNDS) or {"rounds": []})["rounds"]
        for record in ledger.trials.values():
            record.clones = []
        for made in self.rounds:
            self._apply(made)

    @property
    def epoch(self) -> int:
        """After which the last round was; 0: none was."""
        return int(self.rounds[-1]["epoch"]) if self.rounds else 0

    def configuration(self, record: TrialRecord) -> dict[str, Any]:
        """What the trial's process needs to know to go on after the last round (`trial.Trial`)."""
        clone = record.clones[-1] if record.clones else None
        fresh = clone is not None and clone["epoch"] == self.epoch
        return {
            "number": record.number,
            "values": dict(record.values),
            "after": self.epoch,
            "donor": {"number": clone["of"], "values": clone["of_values"]} if clone and fresh else None,
        }

    def decide(self, cohort: Cohort) -> dict[int, dict[str, Any]]:
        """A round: the new configurations of the trials that go on with the networks of others."""
        epoch, scores = cohort.go_on()
        records = self.ledger.trials
        generator = np.random.default_rng(derive_seed(self.seed, "population", epoch))
        clones = {}
        for number, best in exploit(cohort.members, scores, generator).items():
            values = explore(self.space.domains, records[best].values, generator)
            clones[str(number)] = {
                "of": best,
                "of_values": dict(records[best].values),
                "before": dict(records[number].values),
                "values": values,
            }
        for number in cohort.members:  # with what they have reported; it is not reported again
            self.ledger.save(records[number])
        made = {"epoch": epoch, "clones": clones}
        self.rounds.append(made)
        self.storage.write(ROUNDS, json.dumps({"rounds": self.rounds}, indent=1).encode())
        self._apply(made)
        changed = [records[int(name)] for name in clones]
        for record in changed:
            self.changed(record)
        return {record.number: self.configuration(record) for record in changed}

    def _apply(self, made: dict[str, Any]) -> None:
        for number, clone in made["clones"].items():
            record = self.ledger.trials[int(number)]
            record.clones.append({"epoch": made["epoch"], **clone})
            record.values = dict(clone["values"])
