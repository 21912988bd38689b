"""What the final cells say: means and spreads over seeds, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from benchmarks.study.arms import Arm
from benchmarks.study.choice import Choice

METRICS = {"accuracy": "acc. %", "nll": "NLL", "cnll": "cNLL", "ece": "ECE", "cece": "cECE"}
LEVEL = 0.95
_DIVERSITY = ("pairwise_kl", "agreement")


@dataclass(frozen=True)
class ArmResult:
    """An arm's final cells: one dictionary a seed, as `run_cell` returns them."""

    arm: Arm
    choice: Choice
    seeds: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The arm's."""
        return self.arm.name

    @property
    def title(self) -> str:
        """The arm's name, and what of it is compared where that is not one averaged network."""
        return self.name if self.arm.predictor == "averaged" else f"{self.name} ({self.arm.predictor})"

    def values(self, metric: str, predictor: str | None = None) -> list[float]:
        """The metric on test images, one value a seed; empty where there is no such predictor.

        `predictor`: "averaged" or "members"; by default that which the arm is compared by.
        """
        of = predictor or self.arm.predictor
        return [seed[of]["test"][metric] for seed in self.seeds if of in seed]

    def gaps(self) -> list[float]:
        """Of an arm with members: their accuracy minus the averaged network's, one value a seed."""
        both = zip(self.values("accuracy", "members"), self.values("accuracy", "averaged"), strict=True)
        return [members - averaged for members, averaged in both]


def page(
    regime: str,
    because: str,
    pools: Mapping[str, Mapping[str, Any]],
    arms: Sequence[ArmResult],
    *,
    command: str,
    chosen: str,
) -> str:
    """The results of a regime in Markdown.

    Args:
        regime: its name.
        because: how it was found.
        pools: teachers and their ensemble, by the pool's name.
        arms: in the order of the tables.
        command: what made them.
        chosen: how temperature, strength, rate and warm-up were found, to follow "are".
    """
    seeds = max(len(arm.seeds) for arm in arms)
    of_seeds = f"{seeds} seeds of every student" if seeds > 1 else "one seed of every student, so no spread"
    lines = [
        f"# Study: {regime}",
        "",
        f"{because}.",
        "",
        f"`{command}`: {of_seeds}, one set of teachers; mean ± standard deviation over "
        "the student's seeds (the spread over sets of teachers is not in it). Temperature τ, strength, rate "
        f"(the share of the regime's) and epochs of warm-up (–: the regime's) are {chosen}. "
        "Test images had no part in that.",
        "",
        "## Teachers",
        "",
        "| pool | each teacher, acc. % | their mean | ensemble | ensemble NLL | cNLL |",
        "|---|---|---:|---:|---:|---:|",
        *(_pool_row(name, pool) for name, pool in pools.items()),
        "",
        "## Students: the averaged, single network",
        "",
        *_of_members(arms),
        f"| arm | τ | strength | rate | warm-up | {' | '.join(METRICS.values())} | each seed, acc. % |",
        f"|---|---:|---:|---:|---:|{'---:|' * len(METRICS)}---|",
        *(_arm_row(arm) for arm in arms),
        "",
        "## Against control, plain KD and the ensemble",
        "",
        "Differences of the means over seeds, accuracy in points, with Welch's "
        f"{100 * LEVEL:g} % interval; against the ensemble, which is one, Student's. Bold: the interval "
        "leaves out 0. Of so many intervals some do by chance.",
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


def chosen_by(regime: str | None) -> str:
    """How an arm's choice was made, in the sentence of a page; `regime`: another one's."""
    where = f" in {regime}" if regime else ""
    return f"what `ekd tune` found best{where} on validation images, with teachers and seeds of its own"


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean(ours) - mean(theirs) and Welch's interval; None for fewer than two seeds on a side."""
    from scipy.stats import ttest_ind

    if min(len(ours), len(theirs)) < 2:
        return None
    interval = ttest_ind(ours, theirs, equal_var=False).confidence_interval(LEVEL)
    return mean(ours) - mean(theirs), float(interval.low), float(interval.high)


def distance(ours: Sequence[float], reference: float) -> tuple[float, float, float] | None:
    """Mean(ours) - reference and Student's interval; None for fewer than two seeds."""
    from scipy.stats import ttest_1samp

    if len(ours) < 2:
        return None
    interval = ttest_1samp(ours, reference).confidence_interval(LEVEL)
    return mean(ours) - reference, float(interval.low) - reference, float(interval.high) - reference


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
    values = (temperature, strength, choice.rate, choice.warmup)
    chosen = ["–" if value is None else f"{value:g}" for value in values]
    # A mean hides the one student of four that lost its way.
    each = ", ".join(f"{100 * value:.1f}" for value in arm.values("accuracy"))
    return f"| {arm.title} | {' | '.join([*chosen, *cells, each])} |"


def _of_members(arms: Sequence[ArmResult]) -> list[str]:
    if all(arm.arm.predictor == "averaged" for arm in arms):
        return []
    told = (
        "Rows marked (members) are not: they are the members together, at their number times the cost, which "
        "is what is published of the method; what averaging makes of it stands below."
    )
    return [told, ""]


def _difference_tables(pools: Mapping[str, Mapping[str, Any]], arms: Sequence[ArmResult]) -> Iterator[str]:
    named = {arm.name: arm for arm in arms}
    for metric, title in METRICS.items():
        if metric == "cece":
            continue
        scale, digits = (100, 2) if metric == "accuracy" else (1, 4)
        yield from (f"| {title} of | − control | − kd | − ensemble |", "|---|---:|---:|---:|")
        for arm in arms:
            values = arm.values(metric)
            found = [
                difference(values, named[other].values(metric))
                if other in named and other != arm.name
                else None
                for other in ("control", "kd")
            ]
            ensemble = pools[arm.arm.pool]["ensemble"]["test"][metric]
            cells = [interval(one, scale, digits) for one in (*found, distance(values, ensemble))]
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
    diversity = [seed["diversity"] for seed in arm.seeds]
    cells = [
        spread(members, 100),
        spread(arm.values("accuracy", "averaged"), 100),
        spread(arm.gaps(), 100),
        spread(arm.values("nll", "members")),
        *(spread([seed[name] for seed in diversity]) for name in ("agreement", "pairwise_kl")),
    ]
    return f"| {arm.name} | {' | '.join(cells)} |"


def _seen_row(arm: ArmResult) -> str:
    records = [seed.get("best", {}) for seed in arm.seeds]
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
