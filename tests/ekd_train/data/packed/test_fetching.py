"""Hosts that have not packed the images fetch them from storage, once."""

import pytest
from training_runs import MemoryStore

from ekd_train.data import DataError, load_dataset
from ekd_train.data.packed.fetch import put
from ekd_train.data.shared import SharedData
from ekd_train.settings import DataSettings

pytestmark = pytest.mark.attack


class CountingStore(MemoryStore):
    reads = 0

    def read(self, key, most_bytes):
        self.reads += 1
        return super().read(key, most_bytes)


@pytest.fixture
def shared(root, monkeypatch, tmp_path):
    """What a worker gets on a host with a cache of its own."""
    settings = DataSettings(
        name="image_folder", root=str(root), image_size=12, validation_size=4, pack="always"
    )
    dataset, store = load_dataset(settings), CountingStore()
    put(dataset.packed.folder, store)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another host"))
    return SharedData(dataset, packs=store)


def test_another_host_has_the_same_images_and_fetches_them_once(shared, tmp_path):
    expected, fingerprint = shared.dataset.train.images[:], shared.dataset.fingerprint
    here = shared.here()
    assert str(tmp_path / "another host") in str(here.train.images.folder)
    assert (here.train.images[:] == expected).all()
    assert here.fingerprint == fingerprint
    reads = shared.packs.reads
    assert shared.here().train.images.folder == here.train.images.folder
    assert shared.packs.reads == reads


def test_what_is_stored_is_not_stored_again(shared):
    before = len(shared.packs.states)
    put(shared.dataset.packed.folder, shared.packs)
    assert len(shared.packs.states) == before


def test_the_index_says_that_a_pack_is_whole(shared):
    written = list(shared.packs.objects)
    assert written[-1].endswith("index.safetensors")
    shared.packs.delete(written[-1])
    with pytest.raises(DataError, match="neither here nor in storage"):
        shared.here()


def test_a_name_that_leads_elsewhere_is_not_fetched(shared):
    name = shared.dataset.packed.folder.name
    shared.packs.write(f"{name}/../../evil", b"x")
    folder = shared.here().train.images.folder
    assert not (folder / "../../evil").exists()
