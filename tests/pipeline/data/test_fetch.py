import hashlib
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.data.fetch import fetch, list_datasets
from pipeline.data.omniglot import Omniglot
from pipeline.errors import BadInputError, RunFailedError
from tests.pipeline.data.archives import omniglot_entries, write_small_omniglot, write_zip

NAMES = ("images_background.zip", "images_evaluation.zip")


def listed(root, name):
    (row,) = (row for row in list_datasets(root) if row.name == name)
    return row


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves files and parts of files; notes what was asked for."""

    def __init__(self, *args, requests, break_after, honour_range=True, **kwargs):
        self.requests = requests
        self.break_after = break_after  # how many bytes each answer brings, one number an answer
        self.honour_range = honour_range
        super().__init__(*args, **kwargs)

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range")
        self.requests.append((path.name, wanted))
        if not path.is_file():
            self.send_error(404, "Not Found")
            return
        content = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if not self.honour_range:
            start = 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        limit = self.break_after.pop(0) if self.break_after else len(content)
        self.wfile.write(content[start : start + limit])  # then the connection closes

    def log_message(self, *args):
        pass


@contextmanager
def served(folder, break_after=(), honour_range=True):
    requests = []
    handler = partial(
        RangeHandler,
        directory=str(folder),
        requests=requests,
        break_after=list(break_after),
        honour_range=honour_range,
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def source(tmp_path, small_omniglot):
    return write_small_omniglot(tmp_path / "source")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def assert_fetched(root, source):
    assert sorted(p.name for p in (root / "omniglot").iterdir()) == sorted(NAMES)
    for name in NAMES:
        assert (root / "omniglot" / name).read_bytes() == (source / name).read_bytes()


def test_download_checks_and_reports_each_file(root, source):
    seen = []
    with served(source) as (url, requests):
        fetched = fetch("omniglot", root, url_base=url, progress=lambda *a: seen.append(a))
    assert_fetched(root, source)
    assert requests == [(name, None) for name in NAMES]
    assert all("not the official one" in f.verdict and not f.was_there for f in fetched)
    hashes = [hashlib.sha256((source / name).read_bytes()).hexdigest() for name in NAMES]
    assert [f.sha256 for f in fetched] == hashes
    assert [f.sha256 for f in fetch("omniglot", root)] == hashes  # there already
    sizes = {name: (source / name).stat().st_size for name in NAMES}
    assert {(name, done, total) for name, done, total in seen if done == total} == {
        (name, size, size) for name, size in sizes.items()
    }


def test_broken_connection_is_taken_up_where_it_broke(root, source):
    with served(source, break_after=[1000, 500]) as (url, requests):
        fetch("omniglot", root, url_base=url)
    assert_fetched(root, source)
    assert requests[:3] == [(NAMES[0], None), (NAMES[0], "bytes=1000-"), (NAMES[0], "bytes=1500-")]


def test_dead_connection_ends_in_one_line_and_the_next_call_goes_on(root, source):
    with (
        served(source, break_after=[1000, 0]) as (url, _),
        pytest.raises(RunFailedError, match=r"stopped at 1000 bytes.*go on from there"),
    ):
        fetch("omniglot", root, url_base=url)
    assert [p.name for p in (root / "omniglot").iterdir()] == [NAMES[0] + ".part"]
    with served(source) as (url, requests):
        fetch("omniglot", root, url_base=url)
    assert requests[0] == (NAMES[0], "bytes=1000-")
    assert_fetched(root, source)


def test_server_without_ranges_sends_all_again(root, source):
    part = root / "omniglot" / (NAMES[0] + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    with served(source, honour_range=False) as (url, _):
        fetch("omniglot", root, url_base=url)
    assert_fetched(root, source)


def test_complete_part_is_only_checked_and_renamed(root, source):
    part = root / "omniglot" / (NAMES[0] + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes((source / NAMES[0]).read_bytes())
    with served(source) as (url, _):
        fetch("omniglot", root, url_base=url)
    assert_fetched(root, source)


def test_part_of_something_longer_is_dropped(root, source):
    part = root / "omniglot" / (NAMES[0] + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes((source / NAMES[0]).read_bytes() + b"more")
    with served(source) as (url, _):
        with pytest.raises(RunFailedError, match="did not fit"):
            fetch("omniglot", root, url_base=url)
        fetch("omniglot", root, url_base=url)
    assert_fetched(root, source)


def test_wrong_file_is_refused_and_nothing_stays(root, source):
    write_zip(source / NAMES[0], omniglot_entries({"Klingon": 2}))
    with (
        served(source) as (url, _),
        pytest.raises(BadInputError, match=r"^http://.*zip: entry .* not one of Omniglot's"),
    ):
        fetch("omniglot", root, url_base=url)
    assert list((root / "omniglot").iterdir()) == []


def test_missing_file_on_the_server_is_bad_input(root, tmp_path):
    with served(tmp_path) as (url, _), pytest.raises(BadInputError, match="404"):
        fetch("omniglot", root, url_base=url)


def test_file_that_is_too_large_is_not_received(root, source, monkeypatch):
    small = tuple(replace(file, max_bytes=1000) for file in Omniglot.files)
    monkeypatch.setattr(Omniglot, "files", small)
    with served(source) as (url, _), pytest.raises(BadInputError, match="more than 1000 bytes"):
        fetch("omniglot", root, url_base=url)


def test_unreachable_server_says_what_to_do(root):
    with served(root.parent) as (url, _):
        pass
    with pytest.raises(RunFailedError, match="--from DIR"):
        fetch("omniglot", root, url_base=url)


def test_address_of_another_kind_is_refused(root, source):
    with pytest.raises(BadInputError, match="https://"):
        fetch("omniglot", root, url_base=source.as_uri())


def test_fetch_from_a_folder_flat_or_like_a_data_root(root, source, tmp_path):
    fetch("omniglot", root, from_dir=source)
    assert_fetched(root, source)
    again = tmp_path / "again"
    fetch("omniglot", again, from_dir=root)
    assert_fetched(again, source)


def test_what_is_there_is_not_fetched_again(root, source, tmp_path):
    fetch("omniglot", root, from_dir=source)
    again = fetch("omniglot", root, from_dir=tmp_path)
    assert all(f.was_there for f in again)


def test_a_folder_that_is_not_there_is_refused_though_the_data_is(root, source, tmp_path):
    fetch("omniglot", root, from_dir=source)
    with pytest.raises(BadInputError, match=f"--from {tmp_path}/absent: there is no such folder"):
        fetch("omniglot", root, from_dir=tmp_path / "absent")


def test_damaged_file_is_replaced_once_the_new_one_is_whole(root, source, tmp_path):
    fetch("omniglot", root, from_dir=source)
    damaged = root / "omniglot" / NAMES[1]
    damaged.write_bytes(b"torn")
    with pytest.raises(BadInputError, match="not found; --from needs a folder that has it"):
        fetch("omniglot", root, from_dir=tmp_path)
    assert damaged.read_bytes() == b"torn"
    assert [f.was_there for f in fetch("omniglot", root, from_dir=source)] == [True, False]
    assert_fetched(root, source)


def test_root_that_cannot_be_written_is_one_line(tmp_path, source):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="cannot be stored: Not a directory; set OUTERLOOP_DAT"):
        fetch("omniglot", tmp_path / "file", from_dir=source)


def test_a_full_disk_is_a_failure_and_no_bad_input(root, source):
    part = root / "omniglot" / f"{NAMES[0]}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(RunFailedError, match="cannot be stored: No space left on device"):
        fetch("omniglot", root, from_dir=source)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_that_cannot_be_read_to_its_end_is_the_one_to_blame(root, source):
    (source / NAMES[0]).unlink()
    (source / NAMES[0]).symlink_to("/proc/self/mem")  # opens, and gives an error at its beginning
    with pytest.raises(BadInputError, match=rf"^{source / NAMES[0]}: cannot be read: Input/output"):
        fetch("omniglot", root, from_dir=source)


def test_wrong_file_in_a_folder_is_named_where_it_lies(root, source):
    (source / NAMES[0]).write_bytes(b"torn")
    with pytest.raises(BadInputError) as bad:
        fetch("omniglot", root, from_dir=source)
    assert str(bad.value).startswith(f"{source / NAMES[0]}: is no whole zip archive")
    assert ".part" not in str(bad.value)
    (source / NAMES[0]).unlink()
    (source / NAMES[0]).mkdir()
    with pytest.raises(BadInputError, match="cannot be read: Is a directo"):
        fetch("omniglot", root, from_dir=source)


def test_own_folder_of_the_data_set_is_no_data_root(root, source):
    fetch("omniglot", root, from_dir=source)
    inside = root / "omniglot"
    with pytest.raises(BadInputError, match=rf"OUTERLOOP_DATA={root}$"):
        fetch("omniglot", inside)
    assert f"OUTERLOOP_DATA={root}" in listed(inside, "omniglot").problem
    # A folder of another name can be a data root, and is told how to become one.
    assert f"outerloop data fetch omniglot --from {source}" in listed(source, "omniglot").problem
    fetch("omniglot", source, from_dir=source)
    assert listed(source, "omniglot").present


def test_unknown_and_embedded_data_sets(root):
    with pytest.raises(
        BadInputError, match=r"'omniglott': unknown; known: .*glyphs.*, omniglot, omniglot-one-shot"
    ):
        fetch("omniglott", root)
    with pytest.raises(BadInputError, match="nothing to fetch"):
        fetch("glyphs", root)


def test_list_says_what_is_there(root, source):
    glyphs, omniglot = listed(root, "glyphs"), listed(root, "omniglot")
    assert (glyphs.name, glyphs.present, glyphs.where) == ("glyphs", True, "embedded")
    assert (omniglot.present, omniglot.size_bytes) == (False, 0)
    assert "outerloop data fetch omniglot" in omniglot.how
    fetch("omniglot", root, from_dir=source)
    omniglot = listed(root, "omniglot")
    assert omniglot.present
    assert omniglot.where == str(root / "omniglot")
    assert omniglot.size_bytes == sum((source / name).stat().st_size for name in NAMES)
    assert "MIT" in omniglot.licence
    assert omniglot.problem == ""


def cut(archive):
    return archive[: len(archive) // 2]


def changed_inside(archive):
    at = len(archive) // 3  # in a drawing; the list of entries at the end is whole
    return archive[:at] + bytes([archive[at] ^ 255]) + archive[at + 1 :]


@pytest.mark.parametrize("harm", [cut, changed_inside])
def test_list_says_what_is_damaged_and_what_replaces_it(root, source, harm):
    fetch("omniglot", root, from_dir=source)
    damaged = root / "omniglot" / NAMES[1]
    damaged.write_bytes(harm(damaged.read_bytes()))
    omniglot = listed(root, "omniglot")
    assert not omniglot.present
    assert str(damaged) in omniglot.problem
    assert "`outerloop data fetch omniglot` replaces it" in omniglot.problem
    fetch("omniglot", root, from_dir=source)
    assert listed(root, "omniglot").present
