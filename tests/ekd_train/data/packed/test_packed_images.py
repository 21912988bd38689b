"""Images that would not fit into memory are packed: the same pixels, found again, believed when checked."""

import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ekd_train.data import DataError, Packing, load_dataset
from ekd_train.data.form import form_of
from ekd_train.data.image_folder import list_image_folder
from ekd_train.data.packed import images as packed_images
from ekd_train.data.packed import pack as packing
from ekd_train.data.packed.index import INDEX, read_arrays, write_arrays
from ekd_train.data.packed.pack import pack, packed_folder
from ekd_train.data.packed.records import records_in
from ekd_train.data.tensors import in_batches, place
from ekd_train.settings import DataSettings

EACH = 9


def damage_body(file):
    """A PNG that begins and ends as it should, whatever it is called."""
    written = BytesIO()
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
        written, "PNG"
    )
    body = bytearray(written.getvalue())
    body[1000:3000] = bytes(2000)
    file.write_bytes(body)


def settings(root, **choices):
    values = {"name": "image_folder", "root": str(root), "image_size": 12, "validation_size": 4}
    return DataSettings.model_validate(values | {"pack": "always"} | choices)


def no_decoding(monkeypatch):
    def refuse(*_):
        raise AssertionError("something was decoded")

    monkeypatch.setattr(packed_images, "pixels", refuse)


def pack_of(root, **choices):
    return load_dataset(settings(root, **choices)).packed.folder


@pytest.mark.parametrize("choices", [{}, {"resize": "pad"}, {"resize": "squash"}, {"train_fraction": 0.6}])
def test_packed_images_are_those_of_memory(root, choices):
    packed, held = (
        load_dataset(settings(root, **choices)),
        load_dataset(settings(root, pack="never", **choices)),
    )
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(packed, split), getattr(held, split)
        assert np.array_equal(ours.images[:], theirs.images)
        assert np.array_equal(ours.labels, theirs.labels)


def test_grey_photographs_have_one_channel(tmp_path):
    for name in ("a", "b"):
        for number in range(6):
            path = tmp_path / "grey/train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((12, 12), 20 * number + len(name), dtype=np.uint8)).save(path)
    data = load_dataset(settings(tmp_path / "grey", test_size=2))
    assert data.image_shape == (1, 12, 12)
    assert len(data.mean) == 1


def test_images_are_packed_where_they_would_not_fit_decoded(root):
    listing, auto = list_image_folder(settings(root)), settings(root, pack="auto")
    needed = (2 * EACH + 6) * 3 * 12 * 12
    assert form_of(listing, auto, room=needed) is None
    form = form_of(listing, auto, room=needed - 1)
    assert form is not None
    assert (form.images, form.decoded_bytes) == (2 * EACH + 6, needed)
    assert load_dataset(auto, Packing(room=needed - 1)).packed.made
    assert load_dataset(auto).packed is None  # though a pack is there: only settings and memory decide


def test_a_second_run_finds_the_pack_and_decodes_nothing_to_know_what_it_is(root, monkeypatch):
    first = load_dataset(settings(root))
    shard = first.packed.folder / "shard-00000.array_record"
    before, known = shard.stat().st_mtime_ns, (first.fingerprint, first.mean, first.std)
    records_in.cache_clear()
    no_decoding(monkeypatch)
    again = load_dataset(settings(root))
    assert (again.fingerprint, again.mean, again.std) == known
    assert shard.stat().st_mtime_ns == before


def test_a_plan_packs_nothing(root, cache):
    described = load_dataset(settings(root), Packing(make=False))
    assert not described.packed.made
    assert not cache.exists()
    assert (len(described.train), described.image_shape) == (2 * EACH - 4, (3, 12, 12))
    assert described.packed.encoded_bytes == sum(f.stat().st_size for f in root.rglob("*.jpg"))


def test_a_changed_file_is_another_pack_and_another_fingerprint(root, write_photograph):
    before = load_dataset(settings(root))
    write_photograph(root / "train/cat/0.jpg", 77)
    after = load_dataset(settings(root))
    assert before.packed.folder != after.packed.folder
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("choices", [{"image_size": 13}, {"resize": "pad"}, {"background": 3}])
def test_what_decides_the_pixels_is_in_the_fingerprint(root, choices):
    assert load_dataset(settings(root)).fingerprint != load_dataset(settings(root, **choices)).fingerprint


def test_the_fingerprint_is_of_bytes_and_labels_not_of_names_or_times(root):
    before = load_dataset(settings(root)).fingerprint
    (root / "train/cat/0.jpg").rename(root / "train/cat/00.jpg")
    os.utime(root / "train/dog/3.jpg", (1, 1))
    assert load_dataset(settings(root)).fingerprint == before
    (root / "train/cat/8.jpg").rename(root / "train/dog/99.jpg")
    assert load_dataset(settings(root)).fingerprint != before


def test_packing_goes_on_after_the_last_whole_shard(root, monkeypatch):
    chosen = settings(root)
    listing = list_image_folder(chosen)
    folder, _ = packed_folder(listing, chosen)
    opened, whole, stored = [], packing.write_arrays, packing._stored

    def interrupted(file, *rest):
        if file.name == "part-00002.safetensors":
            raise KeyboardInterrupt
        whole(file, *rest)

    monkeypatch.setattr(packing, "write_arrays", interrupted)
    monkeypatch.setattr(packing.os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(KeyboardInterrupt):
        pack(listing, chosen, folder, lambda *_: None, a_shard=5)
    assert not folder.exists()
    monkeypatch.setattr(packing, "write_arrays", whole)
    monkeypatch.setattr(packing, "_stored", lambda image, s: opened.append(image.name) or stored(image, s))
    told = []
    pack(listing, chosen, folder, lambda *done: told.append(done), a_shard=5)
    assert 0 < len(opened) < 24 - 2 * 5 + 1
    assert told[-1] == (24, 24)
    assert sorted(p.name for p in folder.glob("*.array_record")) == [
        f"shard-{number:05d}.array_record" for number in range(5)
    ]
    assert np.array_equal(
        load_dataset(chosen).test.images[:], load_dataset(settings(root, pack="never")).test.images
    )


def test_a_file_that_is_no_image_is_named(root):
    (root / "train/cat/5.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat/5\.jpg"):
        load_dataset(settings(root))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_a_file_that_ends_too_early_is_named_when_it_is_packed_and_not_hours_later(root, suffix):
    """None of the few that statistics are taken of."""
    whole = root / f"test/cat/0.{suffix}"
    Image.open(root / "test/cat/0.jpg").save(whole)
    load_dataset(settings(root))
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(DataError, match=rf"test/cat/0\.{suffix}: cannot be decoded"):
        load_dataset(settings(root))


def test_a_photograph_with_an_odd_exif_block_is_named_once_and_with_the_others(root, capfd):
    for number in range(3):
        path = root / f"test/cat/{number}.jpg"
        Image.open(path).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    data = load_dataset(settings(root))
    data.test.images[:]
    (finding,) = [finding for finding in data.findings if "EXIF" in finding]
    assert "test/cat/0.jpg and 2 more: " in finding
    assert capfd.readouterr().err == ""


def test_an_image_whose_body_is_damaged_is_named_when_it_is_decoded(root):
    damage_body(root / "test/cat/1.jpg")
    data = load_dataset(settings(root))
    with pytest.raises(DataError, match=r"test/cat/1\.jpg: cannot be decoded"):
        data.test.images[:]


def test_photographs_are_stored_at_a_short_side(root):
    small, whole = pack_of(root, pack_short_side=14), pack_of(root)
    assert small != whole
    sizes = {Image.open(records_in(small).image(row).open()).size for row in range(24)}
    assert sizes == {(19, 14)}
    close = load_dataset(settings(root, pack_short_side=14)).test.images[:].astype(int)
    assert np.abs(close - load_dataset(settings(root)).test.images[:]).mean() < 8


def test_mean_and_deviation_are_those_of_the_training_images(root):
    data, held = load_dataset(settings(root)), load_dataset(settings(root, pack="never", image_size=18))
    assert np.allclose(data.mean, held.mean, atol=0.02)
    assert np.allclose(data.std, held.std, atol=0.03)


def cut(file):
    file.write_bytes(file.read_bytes()[:-70000])


def swap(file):
    data = bytearray(file.read_bytes())
    start = data.index(b"\xff\xd8\xff") + 100
    data[start : start + 20] = bytes(20)
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, swap, Path.unlink], ids=lambda f: f.__name__)
def test_a_damaged_shard_is_named_and_nothing_of_it_used(root, damage):
    data = load_dataset(settings(root))
    damage(data.packed.folder / "shard-00000.array_record")
    records_in.cache_clear()
    with pytest.raises(DataError, match=r"shard-00000\.array_record: is damaged .* it is packed again"):
        data.train.images[:]


def test_a_record_that_is_not_what_the_index_says_is_refused(root):
    data = load_dataset(settings(root))
    file = data.packed.folder / INDEX
    arrays, _ = read_arrays(file)
    arrays["digests"] = np.roll(arrays["digests"], 1, axis=0)
    write_arrays(file, arrays)
    records_in.cache_clear()
    with pytest.raises(DataError, match="is not what was packed"):
        data.train.images[:]


@pytest.mark.attack
def test_a_packed_image_of_too_many_pixels_is_refused_where_it_is_decoded(root):
    """A pack that was fetched from a storage may hold other images than were looked at."""
    images = load_dataset(settings(root)).train.images
    narrow = replace(images, settings=settings(root, max_image_pixels=16))
    with pytest.raises(DataError, match=r"pixels, more than data\.max_image_pixels=16"):
        narrow[:]


@pytest.mark.parametrize(
    "change",
    [
        {"digests": np.zeros((3, 16), np.uint8)},
        {"digests": np.zeros((24, 15), np.uint8)},
        {"shards": np.array([0, 30])},
        {"shards": np.array([0, 30, 24])},
        {"shards": np.array([0.0, 24.0])},
        {"mean": np.array([np.nan] * 3)},
        {"std": np.zeros(3)},
        {"std": np.ones(2)},
    ],
    ids=str,
)
def test_an_index_that_does_not_fit_its_listing_is_refused(root, change):
    file = pack_of(root) / INDEX
    write_arrays(file, read_arrays(file)[0] | change)
    records_in.cache_clear()
    with pytest.raises(DataError, match=r"index\.safetensors: is damaged"):
        load_dataset(settings(root))


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x08" + bytes(7) + b'{"a": 1}'])
def test_an_index_that_is_no_index_is_refused(root, content):
    (pack_of(root) / INDEX).write_bytes(content)
    records_in.cache_clear()
    with pytest.raises(DataError, match=r"index\.safetensors: is damaged"):
        load_dataset(settings(root))


def test_the_same_files_in_two_splits_are_found_by_their_bytes(root):
    (root / "test/cat/0.jpg").write_bytes((root / "train/dog/0.jpg").read_bytes())
    found = load_dataset(settings(root)).findings
    assert any("in another split" in line and "test/cat/0.jpg" in line for line in found)
    assert any("in two classes" in line for line in found)


def test_a_search_sees_no_test_images_under_the_same_fingerprint(root):
    data = load_dataset(settings(root))
    seen = data.without_test_images()
    assert (len(seen.test), seen.fingerprint) == (0, data.fingerprint)


def test_tensors_of_packed_images_are_those_of_memory(root):
    ours = place(load_dataset(settings(root)), torch.device("cpu")).training.train
    theirs = place(load_dataset(settings(root, pack="never")), torch.device("cpu")).training.train
    assert ours.images.shape == theirs.images.shape
    rows = torch.tensor([3, 0, 11, 3])
    assert torch.equal(ours.images[rows], theirs.images[rows])
    slices = [slice(0, 5), slice(5, 9), slice(9, 14)]
    for mine, other in zip(in_batches(ours.images, slices), in_batches(theirs.images, slices), strict=True):
        assert torch.equal(mine, other)


def test_a_stream_that_another_one_replaced_is_not_live(root):
    images = place(load_dataset(settings(root)), torch.device("cpu")).training.train.images
    first = images.stream([slice(0, 2), slice(2, 4)])
    assert torch.equal(next(first), images[:2])
    assert first.live
    images.stream([slice(0, 1)])
    assert not first.live


def test_loading_does_not_move_the_global_generator(root):
    images = place(load_dataset(settings(root)), torch.device("cpu")).training.train.images
    before = torch.random.get_rng_state()
    next(images.stream([slice(0, 2)]))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_loader_processes_give_the_same_batches_and_name_the_file_that_is_damaged(root):
    damage_body(root / "test/dog/2.jpg")
    data = load_dataset(settings(root))
    slices = [slice(start, start + 3) for start in range(0, len(data.train), 3)]
    (alone, _), (two, test) = (
        (placed.training.train.images, placed.test.images)
        for placed in (place(data, torch.device("cpu"), processes) for processes in (0, 2))
    )
    for _ in range(2):  # a second pass by the same processes
        expected = [batch.clone() for batch in in_batches(alone, slices)]
        assert all(map(torch.equal, in_batches(two, slices), expected))
    with pytest.raises(DataError, match=r"dog/2\.jpg: cannot be decoded"):
        list(in_batches(test, [slice(0, 6)]))
