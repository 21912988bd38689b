"""Fashion-MNIST: 60,000 + 10,000 grey 28x28 images of clothes (Xiao et al., 2017)."""

import os
from pathlib import Path

from ekd_train.settings import DataSettings

from .dataset import Source, Split, checked_split
from .download import DEFAULT_ROOT, download
from .errors import DataError
from .idx import read_idx

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist installs the four files."""

TORCHVISION_FOLDER = Path("FashionMNIST/raw")
IMAGE_SIZE = 28
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def load_fashion_mnist(settings: DataSettings) -> Source:
    """Read the four IDX files, plain or gzip'd.

    They are looked for in `data.root` itself and where torchvision puts them under it; with no
    root, in Debian's folder and then in `data/`. `data.download` fetches what is missing.

    Raises:
        DataError: a file is missing, damaged or mislabelled, or its images are not 28x28.
    """
    folder = find_folder(settings.root)
    if folder is None and settings.download:
        download("fashion_mnist", Path(settings.root or DEFAULT_ROOT))
        folder = find_folder(settings.root)
    if folder is None:
        raise DataError(
            _first_missing(settings.root),
            "does not exist or cannot be reached",
            "install Debian's dataset-fashion-mnist, run `python -m ekd_train.data.prepare fashion_mnist`, "
            "or set data.root to the folder of the four files",
        )
    return Source(
        train=_read_split(folder, "train"),
        test=_read_split(folder, "t10k"),
        class_names=CLASS_NAMES,
        official_order=True,
    )


def find_folder(root: str | None) -> Path | None:
    """The first place that holds all four files, or None."""
    for folder in _places(root):
        if all(_find(folder, name) is not None for name in FILES):
            return folder
    return None


def _first_missing(root: str | None) -> Path:
    """The file that is wanting where most of the files are."""
    missing = [
        [folder / f"{name}.gz" for name in FILES if _find(folder, name) is None] for folder in _places(root)
    ]
    return min(reversed(missing), key=len)[0]


def _places(root: str | None) -> list[Path]:
    if root is None:
        return [DEBIAN_FOLDER, DEFAULT_ROOT / TORCHVISION_FOLDER]
    return [Path(root), Path(root) / TORCHVISION_FOLDER]


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if os.path.exists(path)), None)


def _read_split(folder: Path, prefix: str) -> Split:
    images_path = _find(folder, f"{prefix}-images-idx3-ubyte") or folder
    labels_path = _find(folder, f"{prefix}-labels-idx1-ubyte") or folder
    images = read_idx(images_path, axes=3)
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        height, width = images.shape[1:]
        raise DataError(
            images_path,
            f"holds {height}x{width} images, not {IMAGE_SIZE}x{IMAGE_SIZE}",
            "fetch the file again",
        )
    return checked_split(images[:, None], read_idx(labels_path, axes=1), len(CLASS_NAMES), labels_path)
