"""What is fetched of copies that are damaged, half there, or made to do harm."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import copy_lineage
from pipeline.checkpoint_files import verify
from pipeline.copy_lineage import Known, read_manifests, write_known
from pipeline.copy_manifest import (
    CopyManifest,
    DamagedCopyError,
    FileEntry,
    Marks,
    Record,
    decode,
)
from pipeline.copy_owner import Owner
from pipeline.copy_records import LENGTH, LOG, METRICS
from pipeline.copy_stage import stage
from pipeline.copy_upload import Uploader
from pipeline.errors import BadInputError, RunFailedError
from pipeline.fetch_copy import Fetching
from pipeline.runs import RunFolder
from pipeline.storage import Storage
from tests.pipeline.copies_for_tests import (
    Machine,
    address_of,
    assert_whole,
    experiment,
    newest_step,
)
from tests.pipeline.storage_for_tests import objects


@pytest.fixture(scope="module")
def original(tmp_path_factory, database):
    """A storage with the copies of a run, of the outer steps 3 and 4 at least."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("copied")
        copied = experiment(str(folder / "store"), database)
        run = Machine(folder / "home", patch).train_until(4, copied)
        yield Path(address_of(copied, run))


@pytest.fixture
def place(original, tmp_path):
    """The same, to be damaged."""
    place = tmp_path / "store" / original.name
    shutil.copytree(original, place)
    return place


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path / "home", monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, database):
    with pytest.MonkeyPatch.context() as patch:
        yield Machine(tmp_path_factory.mktemp("whole"), patch).train(experiment("", database))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


DAMAGES = [cut, flip, grow, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_whatever_is_damaged_a_sound_run_comes_back(damage, place, machine, caplog):
    newest = read_manifests(Storage(str(place)))[-1]
    for name in [*(one.object_name for one in newest.parts), newest.name]:
        caplog.clear()
        shutil.copy(place / name, place.parent / "kept")
        damage(place / name)
        run = machine.fetch(str(place))
        verify(run.checkpoints / f"step-{newest_step(run):06d}")
        assert run.read_experiment().checkpoint.copy_to == str(place.parent)
        said = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
        gone = damage is Path.unlink and name == newest.name
        is_there_too = name.startswith("files/config.yaml")  # in the manifest
        assert gone or is_there_too or any(name in line for line in said), name
        assert newest_step(run) >= 3
        machine.is_lost()
        shutil.move(place.parent / "kept", place / name)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    place, machine, database, undisturbed, caplog
):
    for path in place.glob("files/checkpoints/step-000004/*"):
        flip(path)
    result = machine.resume(str(place), "meta.steps=6")
    assert_whole(result, undisturbed, database)
    assert "the copy of outer step 4 is damaged" in caplog.text
    assert "using the one before" in caplog.text
    shutil.rmtree(machine.home)
    caplog.clear()
    result = machine.resume(str(place))  # what was damaged was copied again
    assert "damaged" not in caplog.text
    assert_whole(result, undisturbed, database)


def test_a_record_that_every_copy_has_and_that_is_damaged_leaves_a_gap_and_no_more(
    place, machine, caplog
):
    for path in place.glob("records/*"):
        flip(path)
    run = machine.fetch(str(place))
    assert newest_step(run) == 4
    assert "is left out of what is fetched" in caplog.text
    assert not (run.path / "tracking" / "delivered.json").exists()
    assert not (run.path / ".record").exists()


def test_a_run_with_a_gap_in_its_record_goes_on_and_is_copied_whole_again(
    original, tmp_path, machine, caplog
):
    run = RunFolder(tmp_path / "run" / original.name)
    shutil.copytree(original.parent.parent / "home" / original.name, run.path)
    (run.path / ".copied.json").unlink()
    much = "much was said " * 200_000 + "\n"  # too large to be packed again

    def publish(run: RunFolder, writer: str, text: str, *steps: int) -> None:
        uploader = Uploader(Storage(str(place)), run.path, 2, Owner.here(writer * 16))
        uploader.begin(4, take_over=False)
        for number, step in enumerate(steps):
            with run.log.open("a") as log:
                log.write(text if number == 0 else "a little more\n")
            uploader.publish(stage(run.path, number, step))
        uploader.claim.end()

    place = tmp_path / "elsewhere" / original.name
    publish(run, "a", much, 2, 3, 4)
    large = max(read_manifests(Storage(str(place)))[-1].records, key=lambda one: one.size)
    flip(place / large.object_name)
    fetched = machine.fetch(str(place))
    assert "is left out of what is fetched" in caplog.text
    with fetched.metrics.open("ab") as metrics:  # goes on for longer than what is missing
        metrics.write(run.metrics.read_bytes())
    publish(fetched, "b", "went on " * 400_000 + "\n", 4, 4)
    kept = {path: (fetched.path / path).read_bytes() for path in (LOG, METRICS)}
    machine.is_lost()
    caplog.clear()
    again = machine.fetch(str(place))
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert {path: (again.path / path).read_bytes() for path in (LOG, METRICS)} == kept


def test_of_more_copies_than_a_run_can_have_the_newest_are_looked_at(place, machine, monkeypatch):
    for _ in range(5):
        forged(place)
    read = read_manifests(Storage(str(place)))
    monkeypatch.setattr(copy_lineage, "MAX_MANIFESTS", 3)
    assert read_manifests(Storage(str(place))) == read[-3:]
    monkeypatch.setattr(copy_lineage, "MAX_BYTES_OF_MANIFESTS", 10)
    assert read_manifests(Storage(str(place))) == read[-1:]
    assert newest_step(machine.fetch(str(place))) == 4


def test_a_storage_without_a_sound_copy_is_refused_in_one_line(place, machine):
    for path in place.glob("files/checkpoints/step-*/shard*"):
        flip(path)
    with pytest.raises(RunFailedError, match="every copy is damaged"):
        machine.fetch(str(place))
    for path in place.glob("copies/*"):
        path.write_text("{}")
    with pytest.raises(BadInputError, match="no sound copy"):
        machine.fetch(str(place))
    with pytest.raises(BadInputError, match="no sound copy"):
        machine.fetch(f"file://{place.parent}/none")
    assert not [
        path for path in machine.home.iterdir() if path.name[0] != "." and path.name != "mlflow.db"
    ]


def forged(place: Path, **changes) -> None:
    """Put a newer copy there whose manifest says something else, with a right checksum."""
    newest = read_manifests(Storage(str(place)))[-1]
    manifest = replace(newest, number=newest.number + 1, **changes)
    (place / manifest.name).write_bytes(manifest.encode())


def put(place: Path, path: str, data: bytes) -> FileEntry:
    entry = FileEntry(path, len(data), hashlib.sha256(data).hexdigest())
    target = place / entry.object_name
    if ".." not in path and not path.startswith("/"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return entry


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "checkpoints/../../evil",
        "/tmp/evil",
        "plots//evil",
        "plots/./evil",
        "plots/.hidden",
        ".lock",
        ".copied.json",
        "",
        "elsewhere/evil",
        "plots\\..\\evil",
        "plots/a\nb",
        "plots/" + "x" * 300,
        "plots/a/b/c/d/e/f/g",
        "plots/\x00",
    ],
)
def test_a_name_that_leads_elsewhere_makes_no_copy(path, place, machine, tmp_path, caplog):
    newest = read_manifests(Storage(str(place)))[-1]
    forged(
        place,
        files=(
            *newest.files,
            put(place, path, b"evil")
            if path.isascii() and path.isprintable() and len(path) < 200 and path
            else FileEntry(path, 4, "0" * 64),
        ),
    )
    before = set(tmp_path.rglob("*"))
    run = machine.fetch(str(place))
    assert "passed over" in caplog.text
    new = {one for one in set(tmp_path.rglob("*")) - before if run.path not in (one, *one.parents)}
    assert new <= {machine.home}
    assert not [one for one in tmp_path.rglob("*evil*") if "store" not in one.parts]


def test_a_file_where_another_has_its_folder_makes_the_copy_a_damaged_one(place, machine, caplog):
    newest = read_manifests(Storage(str(place)))[-1]
    forged(place, files=(*newest.files, put(place, "plots/x", b"1"), put(place, "plots/x/y", b"2")))
    assert newest_step(machine.fetch(str(place))) == 4
    assert "passed over" in caplog.text


def test_a_record_where_a_file_has_its_folder_is_damaged(place, machine, caplog):
    newest = read_manifests(Storage(str(place)))[-1]
    step = newest.records[0].first.outer_steps
    partition = put(place, f"trajectories/meta_step={step:06d}", b"no folder")
    forged(place, files=(*newest.files, partition))
    assert newest_step(machine.fetch(str(place))) == 4
    assert "something else has its place" in caplog.text


@pytest.mark.parametrize(
    "size",
    [-1, 1 << 62, 2.5, "4", True, None],
    ids=["negative", "huge", "part", "text", "truth", "none"],
)
def test_a_size_that_cannot_be_makes_no_copy(size, place, machine, caplog):
    newest = read_manifests(Storage(str(place)))[-1]
    forged(place, files=(*newest.files, FileEntry("plots/x.png", size, "0" * 64)))
    assert newest_step(machine.fetch(str(place))) == 4
    assert "passed over" in caplog.text


def test_a_copy_larger_than_the_disk_is_refused(place, machine):
    newest = read_manifests(Storage(str(place)))[-1]
    forged(place, files=(*newest.files, FileEntry("plots/x.png", 1 << 58, "0" * 64)))
    with pytest.raises(RunFailedError, match="has room for"):
        machine.fetch(str(place))


@pytest.mark.parametrize(
    "change",
    [
        {"host": 7},
        {"config": None},
        {"writer": "../../x"},
        {"step": -1},
        {"step": "4"},
        {"number": 1 << 61},
        {"files": (FileEntry("config.yaml", 1, "../x"),)},
        {"files": (FileEntry("config.yaml", 1, "0" * 64),) * 2},
        {"records": (Record(Marks(1), Marks(2), 1, "0" * 64),)},
        {"records": (Record(Marks(), Marks(-1), 1, "0" * 64),)},
    ],
)
def test_a_manifest_that_says_what_none_of_ours_says_is_damaged(change):
    manifest = CopyManifest(1, 0, "0" * 16, "host", "", (), ())
    assert decode(manifest.name, manifest.encode()) == manifest
    wrong = replace(manifest, **change)
    with pytest.raises(DamagedCopyError):
        decode(manifest.name, wrong.encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"sha256": 1}']
)
def test_what_is_no_manifest_is_damaged(data):
    with pytest.raises(DamagedCopyError):
        decode("copies/00000001.json", data)


def test_fields_that_a_manifest_has_not_are_damage_and_a_later_format_is_told():
    body = json.loads(CopyManifest(1, 0, "0" * 16, "host", "", (), ()).encode())
    del body["sha256"]

    def signed(**changes) -> bytes:
        tree = {**body, **changes}
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
        return json.dumps({**tree, "sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()

    linked = {"path": "plots/x", "size": 1, "sha256": "0" * 64, "link": "/etc/passwd"}
    for changes in ({"files": [linked]}, {"more": 1}, {"records": [{}]}, {"files": {"a": 1}}):
        with pytest.raises(DamagedCopyError):
            decode("copies/00000001.json", signed(**changes))
    with pytest.raises(BadInputError, match="install the version"):
        decode("copies/00000001.json", signed(format_version=2))


@pytest.mark.parametrize(
    "parts",
    [
        [{"path": "../evil", "offset": 0, "size": 4}],
        [{"path": "config.yaml", "offset": 0, "size": 4}],
        [{"path": "trajectories/../../evil", "offset": 0, "size": 4}],
        [{"path": "trajectories/x", "offset": 0, "size": 1 << 59}],
        [{"path": "trajectories/x", "offset": 0, "size": -4}],
        [{"path": "trajectories/x", "offset": 0, "size": 3}],
        [{"path": "trajectories/x", "size": 4, "mode": "link"}],
        "text",
    ],
)
def test_a_record_made_to_do_harm_is_left_out(parts, place, machine, tmp_path, caplog):
    table = json.dumps(parts).encode()
    data = LENGTH.pack(len(table)) + table + b"evil"
    newest = read_manifests(Storage(str(place)))[-1]
    last = newest.records[-1].last
    record = Record(
        last, replace(last, log=last.log + 4), len(data), hashlib.sha256(data).hexdigest()
    )
    (place / record.object_name).write_bytes(data)
    forged(place, records=(*newest.records, record))
    run = machine.fetch(str(place))
    assert newest_step(run) == 4
    assert "damaged" in caplog.text
    assert not (run.path / "trajectories" / "x").exists()
    assert run.read_experiment().name


def test_links_are_not_followed_and_other_peoples_files_are_not_sent(place, machine, caplog):
    (place.parent / "secret").write_bytes(b"secret")
    linked = put(place, "plots/linked.png", b"secret")
    (place / linked.object_name).unlink()
    os.symlink(place.parent / "secret", place / linked.object_name)
    items = {
        "00000001-artifact": {"kind": "artifact", "content": {"path": "/etc/passwd", "folder": ""}},
        "00000002-artifact": {"kind": "artifact", "content": {"path": "../x", "folder": ""}},
        "00000003-model": {"kind": "model", "content": {"files": ["../../../../x"]}},
        "00000004-artifact": {"kind": "artifact", "content": {"path": "log.txt", "folder": ""}},
        "00000005-tags": {"kind": "tags", "content": {"a": "b"}},
    }
    pending = [
        put(place, f"tracking/pending/{name}.json", json.dumps(item).encode())
        for name, item in items.items()
    ]
    newest = read_manifests(Storage(str(place)))[-1]
    kept = [one for one in newest.files if "pending" not in one.path]
    forged(place, files=(*kept, linked, *pending))
    run = machine.fetch(str(place))
    assert "is a link" in caplog.text
    assert not (run.path / "plots" / "linked.png").exists()
    left = sorted(path.name for path in (run.path / "tracking" / "pending").iterdir())
    assert left == ["00000004-artifact.json", "00000005-tags.json"]


def test_what_a_killed_fetch_left_is_removed_and_hinders_nothing(place, machine):
    left = machine.home / f".fetching-{place.name}-{2**22 + 7}"
    (left / "checkpoints").mkdir(parents=True)
    assert newest_step(machine.fetch(str(place))) == 4
    assert not left.exists()


def while_it_comes(act, monkeypatch) -> None:
    """Let `act` happen when the copy is there, and has not got the run's name yet."""
    fetch = Fetching.newest_sound

    def newest_sound(self, copies):
        got = fetch(self, copies)
        monkeypatch.setattr(Fetching, "newest_sound", fetch)
        act()
        return got

    monkeypatch.setattr(Fetching, "newest_sound", newest_sound)


def test_two_fetches_of_one_run_exclude_each_other(place, machine, monkeypatch):
    refused = []

    def another():
        with pytest.raises(BadInputError, match=r"is being fetched by process \d+") as told:
            machine.fetch(str(place))
        refused.append(told)

    while_it_comes(another, monkeypatch)
    assert newest_step(machine.fetch(str(place))) == 4
    assert refused
    assert not list(machine.home.glob(".older-*"))


@pytest.mark.parametrize("is_at_work", [True, False])
def test_a_run_that_is_begun_while_its_copy_comes_is_not_displaced(
    is_at_work, place, machine, monkeypatch
):
    run = machine.fetch(str(place))
    newest = read_manifests(Storage(str(place)))[-1]
    forged(place, writer="e" * 16)  # someone went on with it
    with ExitStack() as at_work:

        def begin():
            if is_at_work:
                at_work.enter_context(run.locked())
            else:  # it was, and has made a copy of its own
                write_known(run.path, Known(newest.number + 5, frozenset({newest.writer})))

        while_it_comes(begin, monkeypatch)
        said = "is in use by process" if is_at_work else "its copy is no newer"
        with pytest.raises(BadInputError, match=said):
            machine.fetch(str(place))
        assert not list(machine.home.glob(".older-*"))
        assert run.is_in_use() == is_at_work
    assert not list(machine.home.glob(".fetching-*"))
    if is_at_work:
        machine.fetch(str(place))
        assert len(list(machine.home.glob(".older-*"))) == 1


def test_a_name_that_is_no_run_id_is_refused(place, machine):
    for name in (".hidden", "a b", "x" * 300):
        (place.parent / name[:200] / "copies").mkdir(parents=True, exist_ok=True)
        with pytest.raises(BadInputError, match="no name of a run"):
            machine.fetch(f"file://{place.parent}/{name}")


def test_an_object_of_a_storage_is_never_written_again_with_other_content(original):
    for name in objects(original):
        if name.startswith("files/"):
            content = hashlib.sha256((original / name).read_bytes()).hexdigest()
            assert name.endswith(content[:16])


def test_the_fetched_folder_is_the_one_that_was_lost(original, machine):
    home = original.parent.parent / "home"
    lost, run = RunFolder(home / original.name), machine.fetch(str(original))
    for path in lost.path.rglob("*"):
        relative = path.relative_to(lost.path)
        is_old = relative.parts[0] == "checkpoints" and "step-000004" not in relative.parts
        is_of_machine = path.name.startswith(".") or path.name == "sent.jsonl"
        if path.is_file() and not is_of_machine and not is_old:
            assert (run.path / relative).read_bytes() == path.read_bytes(), relative
    assert run.log.read_bytes() == lost.log.read_bytes()


class TornError(Exception):
    """The connection, or the process, dies in the middle of a write."""


def test_an_upload_that_dies_at_any_write_leaves_the_copy_before_and_is_made_up_for(
    original, tmp_path, machine, monkeypatch
):
    run = tmp_path / "run" / original.name
    shutil.copytree(original.parent.parent / "home" / original.name, run)
    (run / ".copied.json").unlink()
    whole, left = Storage.write, []

    def write(self, name, blocks):
        left[0] -= 1
        if left[0] == 0:
            data = b"".join(blocks)
            whole(self, name, [data[: len(data) // 2]])
            raise TornError
        whole(self, name, blocks)

    def uploader(store: Path, number: int) -> Uploader:
        (run / ".copied.json").unlink(missing_ok=True)
        made = Uploader(Storage(str(store)), run, 2, Owner.here(f"{number:016x}"))
        left[:] = [0]
        made.begin(4, take_over=True)
        return made

    monkeypatch.setattr(Storage, "write", write)
    for number in range(1, 100):
        store = tmp_path / f"store-{number}" / original.name
        made = uploader(store, number)
        made.publish(stage(run, 1, 3))
        left[:] = [number]
        try:
            made.publish(stage(run, 2, 4))
            break
        except TornError:
            pass
        assert newest_step(machine.fetch(str(store), take_over=True)) == 3
        machine.is_lost()
        left[:] = [0]
        again = uploader(store, number + 1000) if number % 2 else made  # another process, or this
        again.publish(stage(run, 3, 4))
        assert newest_step(machine.fetch(str(store), take_over=True)) == 4
        machine.is_lost()
    assert number > 5
