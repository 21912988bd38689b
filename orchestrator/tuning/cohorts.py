"""Trials that wait for each other: who is compared with whom, after which epochs, and what follows.

HyperBand and population-based training pause a trial until all others of its cohort have come as
far. What is decided then is a function of the scores; Ray is not known here
(`orchestrator.tuning.waiting` acts on it).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.tuning.domains import Choice, Domain

RESAMPLED = 0.25
"""Chance that a setting is drawn anew instead of being changed a little (Jaderberg et al., 2017)."""

FACTORS = (0.8, 1.2)
"""By which a number is changed a little."""


@dataclass(frozen=True)
class Bracket:
    """Trials that start together in HyperBand, and the epochs after which the worse are stopped."""

    numbers: range
    stops: tuple[int, ...]

    def kept(self, factor: int) -> tuple[int, ...]:
        """How many trials go on after each stop: one in `factor` of those before it, at least one.

        >>> Bracket(range(10), (1, 3)).kept(3)
        (4, 2)
        """
        counts, left = [], len(self.numbers)
        for _ in self.stops:
            left = math.ceil(left / factor)
            counts.append(left)
        return tuple(counts)


def brackets(trials: int, stops: Sequence[int], factor: int) -> list[Bracket]:
    """HyperBand's brackets (Li et al., 2018), from the one that stops most often to the one that never does.

    Bracket s has the last s of `stops`, and trials in proportion to `ceil((S + 1) / (s + 1) · factor^s)`,
    which is what gives all brackets about the same number of epochs. Brackets without a trial are left out.

    >>> [(len(b.numbers), b.stops) for b in brackets(9, (1, 3), 3)]
    [(5, (1, 3)), (3, (3,)), (1, ())]
    """
    most = len(stops)
    weights = [math.ceil((most + 1) / (s + 1) * factor**s) for s in range(most, -1, -1)]
    exact = [trials * weight / sum(weights) for weight in weights]
    sizes = [int(size) for size in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (sizes[i] - exact[i], i))
    for index in by_remainder[: trials - sum(sizes)]:
        sizes[index] += 1
    made, first = [], 0
    for index, size in enumerate(sizes):
        if size:
            made.append(Bracket(range(first, first + size), tuple(stops[index:])))
        first += size
    return made


@dataclass
class Cohort:
    """Trials that wait for each other after the same epochs."""

    members: set[int]
    """Numbers of the trials that have not ended, whether they have begun or not."""
    stops: list[int]
    """Epochs that are still ahead."""
    kept: list[int] = field(default_factory=list)
    """HyperBand: how many go on after each of them."""
    scores: dict[int, float] = field(default_factory=dict)
    """Of all that have come to the next stop."""

    def arrives(self, number: int, epoch: int, score: float) -> bool:
        """Note the score of a trial that has come to the next stop; whether it has.

        A stop where all would go on is none.
        """
        while self.kept and len(self.members) <= self.kept[0] and not self.scores:
            self.stops.pop(0)
            self.kept.pop(0)
        if number not in self.members or not self.stops or epoch < self.stops[0]:
            return False
        self.scores[number] = score
        return True

    def leaves(self, number: int) -> None:
        """A trial has ended; if it had come to the stop, its score still counts."""
        self.members.discard(number)

    @property
    def complete(self) -> bool:
        """Whether all have come to the next stop that have not ended."""
        return bool(self.stops) and bool(self.members) and self.members <= self.scores.keys()

    def go_on(self) -> tuple[int, dict[int, float]]:
        """Leave the stop behind: its epoch, and the scores that were seen there."""
        assert self.complete
        scores, self.scores = self.scores, {}
        return self.stops.pop(0), scores

    def halve(self) -> list[int]:
        """HyperBand's decision: the trials to be stopped; of equals the later ones."""
        assert self.complete
        _, scores = self.go_on()
        ranked = sorted(scores, key=lambda number: (-scores[number], number))
        return sorted(self.members - set(ranked[: self.kept.pop(0)]))


def exploit(
    members: Iterable[int], scores: Mapping[int, float], generator: np.random.Generator
) -> dict[int, int]:
    """Who of a population goes on with whose networks: the worst quarter with some of the best quarter's.

    Args:
        members: the population, in any order.
        scores: of its members, higher is better; of equals the later number is worse.
        generator: what decides which of the best.
    """
    ranked = sorted(members, key=lambda number: (-scores[number], number))
    quarter = math.ceil(len(ranked) / 4) if len(ranked) > 1 else 0
    best, worst = ranked[:quarter], ranked[len(ranked) - quarter :]
    return {number: best[int(generator.integers(quarter))] for number in sorted(worst)}


def explore(
    domains: Mapping[str, Domain], values: Mapping[str, Any], generator: np.random.Generator
) -> dict[str, Any]:
    """`values`, each drawn anew with probability `RESAMPLED`, else changed a little, inside its domain.

    A number is multiplied by one of `FACTORS`; of a choice the value before or after is taken.
    """
    changed = {}
    for key, domain in domains.items():
        if generator.random() < RESAMPLED:
            changed[key] = domain.draw(generator)
        elif isinstance(domain, Choice):
            at = domain.choice.index(values[key]) + (1 if generator.random() < 0.5 else -1)
            changed[key] = domain.choice[min(max(at, 0), len(domain.choice) - 1)]
        else:
            low, high = domain.ends
            factor = FACTORS[int(generator.integers(len(FACTORS)))]
            changed[key] = min(high, max(low, values[key] * factor))
    return changed
