"""A table of paths and labels: CSV and parquet say the same, and nothing outside its root is read."""

import gzip

import numpy as np
import pandas
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from ekd_train.data import DataError, load_dataset, table_file
from ekd_train.settings import DataSettings

pytestmark = pytest.mark.attack


@pytest.fixture
def rows(tmp_path):
    """Twelve images of two classes, the last four for the test."""
    rows = []
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        rows.append(
            {
                "path": f"{index}.png",
                "label": ("wolf", "fox")[index % 2],
                "split": "Test" if index >= 8 else "training",
            }
        )
    return pandas.DataFrame(rows)


def load(path, **choices):
    return load_dataset(
        DataSettings(name="table", **{"path": str(path), "validation_size": 2, "test_size": None} | choices)
    )


def test_a_table_gives_the_images_labels_and_splits_that_it_names(tmp_path, rows):
    rows.to_csv(tmp_path / "t.csv", index=False)
    data = load(tmp_path / "t.csv")
    assert data.class_names == ("fox", "wolf")
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 4)
    assert data.test.labels.tolist() == [1, 0, 1, 0]
    expected = np.stack([np.asarray(Image.open(tmp_path / f"{i}.png")) for i in range(8, 12)])
    assert np.array_equal(data.test.images, expected.transpose(0, 3, 1, 2))


def test_parquet_other_columns_and_a_root_elsewhere_give_the_same_data(tmp_path, rows):
    rows.to_csv(tmp_path / "t.csv", index=False)
    tables = tmp_path / "tables"
    tables.mkdir()
    renamed = rows.rename(columns={"path": "file", "label": "kind"})
    renamed.to_parquet(tables / "t.parquet")
    other = load(tables / "t.parquet", root=str(tmp_path), image_column="file", label_column="kind")
    assert other.fingerprint == load(tmp_path / "t.csv").fingerprint
    relative = load("t.csv", root=str(tmp_path))
    assert relative.fingerprint == other.fingerprint


@pytest.mark.parametrize("case", [str.title, str.upper])
def test_columns_are_found_in_any_case(tmp_path, rows, case):
    rows.rename(columns=case).to_csv(tmp_path / "t.csv", index=False)
    data = load(tmp_path / "t.csv")
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 4)
    both = rows.rename(columns={"split": "Split"}).assign(SPLIT="train")
    both.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(
        DataError, match=r"has the columns Split, SPLIT; rename one, or set data\.split_column"
    ):
        load(tmp_path / "t.csv")


def test_a_column_of_splits_of_another_name_is_used_if_it_is_named_and_else_an_error(tmp_path, rows):
    rows = rows.rename(columns={"split": "subset"}).assign(sex="f", fold=["1", "2"] * 6)
    rows.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"splits in its column 'subset'.*set data\.split_column to subset"):
        load(tmp_path / "t.csv", test_size=2)
    data = load(tmp_path / "t.csv", split_column="subset")
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 4)
    with pytest.raises(DataError, match=r"has no column 'sort'.*data\.split_column"):
        load(tmp_path / "t.csv", split_column="sort")


def test_absolute_paths_below_a_relative_or_linked_root_are_below_it(tmp_path, rows, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "linked").symlink_to(tmp_path)
    rows.to_csv(tmp_path / "t.csv", index=False)
    expected = load(tmp_path / "t.csv").fingerprint
    rows.assign(path=[str(tmp_path / name) for name in rows["path"]]).to_csv(tmp_path / "t.csv", index=False)
    for root in (
        tmp_path.name,
        str(tmp_path),
        str(tmp_path / "linked"),
        f"{tmp_path.name}/../{tmp_path.name}",
    ):
        assert load("t.csv", root=root).fingerprint == expected
    (tmp_path / "inner").mkdir()
    with pytest.raises(DataError, match="which is not below"):
        load(tmp_path / "t.csv", root=f"{tmp_path.name}/inner")


def test_without_a_split_column_validation_and_test_are_held_out(tmp_path, rows):
    rows.drop(columns="split").to_csv(tmp_path / "t.csv", index=False)
    data = load(tmp_path / "t.csv", test_size=4)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 4)


def test_labels_that_look_like_numbers_or_nothing_stay_text(tmp_path, rows):
    rows["label"] = ["01", "NA"] * 6
    rows.to_csv(tmp_path / "t.csv", index=False)
    assert load(tmp_path / "t.csv").class_names == ("01", "NA")


@pytest.mark.parametrize("kind", ["float32", "float64", "Float64", "int8"])
def test_whole_numbers_in_parquet_are_classes_without_a_fraction(tmp_path, rows, kind):
    rows.assign(label=[0, 11] * 6).astype({"label": kind}).to_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").class_names == ("0", "11")
    rows.assign(label=[0.5, 1.0] * 6).to_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").class_names == ("0.5", "1.0")
    rows.assign(label=[1.0, float("nan")] * 6).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 2 has no label"):
        load(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows.drop(columns="label"), "has no column 'label'"),
        (lambda rows: rows.assign(path="../secret.png"), "not below"),
        (lambda rows: rows.assign(path="/etc/passwd"), "not below"),
        (lambda rows: rows.assign(path="a\0b.png"), "not below"),
        (lambda rows: rows.assign(path="notes.txt"), "is not an image"),
        (lambda rows: rows.assign(path="gone.png"), "cannot be decoded"),
        (lambda rows: rows.assign(split="holdout"), "split 'holdout'"),
        (lambda rows: rows.assign(label=["", *rows["label"][1:]]), "row 1 has no label"),
        (lambda rows: rows[:0], "has no rows"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, rows, change, problem):
    change(rows).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=problem) as caught:
        load(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0\0", b'path,label\n"x'])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_file_that_is_no_table_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)
    with pytest.raises(DataError, match=r"^data\.path"):
        load_dataset(DataSettings(name="table"))
    with pytest.raises(DataError, match="is no file"):
        load(tmp_path / "none.csv")


@pytest.mark.attack
def test_a_small_file_does_not_become_a_large_table(tmp_path, rows, monkeypatch):
    """40,000 rows, or a long text in each of a thousand, packed to some kilobytes."""
    monkeypatch.setattr(table_file, "MOST_BYTES", 1 << 18)
    for count, path in ((40_000, "0.png"), (1000, f"{'a' * 1000}.png")):
        column = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(count, np.int8)), [path])
        file = tmp_path / "t.parquet"
        parquet.write_table(pyarrow.table({"path": column, "label": column}), file, compression="zstd")
        assert file.stat().st_size < 20_000
        with pytest.raises(DataError, match="it unpacks to more than"):
            load(file)


@pytest.mark.attack
def test_a_table_is_not_unpacked_because_of_its_name(tmp_path, rows):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(rows.to_csv(index=False).encode()))
    with pytest.raises(DataError, match="cannot be read as a table"):
        load(tmp_path / "t.csv.gz")


@pytest.mark.attack
def test_a_table_of_more_rows_than_fit_is_refused(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(table_file, "MOST_ROWS", 11)
    rows.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="has more than 11 rows"):
        load(tmp_path / "t.csv")
