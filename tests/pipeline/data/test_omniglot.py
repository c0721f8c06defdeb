import hashlib
import os
import stat
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.alphabets import shape_of
from pipeline.data.archives import open_archive
from pipeline.data.omniglot import Omniglot
from pipeline.data.omniglot_alphabets import BACKGROUND, EVALUATION
from pipeline.data.registry import load_dataset
from pipeline.errors import BadInputError
from tests.pipeline.data.archives import (
    drawing,
    omniglot_entries,
    write_small_omniglot,
    write_zip,
)

DATA = os.environ.get("OUTERLOOP_DATA", "")
needs_omniglot = pytest.mark.skipif(
    not (Path(DATA) / "omniglot" / "images_background.zip").is_file(),
    reason="OUTERLOOP_DATA does not point at a folder with omniglot/images_background.zip",
)
FILE = Omniglot.files[0]


@needs_omniglot
def test_real_omniglot_has_its_official_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_CACHE", str(tmp_path))
    omniglot = load_dataset("omniglot")
    assert len(omniglot.alphabets) == 50
    assert sum(len(a.characters) for a in omniglot.alphabets) == 1623
    assert sum(len(a.characters) >= 20 for a in omniglot.alphabets) == 46
    assert {a.num_drawings for a in omniglot.alphabets} == {20}
    assert omniglot.images.shape == (32460, 28, 28)
    assert omniglot.digest.startswith("7e9e14bb3a78")
    assert "images_background.zip (" in omniglot.source
    # Ink is bright and thin on a dark ground.
    assert 0.02 < (omniglot.images > 128).mean() < 0.2
    assert (omniglot.images.reshape(32460, -1).max(axis=1) > 60).all()
    assert np.array_equal(load_dataset("omniglot").images, omniglot.images)


def test_official_counts_of_the_name_tables():
    assert (len(BACKGROUND), sum(BACKGROUND.values())) == (30, 964)
    assert (len(EVALUATION), sum(EVALUATION.values())) == (20, 659)


def test_decoded_drawings_are_in_order_with_ink_bright(tmp_path, small_omniglot):
    write_small_omniglot(tmp_path / "omniglot")
    omniglot = Omniglot(tmp_path).decode()
    assert shape_of(omniglot.alphabets) == [("Greek", 2, 20), ("Angelic", 1, 20)]
    assert np.array_equal(omniglot.images[:20], omniglot.images[20:40])
    start_row = [int(image[:, 3].argmax()) for image in omniglot.images[:20]]
    assert start_row == sorted(start_row)  # drawing 1 starts highest
    assert omniglot.images[:, 0, 0].max() < 10
    assert omniglot.images.max() > 128


def test_unofficial_archive_is_accepted_by_content_and_says_so(tmp_path, small_omniglot):
    write_small_omniglot(tmp_path / "omniglot")
    assert Omniglot(tmp_path).decode().source.count("not the official one") == 2
    path = tmp_path / FILE.path
    assert "not the official one" in Omniglot.check(path, FILE)


def test_archive_is_known_by_md5_or_sha256_and_both_are_on_record(tmp_path, small_omniglot):
    write_small_omniglot(tmp_path / "omniglot")
    path = tmp_path / FILE.path
    content = path.read_bytes()
    md5, sha256 = (hashlib.new(name, content).hexdigest() for name in ("md5", "sha256"))
    assert f"official by its MD5 {md5}" in Omniglot.check(path, replace(FILE, md5=md5))
    known = Omniglot.check(path, replace(FILE, repacked_sha256=sha256))
    assert known == "Omniglot packed anew, known by its SHA-256"
    assert f"SHA-256 {sha256}" in Omniglot(tmp_path).decode().source


@needs_omniglot
def test_real_archives_are_known_by_hash():
    for file in Omniglot.files:
        assert "content" not in Omniglot.check(Path(DATA) / file.path, file)


def test_missing_data_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path))
    with pytest.raises(BadInputError, match=r"data fetch omniglot.*--from DIR.*OUTERLOOP_DATA"):
        load_dataset("omniglot")


def test_identity_follows_the_archives(tmp_path, small_omniglot):
    write_small_omniglot(tmp_path / "omniglot")
    before = Omniglot(tmp_path).identity()
    with (tmp_path / FILE.path).open("ab") as file:
        file.write(b"\0")
    assert Omniglot(tmp_path).identity() != before


def one_line(info):
    message = str(info.value)
    assert "\n" not in message
    return message


def good():
    return omniglot_entries({"Greek": 2})


def check(path):
    return Omniglot.check(path, FILE)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../../evil.png", "leave the archive"),
        ("images_background/../../evil.png", "leave the archive"),
        ("/etc/evil.png", "leave the archive"),
        ("C:/evil.png", "leave the archive"),
        ("..\\evil.png", "leave the archive"),
        ("images_background/Klingon/character01/0001_01.png", "not one of Omniglot's"),
        ("images_background/Greek/character03/0001_01.png", "not one of Omniglot's"),
        ("images_background/Greek/character01/0001_21.png", "not one of Omniglot's"),
        ("images_background/Greek/character01/0002_01.png", "not one of Omniglot's"),
        ("readme.txt", "not one of Omniglot's"),
    ],
)
def test_entry_that_does_not_belong_is_refused(tmp_path, small_omniglot, name, says):
    path = write_zip(tmp_path / FILE.name, {**good(), name: drawing(1)})
    with pytest.raises(BadInputError, match=says) as info:
        check(path)
    assert FILE.name in one_line(info)
    assert sorted(tmp_path.rglob("*")) == [path]


def test_finder_leftovers_are_ignored(tmp_path, small_omniglot):
    extra = {"__MACOSX/images_background/._x": b"", "images_background/.DS_Store": b"x"}
    check(write_zip(tmp_path / FILE.name, {**good(), **extra}))


def test_link_in_archive_is_refused(tmp_path, small_omniglot):
    path = write_zip(tmp_path / FILE.name, good())
    link = zipfile.ZipInfo("images_background/Greek/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadInputError, match="is a link"):
        check(path)


def test_name_that_comes_twice_is_refused(tmp_path, small_omniglot):
    path = write_zip(tmp_path / FILE.name, good())
    with (
        zipfile.ZipFile(path, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr(next(iter(good())), drawing(3))
    with pytest.raises(BadInputError, match="comes twice"):
        check(path)


def test_one_missing_drawing_is_named(tmp_path, small_omniglot):
    entries = good()
    del entries["images_background/Greek/character02/0001_07.png"]
    path = write_zip(tmp_path / FILE.name, entries)
    with pytest.raises(BadInputError, match="40 drawings expected, 39 found") as info:
        check(path)
    assert "Greek/character02, drawing 07" in one_line(info)


def test_bomb_entry_is_refused_before_it_is_unpacked(tmp_path, small_omniglot):
    bomb = {"images_background/Greek/character01/0001_01.png": bytes(80 << 20)}
    path = write_zip(tmp_path / FILE.name, {**good(), **bomb})
    assert path.stat().st_size < 200_000
    with pytest.raises(BadInputError, match="unpacks to 83886080 bytes; expected at most 65536"):
        check(path)


def test_bomb_of_many_entries_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.data.archives.MAX_UNPACKED_BYTES", 1 << 20)
    path = write_zip(tmp_path / "a.zip", {f"{i}.png": bytes(60_000) for i in range(20)})
    with pytest.raises(BadInputError, match="unpacks to 1200000"), open_archive(path, 65536):
        pass
    monkeypatch.setattr("pipeline.data.archives.MAX_ENTRIES", 19)
    with pytest.raises(BadInputError, match=r"a\.zip: 20 entries"), open_archive(path, 65536):
        pass


def test_what_is_wrong_with_a_whole_archive_is_not_said_to_be_its_packing(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"1.png": b"x"})
    with pytest.raises(BadInputError, match=r"^a drawing is missing$"), open_archive(path, 65536):
        raise BadInputError("a drawing is missing")


def test_entry_that_lies_about_its_size_is_refused(tmp_path, small_omniglot):
    name = "images_background/Greek/character01/0001_01.png"
    path = write_zip(tmp_path / FILE.name, {**good(), name: bytes(1 << 20)})
    content = bytearray(path.read_bytes())
    for place in (
        content.find(struct.pack("<I", 1 << 20)),
        content.rfind(struct.pack("<I", 1 << 20)),
    ):
        content[place : place + 4] = struct.pack("<I", 300)
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="damaged"):
        check(path)


def test_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / FILE.name
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(BadInputError, match="expected an archive of at most"):
        check(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_archive_is_refused(tmp_path, small_omniglot, share):
    path = write_zip(tmp_path / FILE.name, good())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadInputError, match="no whole zip archive") as info:
        check(path)
    one_line(info)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"GIF89a", "no PNG"),
        (drawing(1, (28, 28)), "28 by 28 pixels"),
        (drawing(1)[:16] + struct.pack(">II", 60_000, 60_000) + drawing(1)[24:], "60000 by 60000"),
    ],
)
def test_drawing_that_is_none_is_refused(tmp_path, small_omniglot, content, says):
    name = "images_background/Greek/character01/0001_05.png"
    path = write_zip(tmp_path / FILE.name, {**good(), name: content})
    with pytest.raises(BadInputError, match=says) as info:
        check(path)
    assert "0001_05.png" in one_line(info)


def test_png_that_cannot_be_decoded_is_named(tmp_path, small_omniglot):
    folder = write_small_omniglot(tmp_path / "omniglot")
    name = "images_background/Greek/character01/0001_05.png"
    write_zip(folder / FILE.name, {**good(), name: drawing(5)[:60]})
    with pytest.raises(BadInputError, match=r"0001_05\.png' cannot be decoded"):
        Omniglot(tmp_path).decode()


def problem_with(root):
    """The message that decoding ends with; empty if the damage did no harm."""
    try:
        Omniglot(root).decode()
    except BadInputError as error:
        return str(error)
    return ""


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_is_harmless_or_one_clear_line(tmp_path, small_omniglot, data):
    folder = tmp_path / "omniglot"
    if not folder.exists():
        write_small_omniglot(folder)
        (tmp_path / "whole").write_bytes((folder / FILE.name).read_bytes())
    content = bytearray((tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / FILE.name).write_bytes(content)
    assert "\n" not in problem_with(tmp_path)
