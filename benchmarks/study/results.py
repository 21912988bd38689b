"""What the final cells say: means and spreads over seeds, and differences with their intervals."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from benchmarks.study.arms import Arm
from benchmarks.study.choice import Choice

METRICS = {"accuracy": "acc. %", "nll": "NLL", "cnll": "cNLL", "ece": "ECE", "cece": "cECE"}
LEVEL = 0.95
_DIVERSITY = ("pairwise_kl", "agreement")


Pools = Mapping[str, Sequence[Mapping[str, Any]]]
"""By a pool's name, of each of its sets of teachers what `measure_teachers` returns."""


@dataclass(frozen=True)
class ArmResult:
    """An arm's final cells: one dictionary each, as `run_cell` returns them, and which they are."""

    arm: Arm
    choice: Choice
    cells: Sequence[Mapping[str, Any]]
    pairs: Sequence[tuple[int, int]]
    """Of each cell its set of teachers and its seed: by them the cells of two arms are compared."""

    @property
    def name(self) -> str:
        """The arm's."""
        return self.arm.name

    @property
    def title(self) -> str:
        """The arm's name, and what of it is compared where that is not one averaged network."""
        return self.name if self.arm.predictor == "averaged" else f"{self.name} ({self.arm.predictor})"

    def values(self, metric: str, predictor: str | None = None) -> list[float]:
        """The metric on test images, one value a cell; empty where there is no such predictor.

        `predictor`: "averaged" or "members"; by default that which the arm is compared by.
        """
        of = predictor or self.arm.predictor
        return [cell[of]["test"][metric] for cell in self.cells if of in cell]

    def gaps(self) -> list[float]:
        """Of an arm with members: their accuracy minus the averaged network's, one value a cell."""
        both = zip(self.values("accuracy", "members"), self.values("accuracy", "averaged"), strict=True)
        return [members - averaged for members, averaged in both]

    def by_pair(self, metric: str) -> dict[tuple[int, int], float]:
        """The metric on test images, by set of teachers and seed."""
        return dict(zip(self.pairs, self.values(metric), strict=True))

    def hits(self, pairs: Collection[tuple[int, int]]) -> list[float]:
        """Of each test image the share of the cells with these teachers and seeds that recognise it."""
        cells = zip(self.pairs, self.cells, strict=True)
        rows = [unpacked(cell["right"]) for pair, cell in cells if pair in pairs]
        return [mean(image) for image in zip(*rows, strict=True)]


def packed(right: Sequence[bool]) -> str:
    """Truth values as text: base64 of their bits, the first of a byte is its highest, after their number.

    >>> packed([True, False, True])
    '3:oA=='
    """
    bits = "".join("01"[one] for one in right)
    whole = bits.ljust(8 * math.ceil(len(bits) / 8), "0")
    content = bytes(int(whole[i : i + 8], 2) for i in range(0, len(whole), 8))
    return f"{len(bits)}:{base64.b64encode(content).decode()}"


def unpacked(text: str) -> list[bool]:
    """What `packed` has made text of.

    >>> unpacked("3:oA==")
    [True, False, True]
    """
    number, _, content = text.partition(":")
    bits = "".join(f"{byte:08b}" for byte in base64.b64decode(content))
    return [bit == "1" for bit in bits[: int(number)]]


def page(
    regime: str, because: str, pools: Pools, arms: Sequence[ArmResult], *, command: str, chosen: str
) -> str:
    """The results of a regime in Markdown.

    Args:
        regime: its name.
        because: how it was found.
        pools: teachers and their ensembles.
        arms: in the order of the tables.
        command: what made them.
        chosen: how temperature, strength and rate were found, to follow "are".
    """
    most = max(arms, key=lambda arm: len(arm.pairs)).pairs
    sets, seeds = len({one for one, _ in most}), len({seed for _, seed in most})
    lines = [
        f"# Study: {regime}",
        "",
        f"{because}.",
        "",
        f"`{command}`: {_counted(sets, 'set')} of teachers, {_counted(seeds, 'seed')} of every student with "
        "each; mean ± standard deviation over all. Temperature τ, strength and rate (the share of the "
        f"regime's) are {chosen}. Test images had no part in that.",
        "",
        "## Teachers",
        "",
        "| pool, set | each teacher, acc. % | their mean | ensemble | ensemble NLL | cNLL |",
        "|---|---|---:|---:|---:|---:|",
        *(_pool_row(f"{name}, {i}", one) for name, some in pools.items() for i, one in enumerate(some)),
        "",
        "## Students: the averaged, single network",
        "",
        *_of_members(arms),
        f"| arm | τ | strength | rate | {' | '.join(METRICS.values())} | lowest acc. |",
        f"|---|---:|---:|---:|{'---:|' * len(METRICS)}---:|",
        *(_arm_row(arm) for arm in arms),
        "",
        "## Against control, plain KD and the ensemble",
        "",
        "Differences, accuracy in points, each cell against that with the same teachers and seed (the "
        f"ensemble of its teachers): their mean with Student's {100 * LEVEL:g} % interval. Bold: it leaves "
        "out 0. Of so many intervals some do by chance: p is Holm's, of all arms of the column together. "
        "Over images: the same difference of accuracies, with the interval over the test images. There are "
        "none of ECE: by chance alone a calibrated network has some, the more the less sure it is, and the "
        "records lack the confidences to take that off.",
        "",
        *_difference_tables(pools, arms),
        "## What averaging loses, and whether a member is just one network",
        "",
        "Members: the mean of the subnetworks' probabilities, at their number times the cost. Gap: members' "
        "minus averaged accuracy, in points. Agreement and KL: between members, on test images.",
        "",
        "| arm | members, acc. % | averaged, acc. % | gap | members' NLL | agreement | KL |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(row for arm in arms if (row := _member_row(arm))),
        "",
        *_other_averages(arms),
        "## What teachers show, and members follow",
        "",
        "On the images that students were trained on, perturbed as the arm does, in the epoch whose weights "
        "were kept: KL between two teachers and between two members at temperature 1, and the fraction of "
        "images on which two of them agree.",
        "",
        "| arm | teachers' KL | teachers agree | members' KL | members agree |",
        "|---|---:|---:|---:|---:|",
        *(row for arm in arms if (row := _seen_row(arm))),
        "",
    ]
    return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def chosen_by(regime: str | None) -> str:
    """How an arm's choice was made, in the sentence of a page; `regime`: another one's."""
    where = f" in {regime}" if regime else ""
    return f"what `ekd tune` found best{where} on validation images, with teachers and seeds of its own"


def difference(
    ours: Mapping[tuple[int, int], float], theirs: Mapping[tuple[int, int], float]
) -> tuple[float, float, float] | None:
    """The mean of ours - theirs over the pairs that both have, and its interval; None of fewer than two."""
    found = _paired(ours, theirs)
    return _with_interval(found) if len(found) > 1 else None


def over_images(ours: ArmResult, theirs: ArmResult) -> tuple[float, float, float]:
    """The difference of the accuracies over the pairs that both have, with Student's interval over images."""
    both = set(ours.pairs) & set(theirs.pairs)
    return _with_interval([a - b for a, b in zip(ours.hits(both), theirs.hits(both), strict=True)])


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's p of each of several tests: the chance that any is so small although none differs.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted, largest = {}, 0.0
    for index, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - index) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def _paired(ours: Mapping[tuple[int, int], float], theirs: Mapping[tuple[int, int], float]) -> list[float]:
    return [ours[pair] - theirs[pair] for pair in ours if pair in theirs]


def _with_interval(found: Sequence[float]) -> tuple[float, float, float]:
    from scipy.stats import ttest_1samp

    if _alike(found):
        return mean(found), mean(found), mean(found)
    interval = ttest_1samp(found, 0).confidence_interval(LEVEL)
    return mean(found), float(interval.low), float(interval.high)


def _p_value(found: Sequence[float]) -> float:
    from scipy.stats import ttest_1samp

    return 1.0 if _alike(found) else float(ttest_1samp(found, 0).pvalue)


def _alike(found: Sequence[float]) -> bool:
    """Whether they differ by rounding at most, of which no test says anything."""
    return max(found) - min(found) < 1e-9


def _pool_row(name: str, pool: Mapping[str, Any]) -> str:
    each = [100 * teacher["test"]["accuracy"] for teacher in pool["teachers"]]
    together = pool["ensemble"]["test"]
    return (
        f"| {name} | {', '.join(f'{value:.2f}' for value in each)} | {mean(each):.2f} | "
        f"{100 * together['accuracy']:.2f} | {together['nll']:.4f} | {together['cnll']:.4f} |"
    )


def _arm_row(arm: ArmResult) -> str:
    cells = [spread(arm.values(metric), 100 if metric == "accuracy" else 1) for metric in METRICS]
    choice = arm.choice
    temperature = choice.temperature if arm.arm.distils else None
    strength = choice.strength if arm.arm.perturbs else None
    chosen = ["–" if value is None else f"{value:g}" for value in (temperature, strength, choice.rate)]
    # A mean hides the one student of many that lost its way.
    lowest = f"{100 * min(arm.values('accuracy')):.1f}"
    return f"| {arm.title} | {' | '.join([*chosen, *cells, lowest])} |"


def _of_members(arms: Sequence[ArmResult]) -> list[str]:
    if all(arm.arm.predictor == "averaged" for arm in arms):
        return []
    told = (
        "Rows marked (members) are not: they are the members together, at their number times the cost, which "
        "is what is published of the method; what averaging makes of it stands below."
    )
    return [told, ""]


def _difference_tables(pools: Pools, arms: Sequence[ArmResult]) -> Iterator[str]:
    named = {arm.name: arm for arm in arms}
    for metric, title in METRICS.items():
        if metric in ("ece", "cece"):
            continue
        scale, digits = (100, 2) if metric == "accuracy" else (1, 4)
        references = [named[other] for other in ("control", "kd") if other in named]
        tests = {
            other.name: holm(
                {
                    arm.name: _p_value(found)
                    for arm in arms
                    if arm is not other
                    and len(found := _paired(arm.by_pair(metric), other.by_pair(metric))) > 1
                }
            )
            for other in references
        }
        images = metric == "accuracy"
        columns = [f"− {other.name} | p{' | over images' * images}" for other in references]
        yield f"| {title} of | {' | '.join([*columns, '− ensemble'])} |"
        yield f"|---|{'---:|' * (len(references) * (3 if images else 2) + 1)}"
        for arm in arms:
            cells = []
            for other in references:
                same = arm is other
                found = None if same else difference(arm.by_pair(metric), other.by_pair(metric))
                cells.append(interval(found, scale, digits))
                p = tests[other.name].get(arm.name)
                cells.append("–" if p is None else f"{p:.2g}")
                if images:
                    cells.append(interval(over_images(arm, other) if found else None, scale, digits))
            sets = pools[arm.arm.pool]
            ensemble = {pair: sets[pair[0]]["ensemble"]["test"][metric] for pair in arm.pairs}
            cells.append(interval(difference(arm.by_pair(metric), ensemble), scale, digits))
            yield f"| {arm.title} | {' | '.join(cells)} |"
        yield ""


def interval(found: tuple[float, float, float] | None, scale: float, digits: int) -> str:
    """A difference with its interval, in bold if that leaves out 0."""
    if found is None:
        return "–"
    middle, low, high = (scale * value for value in found)
    text = f"{middle:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _member_row(arm: ArmResult) -> str:
    members = arm.values("accuracy", "members")
    if not members:
        return ""
    diversity = [cell["diversity"] for cell in arm.cells]
    cells = [
        spread(members, 100),
        spread(arm.values("accuracy", "averaged"), 100),
        spread(arm.gaps(), 100),
        spread(arm.values("nll", "members")),
        *(spread([seed[name] for seed in diversity]) for name in ("agreement", "pairwise_kl")),
    ]
    return f"| {arm.name} | {' | '.join(cells)} |"


def _other_averages(arms: Sequence[ArmResult]) -> list[str]:
    with_some = [arm for arm in arms if all("averages" in cell for cell in arm.cells)]
    if not with_some:
        return []
    ways = [way for way in with_some[0].cells[0]["averages"] if way != "mean"]
    lines = [
        "## Is another average of the same members better?",
        "",
        "Of the same students, less their plain mean (accuracy in points), with Student's interval over the "
        "cells. Greedy soup: members are taken in the order of their validation accuracy while the average's "
        "does not fall. Weights: eight picks with replacement, each the one that lowers the average's "
        "validation NLL most. Statistics anew: the plain mean, with batch statistics measured on up to 1,000 "
        "training images.",
        "",
        f"| arm | {' | '.join(f'{way}: accuracy | NLL' for way in ways)} |",
        f"|---|{'---:|---:|' * len(ways)}",
    ]
    for arm in with_some:
        cells = []
        for way in ways:
            for metric, scale, digits in (("accuracy", 100, 2), ("nll", 1, 4)):
                gains = [
                    cell["averages"][way]["test"][metric] - cell["averages"]["mean"]["test"][metric]
                    for cell in arm.cells
                ]
                cells.append(interval(_with_interval(gains) if len(gains) > 1 else None, scale, digits))
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _seen_row(arm: ArmResult) -> str:
    records = [cell.get("best", {}) for cell in arm.cells]
    if not all(f"train/teachers_diversity/{key}" in record for record in records for key in _DIVERSITY):
        return ""
    cells = [
        spread([record[name] for record in records]) if all(name in record for record in records) else "–"
        for who in ("teachers", "members")
        for name in (f"train/{who}_diversity/{key}" for key in _DIVERSITY)
    ]
    return f"| {arm.name} | {' | '.join(cells)} |"


def spread(values: Sequence[float], scale: float = 1) -> str:
    """Mean ± standard deviation; of one value itself."""
    digits = 2 if scale == 100 else 4
    scaled = [scale * value for value in values]
    deviation = f" ± {stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{mean(scaled):.{digits}f}{deviation}"
