"""Fetching data sets through torchvision, which knows their mirrors and checksums."""

from pathlib import Path

from .errors import DataError

DEFAULT_ROOT = Path("data")
"""Where files are kept when `data.root` is not set."""

TORCHVISION_CLASSES = {"fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


def download(name: str, root: Path) -> None:
    """Download a data set under `root`, in torchvision's layout; what is there is not fetched again.

    Raises:
        DataError: torchvision cannot download this data set, or failed to.
    """
    if name not in TORCHVISION_CLASSES:
        raise DataError(
            root,
            f"{name} cannot be downloaded (only {', '.join(TORCHVISION_CLASSES)} can)",
            "put its files there yourself and set data.root",
        )
    from torchvision import datasets  # brings torch with it: only when something must be fetched

    known = getattr(datasets, TORCHVISION_CLASSES[name])
    try:
        if name == "fashion_mnist":
            known(root, download=True)
        else:  # making the class would unpickle what it has fetched
            datasets.utils.download_and_extract_archive(known.url, root, None, known.filename, known.tgz_md5)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum a RuntimeError
        raise DataError(
            root,
            f"{name} could not be downloaded ({error})",
            "check the network, or copy the files there from a machine that has it",
        ) from error
