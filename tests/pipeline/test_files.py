import hashlib
import os

import pytest

from pipeline.errors import RunFailedError
from pipeline.files import (
    DISPLACED,
    TEMPORARY,
    atomic_folder,
    disk_errors,
    read_object,
    remove_leftovers,
    sha256_file,
    write_atomic,
)
from tests.processes import kill_after, start

WRITES_FOREVER = """
import sys, pathlib
from pipeline.files import write_atomic
while True:
    for letter in b"ab":
        write_atomic(pathlib.Path(sys.argv[1]), bytes([letter]) * 3_000_000)
        print("written", flush=True)
"""

PUBLISHES_FOREVER = """
import sys, pathlib
from pipeline.files import atomic_folder
while True:
    for letter in "ab":
        with atomic_folder(pathlib.Path(sys.argv[1])) as folder:
            for name in ("one", "two"):
                (folder / name).write_text(letter * 100_000)
        print("published", flush=True)
"""

FILE_SIZE_LIMITED = """
import resource, sys, pathlib
from pipeline.files import disk_errors, write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with disk_errors("result", "make room"):
    write_atomic(pathlib.Path(sys.argv[1]), bytes(5000))
"""


def test_a_file_is_replaced_whole(tmp_path):
    write_atomic(tmp_path / "file", b"a longer first content")
    write_atomic(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.008])
def test_a_killed_writer_leaves_a_whole_file(tmp_path, delay_s):
    kill_after(2, delay_s, WRITES_FOREVER, tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    assert content in (b"a" * 3_000_000, b"b" * 3_000_000)
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.005, 0.009])
def test_a_killed_publisher_leaves_a_whole_folder(tmp_path, delay_s):
    kill_after(2, delay_s, PUBLISHES_FOREVER, tmp_path / "folder")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["folder"]
    contents = {file.read_text() for file in (tmp_path / "folder").iterdir()}
    assert contents in ({"a" * 100_000}, {"b" * 100_000})


def test_a_block_that_fails_leaves_the_folder_as_it_was(tmp_path):
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("good")
    with pytest.raises(IsADirectoryError), atomic_folder(tmp_path / "folder") as folder:
        folder.write_text("fails")
    assert (tmp_path / "folder" / "file").read_text() == "good"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_that_stepped_aside_comes_back_unless_its_successor_is_there(tmp_path):
    for name, content in [(f"{DISPLACED}x", "old"), (f"{DISPLACED}y", "old"), ("y", "new")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
    (tmp_path / f"{TEMPORARY}z").write_text("torn")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]
    assert (tmp_path / "x" / "file").read_text() == "old"
    assert (tmp_path / "y" / "file").read_text() == "new"


def test_leftovers_of_a_folder_that_is_not_there_are_none(tmp_path):
    remove_leftovers(tmp_path / "missing")


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 1000).hexdigest()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[1]", "is no JSON object"),
        (b'{"a": "%s"}' % (b"x" * 100), "larger than 99 bytes"),
    ],
)
def test_a_json_file_that_is_none_says_so(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{said}$"):
        read_object(path, 99 if b"x" in content else 1 << 20)


def test_a_pipe_in_the_place_of_a_json_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match="is no file"):
        read_object(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "b.json")


def test_a_disk_error_is_one_line_with_advice():
    with pytest.raises(RunFailedError) as failure, disk_errors("result", "make room"):
        raise OSError(28, "No space left on device", "/somewhere")
    assert str(failure.value) == "result: cannot be written: No space left on device; make room"


def test_a_write_that_does_not_fit_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    _, errors = start(FILE_SIZE_LIMITED, tmp_path / "file").communicate()
    assert "RunFailedError: result: cannot be written: File too large; make room" in errors
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
