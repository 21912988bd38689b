"""Predictions of named predictors, and what is measured of them."""

import torch
from torch import Tensor, nn

from ekd_train.data.augment import as_float
from ekd_train.data.packed.loader import StreamedImages
from ekd_train.data.tensors import in_batches
from ekd_train.distributed import Workers
from ekd_train.evaluation.diversity import diversity
from ekd_train.metrics import all_metrics
from ekd_train.models.batch_ensemble import BatchEnsemble, factor_spread
from ekd_train.models.build_network import averaged, member_logits
from ekd_train.models.subnetworks import Subnetworks

ROWS_ON_A_CPU, ROWS_ELSEWHERE = 128, 500
"""Rows that a network is given at once. On a CPU the maps of so few stay in its cache, which makes
predictions almost twice as fast as with 500 (docs/log.md)."""


def predict(
    network: nn.Module,
    images: Tensor | StreamedImages,
    workers: Workers = Workers(),
    batch_size: int | None = None,
) -> Tensor:
    """Class probabilities `(s, n, c)` of `network` for uint8 `images (n, ...)`: see `predict_logits`."""
    return predict_logits(network, images, workers, batch_size).softmax(dim=-1)


@torch.no_grad()
def predict_logits(
    network: nn.Module,
    images: Tensor | StreamedImages,
    workers: Workers = Workers(),
    batch_size: int | None = None,
    rows: range | None = None,
) -> Tensor:
    """Logits `(s, n, c)` of `network` for uint8 `images (n, ...)`, on every worker; float32 at least.

    The network is evaluated in evaluation mode and left in the mode it was in. A plain
    network has s = 1; `Teachers` and a student with subnetworks have one row for each.
    `batch_size`: images at once; None: as suits the device. `rows`: of which images alone, one after the
    other; None: of all.
    """
    rows = rows or range(len(images))
    training = network.training
    network.eval()
    first, last = workers.shard(len(rows))
    start, stop = rows.start + first, rows.start + last
    batch_size = batch_size or _images_at_once(network, images.device)
    # At least one batch: where there are fewer images than workers, an empty one has the right shape.
    starts = range(start, max(stop, start + 1), batch_size)
    batches = in_batches(images, [slice(i, min(i + batch_size, stop)) for i in starts])
    logits = [_precise(member_logits(network, as_float(batch))) for batch in batches]
    network.train(training)
    return workers.concatenate(torch.cat(logits, dim=1), len(rows), dim=1)


def _precise(logits: Tensor) -> Tensor:
    """In float32 at least: in bfloat16 a softmax would have two digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _images_at_once(network: nn.Module, device: torch.device) -> int:
    rows = ROWS_ON_A_CPU if device.type == "cpu" else ROWS_ELSEWHERE
    # The members of a BatchEnsemble are rows of one batch.
    return max(1, rows // network.num_members) if isinstance(network, BatchEnsemble) else rows


def validate(
    network: nn.Module, images: Tensor | StreamedImages, labels: Tensor, workers: Workers = Workers()
) -> dict[str, float]:
    """What is logged of `network` at the end of an epoch, on the validation split.

    For every network: `averaged/accuracy`, `averaged/nll`, `averaged/ece`, `averaged/brier` of
    the plain network that it averages to (a plain network is its own average). For a student
    with subnetworks also `members/*` of the members' mean probability, `averaging_gap` (members'
    accuracy minus averaged accuracy), `members_diversity/*` and the factors' spread.
    Raises `FloatingPointError` for predictions that are NaN.
    """
    plain = averaged(network)
    record = _named("averaged", all_metrics(_numbers(predict(plain, images, workers)).mean(0), labels))
    if isinstance(network, Subnetworks):
        members = _numbers(predict(network, images, workers))
        record |= _named("members", all_metrics(members.mean(0), labels))
        record["averaging_gap"] = record["members/accuracy"] - record["averaged/accuracy"]
        record |= _named("members_diversity", diversity(members))
    if isinstance(network, BatchEnsemble):
        record |= _named("factors", factor_spread(network))
    return record


def _numbers(probs: Tensor) -> Tensor:
    if not probs.isfinite().all():
        raise FloatingPointError("the predictions for validation images became NaN")
    return probs


def averaging_gap_warning(history: list[dict[str, float]], threshold: float = 0.05) -> str | None:
    """A warning for the user when the averaging gap has opened, else None.

    The gap is open when it was above `threshold` (a fraction of the validation images) in the
    last two validations; one alone is noise of the first epochs. Said once per opening.
    """
    gaps = [record.get("averaging_gap", 0.0) for record in history[-3:]]
    if len(gaps) < 2 or min(gaps[-2:]) <= threshold or (len(gaps) == 3 and gaps[-3] > threshold):
        return None
    last = history[-1]
    spread = ""
    if "factors/r_min" in last:
        low = min(last["factors/r_min"], last["factors/s_min"])
        high = max(last["factors/r_max"], last["factors/s_max"])
        spread = f" The factors lie in {low:.2f} to {high:.2f}; the average needs them near 1."
    return (
        f"THE AVERAGING GAP HAS OPENED: after epoch {last['epoch']:.0f} the members reach "
        f"{100 * last['members/accuracy']:.1f} % but their average {100 * last['averaged/accuracy']:.1f} %."
        f"{spread} Lower student.training.learning_rate or student.factors.learning_rate_multiplier, "
        "or raise student.factors.warmup_epochs (for ekd: keep student.branches.init=copies and split later)."
    )


def _named(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
