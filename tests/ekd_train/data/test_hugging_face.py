"""Data sets that the `datasets` library reads, from folders: what a hub's name gives is the same object."""

import io
import os
import socket
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from ekd_train.data import DataError, load_dataset
from ekd_train.data.local_splits import check_files
from ekd_train.settings import DataSettings

pytestmark = pytest.mark.attack

datasets = pytest.importorskip("datasets")
constants = pytest.importorskip("huggingface_hub.constants")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def encoded(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue(), pixels.transpose(2, 0, 1)


def write(folder, split, labels, kind=None, column="label"):
    """A parquet file of a split, as the hub keeps them: image i has seed i."""
    features = datasets.Features(
        {"image": datasets.Image(), column: kind or datasets.ClassLabel(names=["zebra", "ant"])}
    )
    rows = {"image": [{"bytes": encoded(i)[0], "path": None} for i in range(len(labels))], column: labels}
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def load(path, **choices):
    settings = {"validation_size": 2, "test_size": 2} | choices
    return load_dataset(DataSettings(name="hugging_face", path=str(path), **settings))


def test_parquet_gives_pixels_labels_and_classes_in_the_data_sets_own_order(tmp_path):
    write(tmp_path / "d", "train", [0, 1] * 4)
    write(tmp_path / "d", "test", [1, 0])
    data = load(tmp_path / "d", test_size=None)
    assert data.class_names == ("zebra", "ant")
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 2)
    assert data.test.labels.tolist() == [1, 0]
    assert np.array_equal(data.test.images, np.stack([encoded(0)[1], encoded(1)[1]]))


def test_a_folder_with_the_name_of_a_reader_is_that_folder(tmp_path, monkeypatch):
    write(tmp_path / "parquet", "train", [0, 1] * 4)
    monkeypatch.chdir(tmp_path)
    assert load("parquet").fingerprint == load("parquet", root=str(tmp_path)).fingerprint


def test_no_script_of_a_data_set_runs(tmp_path):
    """One that is called as its folder: earlier versions of the library ran it."""
    write(tmp_path / "d", "train", [0, 1] * 4)
    (tmp_path / "d" / "d.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    with pytest.raises(DataError, match="scripts are no longer supported"):
        load(tmp_path / "d")
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_images_is_read_too(tmp_path):
    write_images(tmp_path / "d" / "train")
    write_images(tmp_path / "d" / "test", count=2)
    data = load(tmp_path / "d", test_size=None)
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (10, 4)


def write_images(folder, classes=("cat", "dog"), count=6):
    for name in classes:
        for index in range(count):
            file = folder / name / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(zlib.crc32(repr((folder.name, name, index)).encode()))[0])


@pytest.mark.parametrize("inner", ["", "data", "a/b"])
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Training", "Testing"),
        ("train", "Test"),
        ("TRAIN", "TEST"),
        ("train2017", "test_set"),
    ],
)
def test_a_test_folder_of_any_case_is_the_test_split(tmp_path, inner, train, test):
    write_images(tmp_path / "d" / inner / train)
    write_images(tmp_path / "d" / inner / test, count=2)
    data = load(tmp_path / "d", test_size=None)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 2, 4)
    assert data.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001", "test-00000-of-00001"),
        ("Train", "Test"),
        ("digits.TRAIN", "digits.Testing"),
        ("train [1]", "test [1]"),
    ],
)
def test_a_test_file_of_any_case_is_the_test_split(tmp_path, train, test):
    (tmp_path / "d").mkdir()
    for name, labels in ((train, [0, 1] * 4), (test, [1, 0])):
        write(tmp_path, "x", labels)
        (tmp_path / "x-00000-of-00001.parquet").rename(tmp_path / "d" / f"{name}.parquet")
    data = load(tmp_path / "d", test_size=None)
    assert (len(data.train), len(data.test)) == (6, 2)


@pytest.mark.parametrize("beside", ["holdout", "eval", "extra/deeper"])
def test_a_folder_beside_the_splits_that_may_be_data_is_an_error(tmp_path, beside):
    write_images(tmp_path / "d" / "train")
    write_images(tmp_path / "d" / beside)
    with pytest.raises(
        DataError, match=rf"{beside[:5]}.*may be data but is no known split; call it train, val"
    ):
        load(tmp_path / "d")


def test_a_file_beside_the_splits_that_may_be_data_is_an_error(tmp_path):
    write(tmp_path / "d", "train", [0, 1] * 4)
    write(tmp_path / "d", "holdout", [0, 1])
    with pytest.raises(DataError, match=r"holdout-00000-of-00001\.parquet: may be data"):
        load(tmp_path / "d")


def test_what_is_no_data_beside_the_splits_is_passed_over(tmp_path):
    write_images(tmp_path / "d" / "train")
    write_images(tmp_path / "d" / "test")
    (tmp_path / "d" / "LICENSE").write_text("free")
    (tmp_path / "d" / "docs").mkdir()
    (tmp_path / "d" / "docs" / "more.md").write_text("# more")
    (tmp_path / "d" / "classes.csv").write_text("cat\ndog\n")
    (tmp_path / "d" / "example.png").write_bytes(encoded(0)[0])
    data = load(tmp_path / "d", test_size=None)
    assert (len(data.train), len(data.test)) == (10, 12)
    said = [finding for finding in data.findings if "is no split and is not used" in finding]
    assert ["classes.csv" in said[0], "example.png" in said[1]] == [True, True]


def test_without_splits_all_is_training_and_the_rest_is_held_out(tmp_path):
    write_images(tmp_path / "d")
    data = load(tmp_path / "d")
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 2)
    write(tmp_path / "parts", "part-0", [0, 1] * 3)
    write(tmp_path / "parts", "part-1", [0, 1] * 3)
    assert len(load(tmp_path / "parts").train) == 8


@pytest.mark.parametrize(
    ("folders", "problem"),
    [
        (["learn", "holdout"], "has no folder train, but holdout, learn"),
        (["TrainImages", "TestImages"], "has no folder train, but TestImages, TrainImages"),
        (["test", "learn"], "learn: may be data"),
        (["test", "val"], "has no split `train`"),
        (["train", "Training"], "is a second train split beside"),
        (["train_test", "train"], "is called test and train at once"),
    ],
)
def test_folders_of_which_the_one_to_learn_from_is_not_known_are_an_error(tmp_path, folders, problem):
    for name in folders:
        write_images(tmp_path / "d" / name)
    with pytest.raises(DataError, match=problem):
        load(tmp_path / "d")


@pytest.mark.parametrize("names", [("a", "b"), ("train.parquet", "train.csv"), ("x.zip", "y.zip")])
def test_files_of_which_the_one_to_learn_from_is_not_known_are_an_error(tmp_path, names):
    (tmp_path / "d").mkdir()
    for name in names:
        (tmp_path / "d" / (name if "." in name else f"{name}.parquet")).write_bytes(b"")
    with pytest.raises(DataError, match=r"has no split train|is a second train split|is an archive"):
        load(tmp_path / "d")


@pytest.mark.parametrize("name", ["test_7.png", "Test/7.png"])
def test_a_split_that_is_named_deeper_is_an_error(tmp_path, name):
    write_images(tmp_path / "d")
    file = tmp_path / "d" / "cat" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(encoded(0)[0])
    with pytest.raises(DataError, match="is called test, and others beside it are not"):
        load(tmp_path / "d")


def test_a_description_of_a_folder_alone_does_not_hide_a_split_in_it(tmp_path):
    write_images(tmp_path / "d" / "x" / "train")
    write_images(tmp_path / "d" / "x" / "Test", count=2)
    write_images(tmp_path / "d" / "old")
    (tmp_path / "d" / "README.md").write_text("---\nconfigs: [{config_name: default, data_dir: x}]\n---\n")
    data = load(tmp_path / "d", test_size=None)
    assert (len(data.train), len(data.test)) == (10, 4)


def test_what_the_library_takes_for_training_is_not_called_a_test(tmp_path):
    """As it does of a hub's data set without a description, whose folders have capitals."""
    write_images(tmp_path / "d" / "Training")
    write_images(tmp_path / "d" / "Testing")
    (tmp_path / "d" / "README.md").write_text(
        "---\nconfigs: [{config_name: default, data_files: '*/*/*'}]\n---\n"
    )
    with pytest.raises(
        DataError, match=r"Testing/cat/0\.png: is called test, but the library takes it for train"
    ):
        load(tmp_path / "d")


def test_files_on_the_hub_are_told_by_their_own_path_and_not_by_whose_they_are():
    owner = "hf://datasets/dev/test@0123abc"
    check_files([("train", [f"{owner}/data/train-0.parquet", f"{owner}/images/cat/test_1.png"])], "https://x")
    with pytest.raises(DataError, match="is called test, but the library takes it for train"):
        check_files([("train", [f"{owner}/Training/0.png", f"{owner}/Testing/0.png"])], "https://x")


def test_hidden_test_labels_are_said_and_the_split_is_not_used(tmp_path):
    write(tmp_path / "d", "train", [0, 1] * 6)
    write(tmp_path / "d", "test", [-1, -1])
    data = load(tmp_path / "d")
    assert len(data.test) == 2
    assert "hides the labels of its split 'test'" in data.findings[0]


def test_text_labels_are_sorted_and_columns_can_be_named(tmp_path):
    write(tmp_path / "d", "train", ["b", "a"] * 5, datasets.Value("string"), column="animal")
    with pytest.raises(DataError, match=r"data\.label_column.*image, animal"):
        load(tmp_path / "d")
    data = load(tmp_path / "d", label_column="animal")
    assert data.class_names == ("a", "b")
    assert np.bincount(data.train.labels).tolist() == [3, 3]


@pytest.mark.parametrize("kind", [None, "names"])
def test_a_column_that_says_which_rows_are_the_test_is_not_trained_over(tmp_path, kind):
    images = {"image": [{"bytes": encoded(i)[0], "path": None} for i in range(8)], "label": [0, 1] * 4}
    classes = datasets.ClassLabel(names=["zebra", "ant"])
    of_splits = datasets.Value("string") if kind is None else datasets.ClassLabel(names=["Train", "Test"])
    values = ["Train"] * 6 + ["Test"] * 2 if kind is None else [0] * 6 + [1] * 2
    features = datasets.Features({"image": datasets.Image(), "label": classes, "subset": of_splits})
    (tmp_path / "d").mkdir()
    rows = datasets.Dataset.from_dict(images | {"subset": values}, features=features)
    rows.to_parquet(tmp_path / "d" / "all.parquet")
    with pytest.raises(DataError, match="has names of splits in its column 'subset', which is not used"):
        load(tmp_path / "d")


def test_whole_numbers_are_classes_without_a_fraction(tmp_path):
    write(tmp_path / "d", "train", [10.0, 2.0] * 5, datasets.Value("float32"))
    assert load(tmp_path / "d").class_names == ("2", "10")


@pytest.mark.parametrize("several", [True, False])
def test_what_save_to_disk_wrote_is_told_the_way_to_parquet(tmp_path, several):
    write(tmp_path / "d", "train", [0, 1] * 4)
    found = datasets.load_dataset(str(tmp_path / "d"))
    (found if several else found["train"]).save_to_disk(tmp_path / "saved")
    with pytest.raises(
        DataError, match=r"written by save_to_disk; save it as parquet.*to_parquet\("
    ) as raised:
        load(tmp_path / "saved")
    way = str(raised.value).partition("folder: ")[2].replace("FOLDER", repr(str(tmp_path / "saved")))
    (tmp_path / "again").mkdir()
    made = way.replace("to_parquet(f'", f"to_parquet(f'{tmp_path}/again/").replace(
        "to_parquet('", f"to_parquet('{tmp_path}/again/"
    )
    exec(made, {"datasets": datasets})
    assert load(tmp_path / "again").fingerprint == load(tmp_path / "d").fingerprint


@pytest.fixture
def no_network(monkeypatch):
    """Nothing listens where the proxy should be; no variable said so before the libraries were imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_name_of_the_hub_that_does_not_answer_is_one_line_at_once(no_network, capfd, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(DataError, match=r"nobody/nothing: is not in the cache, .*does not answer.*HF_HOME"):
        load("nobody/nothing")
    assert sum(slept) < 1, "its library tries again for 50 s"
    assert capfd.readouterr() == ("", "")


def test_what_is_in_the_cache_needs_no_hub_that_answers(no_network, tmp_path, capfd):
    write(tmp_path / "nothing", "train", [0, 1] * 10)
    before = load(tmp_path / "nothing")
    datasets.load_dataset(str((tmp_path / "nothing").resolve()))  # as the library alone names it there
    (tmp_path / "cache" / "nothing").rename(tmp_path / "cache" / "nobody___nothing")
    capfd.readouterr()
    data = load("nobody/nothing")
    assert np.array_equal(data.train.images, before.train.images)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_loaded_is_one_line_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match="HF_HOME") as caught:
        load("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"^data\.path"):
        load_dataset(DataSettings(name="hugging_face"))
    write(tmp_path / "d", "test", [0, 1])
    with pytest.raises(DataError, match="no split `train`"):
        load(tmp_path / "d")


def write_rows(folder, images, labels):
    """A parquet file whose rows are as they are given: paths are not replaced by what lies there."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = pyarrow.table(
        {
            "image": pyarrow.array(images, datasets.Image().pa_type),
            "label": pyarrow.array(labels, pyarrow.int64()),
        },
        features.arrow_schema,
    )
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(rows, folder / "train.parquet")


EMBEDDED = [{"bytes": encoded(i)[0], "path": None} for i in range(8)]


@pytest.mark.attack
@pytest.mark.parametrize("way", ["a file", "a link", "a pipe", "a device"])
def test_a_row_that_names_a_file_elsewhere_is_refused(tmp_path, way):
    outside = tmp_path / "outside.png"
    outside.write_bytes(encoded(9)[0])
    named = {"a file": outside, "a link": tmp_path / "d/link.png", "a device": "/dev/zero"}
    if way == "a pipe":
        outside.unlink()
        os.mkfifo(outside)
    write_rows(
        tmp_path / "d", [*EMBEDDED, {"bytes": None, "path": str(named.get(way, outside))}], [0, 1, 0] * 3
    )
    (tmp_path / "d/link.png").symlink_to(outside)
    with pytest.raises(DataError, match="which is not below the data set") as caught:
        load(tmp_path / "d")
    assert caught.value.where.endswith("train[8]")


@pytest.mark.attack
def test_a_pipe_that_a_row_names_is_not_waited_for(tmp_path):
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d/pipe.png")
    write_rows(
        tmp_path / "d", [*EMBEDDED, {"bytes": None, "path": str(tmp_path / "d/pipe.png")}], [0, 1, 0] * 3
    )
    with pytest.raises(DataError, match="is not a regular file"):
        load(tmp_path / "d")


ELSEWHERE = {
    "above": "configs: [{config_name: default, data_files: ../outside/*.parquet}]",
    "absolute": "configs: [{config_name: default, data_files: [{split: train, path: /outside/*.parquet}]}]",
    "a server": "configs: [{config_name: default, data_files: 'http://127.0.0.1:1/x.parquet'}]",
    "a chain": "configs: [{config_name: default, data_files: 'zip://x::http://127.0.0.1:1/x.zip'}]",
    "a folder": "configs: [{config_name: default, data_dir: ../outside}]",
    "merged": "x: &x {data_files: ../outside/*}\nconfigs: [{config_name: default, <<: *x}]",
    "escaped": 'configs: [{config_name: default, "data\\x5ffiles": ../outside/*.parquet}]',
}


@pytest.mark.attack
@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("text", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_a_description_that_names_data_elsewhere_is_refused(tmp_path, name, text):
    write(tmp_path / "outside", "train", [0, 1] * 4)
    write(tmp_path / "d", "train", [0, 1] * 4)
    (tmp_path / "d" / name).write_text(f"---\n{text}\n---\n" if name.endswith(".md") else text)
    with pytest.raises(DataError, match="which is not below"):
        load(tmp_path / "d")


@pytest.mark.attack
def test_a_description_of_what_is_there_is_followed(tmp_path):
    write(tmp_path / "d" / "deeper", "train", [0, 1] * 4)
    text = "license_link: https://example.org\nconfigs: [{config_name: default, data_files: deeper/train-*}]"
    (tmp_path / "d" / "README.md").write_text(f"---\n{text}\n---\n# d, see http://example.org\n")
    assert len(load(tmp_path / "d").train) == 4


@pytest.mark.attack
@pytest.mark.parametrize("label", [2, 77, -5, None])
def test_a_label_that_is_no_class_is_named(tmp_path, label):
    write_rows(tmp_path / "d", EMBEDDED, [0, 1] * 3 + [0, label])
    with pytest.raises(DataError, match="one that is none of the 2 classes") as caught:
        load(tmp_path / "d")
    assert caught.value.where.endswith("train[7]")
