"""What an evaluation predicted, table by table and block by block: none needs the room of all."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ekd_train.data.description import DataDescription
from ekd_train.metrics import checked
from ekd_train.persistence.bounded_tensors import MOST_HEADER_BYTES
from ekd_train.persistence.checkpoint import (
    DamagedCheckpoint,
    load_tensors,
    load_typed,
    save_record,
    save_tensors,
)
from ekd_train.persistence.records import PredictionsRecord
from ekd_train.persistence.store import Store

PREDICTIONS = "evaluation/predictions"
SPLITS = ("validation", "test")
MOST_MEMBERS = 256
"""Of a student, for the room that predictions may take."""
BLOCK_VALUES = 2 << 20
"""Logits in one stored object, 8 MiB of them: temporary copies of larger ones break the heap into pieces."""
MOST_SHOWN = 1024
"""Images of an evaluation that are shown: mistakes, or what a perturbation does."""
INDICES, IMAGES = "mistakes/indices", "mistakes/images"
KEPT_BYTES = 256 << 20
"""Of tables that are kept for the next who asks; of a small data set these are all."""


def rows_of_a_block(members: int, classes: int) -> int:
    """How many images' logits `(members, rows, classes)` go into one object."""
    return max(1, BLOCK_VALUES // (members * classes))


class PredictionsWriter:
    """Stores tensors as they come, each in objects of its own; `commit` writes the record that names them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._objects: dict[str, tuple[str, ...]] = {}

    def add(self, key: str, tensor: Tensor) -> None:
        """Store `tensor`, the next block of `key`: of `<split>/<predictor>` logits `(s, rows, c)`."""
        there = self._objects.get(key, ())
        sha256 = save_tensors(self._store, _object(key, len(there)), {"values": tensor})
        self._objects[key] = (*there, sha256)

    def commit(self, record: PredictionsRecord) -> PredictionsRecord:
        """Store `record` with the hashes of all that was added; it."""
        record = record.model_copy(update={"holds": "logits", "objects": self._objects})
        save_record(self._store, f"{PREDICTIONS}.json", record.model_dump())
        return record


class Predictions(Mapping[str, Tensor]):
    """`<split>/labels` (n,), probabilities `<split>/<predictor>` (s, n, c) in float64, and further tensors.

    Each is read, and checked, when it is asked for. Probabilities are those of the stored logits: in float32
    a class whose logit is 104 below the largest has probability 0, and no temperature brings it back; in
    float64 one that is 745 below.

    Whatever is asked for raises `DamagedCheckpoint` where it is not what was predicted on the run's images.
    """

    def __init__(self, store: Store, record: PredictionsRecord, data: DataDescription) -> None:
        self._store, self._record, self._data = store, record, data
        self._kept: dict[str, Tensor] = {}
        self._whole: dict[str, Tensor] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._record.objects or self._in_one_file())

    def __contains__(self, key: object) -> bool:
        return key in (self._record.objects or self._in_one_file())

    def __len__(self) -> int:
        return len(self._record.objects or self._in_one_file())

    def __getitem__(self, key: str) -> Tensor:
        """A tensor, or a table whole: `pooled` and `blocks` need less room."""
        split, _, name = key.partition("/")
        if split not in SPLITS:
            return self._further(key)
        if name == "labels":
            return self._labels(split)
        return torch.cat(list(self.blocks(key)), dim=1)

    def pooled(self, key: str) -> Tensor:
        """Mean over the members, float64 `(n, c)`."""
        if key not in self._kept:
            # Filled block by block: joined at the end, they would be there twice.
            size = getattr(self._data, key.partition("/")[0]), self._data.num_classes
            found, first = torch.empty(size, dtype=torch.float64), 0
            for block in self.blocks(key):
                found[first : first + block.shape[1]] = block.mean(0)
                first += block.shape[1]
            with _damage(key):
                checked(found, self._labels(key.partition("/")[0]))
            if sum(map(_bytes, self._kept.values())) + _bytes(found) > KEPT_BYTES:
                return found
            self._kept[key] = found
        return self._kept[key]

    def blocks(self, key: str) -> Iterator[Tensor]:
        """Probabilities `(s, rows, c)` of one image after the other, in float64."""
        count, classes, seen = getattr(self._data, key.partition("/")[0]), self._data.num_classes, 0
        members = None
        for block in self._blocks(key):
            with _damage(key):
                if block.ndim != 3 or block.shape[2] != classes or 0 in block.shape:
                    raise ValueError(f"of shape {tuple(block.shape)}")
                if (members := members or len(block)) != len(block) or not block.is_floating_point():
                    raise ValueError("a block is of other members")
            if (seen := seen + block.shape[1]) > count:
                break
            yield block.double().softmax(dim=-1) if self._record.holds == "logits" else block
        with _damage(key):
            if seen != count:
                raise ValueError(f"of {seen} images, not {count}")

    def _blocks(self, key: str) -> Iterator[Tensor]:
        if not self._record.objects:
            yield self._in_one_file()[key]
            return
        most = 8 * max(BLOCK_VALUES, MOST_MEMBERS * self._data.num_classes) + MOST_HEADER_BYTES
        for number, sha256 in enumerate(self._record.objects[key]):
            yield self._read(key, number, sha256, most)

    def _read(self, key: str, number: int, sha256: str, most: int) -> Tensor:
        name = _object(key, number)
        found = load_tensors(self._store, name, sha256, most)
        if found.keys() != {"values"}:
            raise DamagedCheckpoint(f"{name}: not what an evaluation stores")
        return found["values"]

    def _labels(self, split: str) -> Tensor:
        key, count = f"{split}/labels", getattr(self._data, split)
        if key not in self._kept:
            found = self._small(key, 8 * count)
            with _damage(key):
                if found.shape != (count,) or found.is_floating_point():
                    raise ValueError(f"{found.dtype} of shape {tuple(found.shape)}")
            self._kept[key] = found
        return self._kept[key]

    def _further(self, key: str) -> Tensor:
        """A few images, or what networks say of a few."""
        one = math.prod(self._data.image_shape) + MOST_MEMBERS * self._data.num_classes
        most = 8 * MOST_SHOWN * one
        if key not in (INDICES, IMAGES):
            return self._small(key, most)
        with _damage(key):
            indices, images = self._small(INDICES, most), self._small(IMAGES, most)
            _check_mistakes(indices, images, self._data)
        return indices if key == INDICES else images

    def _small(self, key: str, most: int) -> Tensor:
        if not self._record.objects:
            return self._in_one_file()[key]
        (sha256,) = self._record.objects[key]
        return self._read(key, 0, sha256, most + MOST_HEADER_BYTES)

    def _in_one_file(self) -> dict[str, Tensor]:
        """All of it: of versions that stored it so."""
        if self._whole is None:
            image = self._data.num_classes * (MOST_MEMBERS + 2 * len(self._record.cost))
            image += math.prod(self._data.image_shape)
            most = 8 * (self._data.validation + self._data.test) * image + MOST_HEADER_BYTES
            self._whole = load_tensors(self._store, f"{PREDICTIONS}.safetensors", self._record.sha256, most)
        return self._whole


@contextmanager
def _damage(key: str) -> Iterator[None]:
    """What is found wrong in its block is damage of `key`."""
    try:
        yield
    except (KeyError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise DamagedCheckpoint(
            f"{PREDICTIONS}: {key}: not what was predicted on this run's images ({why})"
        ) from error


def load_predictions(store: Store, data: DataDescription, predictors: Iterable[str]) -> Predictions:
    """What an evaluation predicted.

    And, of runs since they are kept, the test images that the averaged student gets wrong and is surest of:
    `mistakes/indices` (m,) and `mistakes/images` uint8 (m, channel, height, width).

    `data`, `predictors`: of which data set, and whose predictions there must be. Raises `DamagedCheckpoint`
    where there are others, or a `LookupError` if there are none.
    """
    record = load_typed(store, f"{PREDICTIONS}.json", PredictionsRecord)
    found = Predictions(store, record, data)
    wanted = {f"{split}/{name}" for split in SPLITS for name in (*predictors, "labels")}
    if lacking := sorted(wanted - set(found)):
        raise DamagedCheckpoint(
            f"{PREDICTIONS}: not what was predicted on this run's images (there is no {lacking[0]})"
        )
    return found


def _object(key: str, number: int) -> str:
    return f"{PREDICTIONS}/{key}.{number}.safetensors"


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check_mistakes(indices: Tensor, images: Tensor, data: DataDescription) -> None:
    if indices.dtype != torch.int64 or images.dtype != torch.uint8:
        raise ValueError("they are of other types")
    if indices.ndim != 1 or images.shape != (len(indices), *data.image_shape):
        raise ValueError(f"the images are of shape {tuple(images.shape)}")
    if not torch.isin(indices, torch.arange(data.test)).all():
        raise ValueError("one is none of the test images")
