import pytest

from ekd_train.data import DataError
from ekd_train.persistence.checkpoint import DamagedCheckpoint
from ekd_train.training.errors import TrainingDiverged
from orchestrator.runtime.retry import cause_of, failure_kind
from orchestrator.storage import Conflict, MissingKey, StorageError


class OutOfMemoryError(RuntimeError):
    """As torch's for GPUs."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrainingDiverged("nan"), "hopeless"),
        (DamagedCheckpoint("x"), "hopeless"),
        (DataError("f", "is damaged", "fetch it"), "hopeless"),
        (ValueError("x"), "hopeless"),
        (KeyError("x"), "hopeless"),
        (ModuleNotFoundError("x"), "hopeless"),
        (OutOfMemoryError("x"), "hopeless"),
        (RuntimeError("[/pytorch/gloo/pair.cc:1] Connection closed by peer"), "transient"),
        (ConnectionResetError(), "transient"),
        (TimeoutError(), "transient"),
        (StorageError("s3://b", "away", "wait"), "transient"),
        (MissingKey("s3://b/k"), "transient"),
        (Conflict("s3://b/k"), "transient"),
        (SystemExit(1), "transient"),
    ],
)
def test_what_depends_on_settings_data_and_code_alone_is_not_tried_again(error, kind):
    assert failure_kind(error) == kind


def test_of_quoted_tracebacks_only_what_they_end_in_is_said():
    text = (
        "Training failed due to worker errors:\n[Rank 1 Error Snippet]:\nTraceback (most recent call last):\n"
        '  File "worker.py", line 160, in work\n    record = execute()\n             ^^^^^^^^^\n'
        "RuntimeError: value cannot be converted\n"
    )
    assert cause_of(text) == "training failed: RuntimeError: value cannot be converted"
    assert cause_of("the group\ncould not  be placed") == "the group could not be placed"
