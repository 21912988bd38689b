"""What a worker process imports before it can train: seconds in every process of a run."""

import subprocess
import sys

import pytest

SLOW = ("torchvision", "torch._dynamo", "mlflow", "sklearn", "matplotlib")


@pytest.mark.slow
def test_a_worker_imports_nothing_slow_that_it_may_not_need():
    code = f"import ekd_train.workers.worker, sys; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_loading_the_digits_does_not_import_scikit_learn():
    code = (
        "import sys; from ekd_train.data import load_dataset; from ekd_train.settings import DataSettings;"
        "load_dataset(DataSettings(validation_size=300, test_size=300)); print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
