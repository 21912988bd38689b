"""What a search gained over the experiment as it stands, in words."""

from orchestrator.pipeline.manifest_content import ManifestContent

UNFINISHED = {"out_of_time": "ran out of time", "failed": "failed", "waiting": "was never begun"}
"""How the first trial of a search may end before it is trained in full."""


def gained(manifest: ManifestContent) -> str:
    """A sentence on what a search gained over the experiment as it stands; empty: nothing is to be said."""
    if not manifest.done("search"):
        return ""
    found, gain = manifest.searched, manifest.evaluated.gain if manifest.done("evaluate") else None
    if found.baseline is None:
        if found.baseline_ended is None:
            return ""
        ended = UNFINISHED.get(found.baseline_ended, found.baseline_ended)
        return f"What was gained is not known: the experiment as it stands, the first trial, {ended}."
    name = f"the experiment as it stands ({found.baseline.trial})"
    if found.baseline.trial == found.best.trial:
        return f"No trial was better on validation images than {name}: what is registered is as of `ekd run`."
    if gain is None:
        noted = manifest.done("evaluate") and found.baseline_ended is not None
        return f"What was gained is not known: the network of {name} is not stored whole." if noted else ""
    points = f"{100 * gain.value:+.2f} points [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"
    chance = ", which may be chance" if gain.low <= 0 <= gain.high else ""
    if gain.value < 0:
        return (
            f"WARNING: what is registered is worse on validation images than {name}: {points} of accuracy"
            f"{chance}. The best trial was chosen by the mean over its seeds, of what student.select_by "
            "names; the average of its first seed is registered."
        )
    return f"{points} of validation accuracy over {name}{chance}; the best was chosen on these images."
