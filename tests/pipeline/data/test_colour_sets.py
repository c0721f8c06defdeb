"""CIFAR-FS and miniImageNet in each layout that they are found in, made small."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data import cifar_binary
from pipeline.data.cifar_fs import CLASSES, CifarFS
from pipeline.data.cifar_fs_classes import TEST, TRAIN, VAL
from pipeline.data.fetch import fetch, list_datasets
from pipeline.data.image_classes import ImageClasses
from pipeline.data.miniimagenet import MiniImageNet
from pipeline.data.registry import load_dataset, load_image_classes
from pipeline.errors import BadInputError

DATA = Path(os.environ.get("OUTERLOOP_DATA", ""))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Three images a class, two of them for training."""
    monkeypatch.setattr(CifarFS, "images_per_class", 3)
    records = {"cifar-100-binary/train.bin": 200, "cifar-100-binary/test.bin": 100}
    monkeypatch.setattr(cifar_binary, "RECORDS", records)


def pixels(number, which, side=32):
    return np.random.default_rng([number, which]).integers(0, 256, (side, side, 3), dtype=np.uint8)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_table(path, rows):
    """Rows of class name and PNG."""
    names = [name for name, _ in rows]
    table = {
        "image": pa.array([picture for _, picture in rows], pa.binary()),
        "label": pa.array([sorted(set(names)).index(name) for name in names], pa.int32()),
        "class_name": names,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)


def write_tables(root):
    for part, images in (("train", (0, 1)), ("test", (2,))):
        rows = [(name, png(pixels(n, i))) for n, name in enumerate(CLASSES) for i in images]
        write_table(root / f"cifar100/{part}.parquet", rows)


def write_folders(root):
    for number, name in enumerate(CLASSES):
        folder = root / "cifar100/data" / name
        folder.mkdir(parents=True)
        for which in range(3):
            (folder / f"{which}.png").write_bytes(png(pixels(number, which)))
    splits = root / "cifar100/splits/bertinetto"
    splits.mkdir(parents=True)
    for part, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        (splits / f"{part}.txt").write_text("\n".join(names) + "\n")


def record(number, which):
    return bytes([0, number]) + pixels(number, which).transpose(2, 0, 1).tobytes()


def write_archive(root, cut=0):
    contents = {
        "cifar-100-binary/fine_label_names.txt": "\n".join(CLASSES).encode() + b"\n",
        "cifar-100-binary/train.bin": b"".join(record(n, i) for i in (0, 1) for n in range(100)),
        "cifar-100-binary/test.bin": b"".join(record(n, 2) for n in range(100)),
        "../../evil.txt": b"never unpacked",
    }
    path = root / CifarFS.files[0].path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content) - (cut if name.endswith("test.bin") else 0)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("write", [write_tables, write_folders, write_archive])
def test_cifar_fs_is_the_same_in_every_layout(tmp_path, write):
    write(tmp_path)
    data = CifarFS(tmp_path).decode()
    assert [c.name for c in data.classes] == CLASSES
    wanted = np.stack([pixels(n, i) for n in range(100) for i in range(3)])
    assert np.array_equal(data.images, wanted)
    split = data.splits["standard"]
    assert [data.classes[n].name for n in split.val] == list(VAL)
    assert (len(split.train), len(split.val), len(split.test)) == (64, 16, 20)


@pytest.mark.parametrize("write", [write_tables, write_folders, write_archive])
def test_cifar_fs_is_listed_decoded_and_cached(tmp_path, monkeypatch, write):
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OUTERLOOP_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "data")
    row = next(row for row in list_datasets(tmp_path / "data") if row.name == "cifar-fs")
    assert row.present, row.problem
    first = load_image_classes("cifar-fs")
    monkeypatch.setattr(CifarFS, "decode", None)
    again = load_image_classes("cifar-fs")
    assert again.header() == first.header()
    assert again.splits == first.splits
    assert not again.images.flags.owndata
    with pytest.raises(BadInputError, match=r"data\.name=cifar-fs: has classes, but no alphabets"):
        load_dataset("cifar-fs")


def test_archive_is_fetched_and_nothing_else_is_unpacked(tmp_path):
    path = write_archive(tmp_path / "from")
    (fetched,) = fetch("cifar-fs", tmp_path / "root", from_dir=path.parent)
    assert "accepted by its content" in fetched.verdict
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [path.name] * 2


def test_archive_cut_short_is_one_line(tmp_path):
    path = write_archive(tmp_path, cut=1)
    with pytest.raises(BadInputError, match=r"test\.bin has 307399 bytes"):
        CifarFS(tmp_path).decode()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInputError, match=r"is no whole tar\.gz archive"):
        CifarFS(tmp_path).decode()


def test_overlapping_split_beside_the_images_is_named(tmp_path):
    write_tables(tmp_path)
    parts = {"train": list(TRAIN), "val": list(VAL), "test": [*TEST, "apple"]}
    (tmp_path / "cifar100/cifar_fs_splits.json").write_text(json.dumps(parts))
    with pytest.raises(BadInputError, match="class 'apple' is in train and in test"):
        CifarFS(tmp_path).decode()


def test_image_of_another_size_is_named(tmp_path):
    write_folders(tmp_path)
    path = tmp_path / "cifar100/data/apple/1.png"
    path.write_bytes(png(pixels(0, 0, side=33)))
    with pytest.raises(BadInputError) as bad:
        CifarFS(tmp_path).decode()
    assert str(bad.value) == f"{path}: 33 by 33 pixels; expected 32 by 32"
    path.write_bytes(b"none")
    with pytest.raises(BadInputError, match=r"apple/1\.png: is no picture"):
        CifarFS(tmp_path).decode()


def test_class_with_too_few_images_is_named(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "cifar100/data/bee/0.png").unlink()
    with pytest.raises(BadInputError, match="class bee has 2 images; expected 3"):
        CifarFS(tmp_path).decode()


def mini(part, number, which):
    return pixels({"train": 0, "val": 10, "test": 20}[part] + number, which, side=84)


def mini_names(part):
    return [f"n{['train', 'val', 'test'].index(part)}{n}" for n in range(3)]


def write_mini_tables(root):
    for part in ("train", "val", "test"):
        rows = [(c, png(mini(part, n, i))) for n, c in enumerate(mini_names(part)) for i in (0, 1)]
        write_table(root / f"miniimagenet/{part}.parquet", rows)


def write_mini_lists(root):
    images = root / "miniimagenet/images"
    images.mkdir(parents=True)
    for part in ("train", "val", "test"):
        lines = ["filename,label"]
        for number, name in enumerate(mini_names(part)):
            for which in (0, 1):
                (images / f"{name}{which}.png").write_bytes(png(mini(part, number, which)))
                lines.append(f"{name}{which}.png,{name}")
        (root / f"miniimagenet/{part}.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("write", [write_mini_tables, write_mini_lists])
def test_miniimagenet_is_split_by_its_three_files(tmp_path, write):
    write(tmp_path)
    data = MiniImageNet(tmp_path).decode()
    assert isinstance(data, ImageClasses)
    assert data.images.shape == (18, 84, 84, 3)
    split = data.splits["standard"]
    for part in ("train", "val", "test"):
        numbers = getattr(split, part)
        assert [data.classes[n].name for n in numbers] == mini_names(part)
        for place, number in enumerate(numbers):
            rows = data.classes[number].rows
            wanted = np.stack([mini(part, place, which) for which in (0, 1)])
            assert np.array_equal(data.images[rows.start : rows.stop], wanted)


def test_class_in_two_of_miniimagenets_files_is_named(tmp_path):
    write_mini_lists(tmp_path)
    same_classes = (tmp_path / "miniimagenet/train.csv").read_text()
    (tmp_path / "miniimagenet/test.csv").write_text(same_classes)
    with pytest.raises(BadInputError, match="class 'n00' is in train and in test"):
        MiniImageNet(tmp_path).decode()


@pytest.mark.parametrize("line", ["../../secret.png,n00", "n000.png", "missing.png,n00"])
def test_bad_row_of_a_list_is_one_line(tmp_path, line):
    write_mini_lists(tmp_path)
    with (tmp_path / "miniimagenet/train.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadInputError, match=r"line 8: expected columns|missing\.png: cannot be"):
        MiniImageNet(tmp_path).decode()


def test_absent_miniimagenet_says_where_it_goes(tmp_path):
    with pytest.raises(BadInputError, match=r"not found; .*folder miniimagenet of the data root"):
        MiniImageNet(tmp_path).identity()
    with pytest.raises(BadInputError, match="nothing to fetch"):
        fetch("miniimagenet", tmp_path)


@pytest.mark.skipif(
    not (DATA / "cifar100/train.parquet").is_file(),
    reason="OUTERLOOP_DATA does not point at a folder with cifar100/train.parquet",
)
def test_published_split_equals_the_file_beside_the_images():
    parts = json.loads((DATA / "cifar100/cifar_fs_splits.json").read_text())
    assert (list(TRAIN), list(VAL), list(TEST)) == (parts["train"], parts["val"], parts["test"])
