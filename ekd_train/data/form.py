"""In which form a listing's images are held: decoded in memory, or packed."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from ekd_train.settings import DataSettings

from .dataset import Channels, PackedForm, Source, Split
from .image_decoding import decode
from .image_files import Listing
from .memory import room_for_images
from .packed.images import PackedImages
from .packed.index import read_index
from .packed.pack import pack, packed_folder
from .pixels import GREY_MODES, header

STAND_IN: tuple[Channels, Channels] = ((0.5,), (0.25,))
"""Mean and standard deviation of a channel of what is not packed yet."""


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Packing:
    """What to do with images that would not fit decoded."""

    make: bool = True
    """Pack them; else what is not packed yet is only described."""
    room: int | None = None
    """Bytes that decoded images may take; None: as this machine has."""
    progress: Callable[[int, int], None] = _silent
    """Told how many images of how many are packed."""


def source_of(listing: Listing, settings: DataSettings, packing: Packing = Packing()) -> Source:
    """The images of a listing: in memory if they fit there, else packed, as `data.pack` says.

    Raises `DataError`: see `decode` and `pack`.
    """
    form = form_of(listing, settings, packing.room)
    if form is None:
        return decode(listing, settings)
    if packing.make and not form.made:
        pack(listing, settings, form.folder, packing.progress)
    return _packed(listing, settings, form)


def form_of(listing: Listing, settings: DataSettings, room: int | None = None) -> PackedForm | None:
    """How the listing's images are packed; None where they are held in memory. Nothing is decoded.

    Raises `DataError` if the first image is none.
    """
    if settings.pack == "never" or settings.image_size is None:
        return None
    first = next(files.image(0) for files in listing.splits.values())
    channels = 1 if header(first, settings.max_image_pixels)[0] in GREY_MODES else 3
    count = sum(len(files.names) for files in listing.splits.values())
    decoded = count * channels * settings.image_size**2
    room = room_for_images() if room is None else room
    whole_photographs = settings.augmentation.crop == "photograph"  # of which memory holds squares only
    if settings.pack == "auto" and decoded <= room and not whole_photographs:
        return None
    folder, encoded = packed_folder(listing, settings)
    return PackedForm(folder, count, encoded, decoded, room, grey=channels == 1)


def _packed(listing: Listing, settings: DataSettings, form: PackedForm) -> Source:
    grey, findings = form.grey, listing.findings
    (mean,), (std,) = STAND_IN
    normalisation = (mean,) * (1 if grey else 3), (std,) * (1 if grey else 3)
    if form.made:
        index = read_index(form.folder, form.images)
        grey, normalisation = index.grey, (index.mean, index.std)
        findings = (*findings, *index.findings)
    splits = {}
    ends = [0, *accumulate(len(files.names) for files in listing.splits.values())]
    for (split, files), (start, stop) in zip(listing.splits.items(), pairwise(ends), strict=True):
        rows = np.arange(start, stop, dtype=np.int64)
        images = PackedImages(form.folder, rows, grey, settings)
        splits[split] = Split(images, files.labels, np.array(files.names, dtype=object))
    return Source(
        train=splits["train"],
        test=splits.get("test"),
        class_names=listing.class_names,
        official_order=False,
        validation=splits.get("validation"),
        normalisation=normalisation,
        findings=findings,
        packed=form,
    )
