"""`python -m ekd_train.data.prepare NAME --root FOLDER`: put a data set's files in place and check them."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ekd_train.settings import DataSettings

from . import DataError, fashion_mnist, load_dataset
from .download import DEFAULT_ROOT, TORCHVISION_CLASSES


def prepare(name: str, root: Path) -> str:
    """Make `data.root = root` usable for a data set, and say in a line what lies there.

    Fashion-MNIST is copied from Debian's package where that is installed; what is still
    missing is downloaded. Everything is then loaded, so a damaged file shows here.

    Raises:
        DataError: the files can be had from nowhere, or are damaged.
    """
    if name == "fashion_mnist" and fashion_mnist.find_folder(str(root)) is None:
        _copy_from_debian(root)
    dataset = load_dataset(DataSettings.model_validate({"name": name, "root": str(root), "download": True}))
    shape = "x".join(map(str, dataset.image_shape))
    return (
        f"{name} is ready in {root}: {len(dataset.train)} training, {len(dataset.validation)} validation and "
        f"{len(dataset.test)} test images of {shape}, fingerprint {dataset.short_fingerprint}"
    )


def _copy_from_debian(root: Path) -> None:
    source = fashion_mnist.find_folder(str(fashion_mnist.DEBIAN_FOLDER))
    if source is None:
        return
    target = root / fashion_mnist.TORCHVISION_FOLDER
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in fashion_mnist.FILES:
            shutil.copyfile(source / f"{name}.gz", target / f"{name}.gz")
    except OSError as error:
        raise DataError(target, f"cannot be written ({error.strerror})", "choose another --root") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when the data is ready, 2 (and one line on stderr) when it is not."""
    parser = argparse.ArgumentParser(
        prog="python -m ekd_train.data.prepare", description="Fetch a data set and check that it loads."
    )
    parser.add_argument("name", choices=sorted(TORCHVISION_CLASSES))
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT, help="where to keep it (default: data/)")
    chosen = parser.parse_args(arguments)
    try:
        print(prepare(chosen.name, chosen.root))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
