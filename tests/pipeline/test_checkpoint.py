import hashlib
import itertools
import json
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checkpoint import CheckpointStore
from pipeline.checkpoint_files import DamagedCheckpointError, write_shard
from pipeline.errors import BadInputError, RunFailedError
from pipeline.files import sha256_json
from tests.processes import kill_after, start

SIZE = 50
META = {"counters": {"retries": 3}, "loss": 0.1, "names": ["ä", "b"]}

NOT_WHAT_WE_WRITE = {
    "a step that is infinite": lambda m: m.update(step=math.inf),
    "a step that is a text": lambda m: m.update(step="2"),
    "another step than its folder": lambda m: m.update(step=7),
    "state that is a list": lambda m: m.update(meta=[1]),
    "a shard of minus one element": lambda m: m["shards"][0].update(length=-1),
    "a shard at half an element": lambda m: m["shards"][0].update(offset=0.5),
    "a shard out of the folder": lambda m: m["shards"][0].update(name="../x.safetensors"),
    "a shard with one thing more": lambda m: m["shards"][0].update(more=1),
    "shards that are a text": lambda m: m.update(shards="x"),
}

SAVES_FOREVER = """
import sys, pathlib, numpy as np
from pipeline.checkpoint import CheckpointStore
store = CheckpointStore(pathlib.Path(sys.argv[1]), keep=2)
step = 0
while True:
    step += 1
    params = np.full(200_000, step, np.float32)
    store.save(step, [(0, params, {"momentum": params}), (200_000, params, {"momentum": params})],
               {"step": step})
    print(step, flush=True)
"""

SAVES_WITH_SMALL_FILES_ONLY = """
import resource, sys, pathlib, numpy as np
from pipeline.checkpoint import CheckpointStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
params = np.ones(100_000, np.float32)
CheckpointStore(pathlib.Path(sys.argv[1]), keep=2).save(2, [(0, params, {})], {})
"""


def vectors(step):
    params = np.random.default_rng(step).standard_normal(SIZE).astype(np.float32)
    return params, {"momentum": params * 2, "num_steps": np.array(float(step))}


def shards(step, cuts=()):
    params, optimizer = vectors(step)
    borders = [0, *sorted(cuts), SIZE]
    return [
        (
            start,
            params[start:stop],
            {"momentum": optimizer["momentum"][start:stop], "num_steps": optimizer["num_steps"]},
        )
        for start, stop in itertools.pairwise(borders)
    ]


def save(folder, *steps, keep=3):
    store = CheckpointStore(folder, keep)
    for step in steps:
        store.save(step, shards(step, cuts=[20]), META)
    return store


def assert_is(checkpoint, step):
    params, optimizer = vectors(step)
    assert checkpoint.step == step
    np.testing.assert_array_equal(checkpoint.params, params)
    assert checkpoint.params.dtype == np.float32
    assert checkpoint.optimizer.keys() == optimizer.keys()
    for name, expected in optimizer.items():
        np.testing.assert_array_equal(checkpoint.optimizer[name], expected)
        assert checkpoint.optimizer[name].shape == expected.shape
    assert checkpoint.meta == META


def reseal(folder, **changes):
    """Change the manifest and give it a checksum that is right."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **changes}
    manifest.pop("sha256")
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**manifest, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    save(folder, 1, 2)
    return folder


@settings(deadline=None, max_examples=25)
@given(cuts=st.sets(st.integers(1, SIZE - 1), max_size=6), shuffle=st.randoms())
def test_what_is_loaded_is_what_was_saved_however_it_was_cut(cuts, shuffle):
    parts = shards(7, cuts)
    shuffle.shuffle(parts)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder), keep=2)
        store.save(7, parts, META)
        assert_is(store.load_latest(), 7)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_checkpoint_is_never_taken_for_good(sound, data):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "checkpoints"
        shutil.copytree(sound, folder)
        files = sorted((folder / "step-000002").iterdir())
        file = data.draw(st.sampled_from(files))
        content = bytearray(file.read_bytes())
        where = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans(), label="truncate"):
            del content[where:]
        else:
            content[where] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        loaded = CheckpointStore(folder, keep=3).load_latest()
        # White space in the manifest carries nothing: there the checkpoint is still the same.
        assert_is(loaded, loaded.step)
        assert loaded.step == 1 or file.name == "manifest.json"


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog):
    store = save(tmp_path, 1, 2)
    shard = tmp_path / "step-000002" / "shard-000000000020.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    assert_is(store.load_latest(), 1)
    assert "step-000002 is damaged (shard-000000000020.safetensors: wrong checksum)" in caplog.text
    assert caplog.text.count("using the one before") == 1
    (tmp_path / "step-000001" / "manifest.json").unlink()
    with pytest.raises(BadInputError, match="every checkpoint is damaged"):
        store.load_latest()
    assert caplog.text.count("using the one before") == 2  # and not of the oldest, step 1


def test_a_manifest_that_was_changed_is_damage(tmp_path):
    store = save(tmp_path, 1, 2)
    path = tmp_path / "step-000002" / "manifest.json"
    path.write_text(path.read_text().replace('"retries": 3', '"retries": 4'))
    assert_is(store.load_latest(), 1)


def test_a_missing_file_is_damage(tmp_path):
    store = save(tmp_path, 1, 2, 3)
    (tmp_path / "step-000003" / "manifest.json").unlink()
    (tmp_path / "step-000002" / "shard-000000000000.safetensors").unlink()
    assert_is(store.load_latest(), 1)


def test_nothing_saved_is_nothing_loaded_but_all_damaged_is_an_error(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert store.load_latest() is None
    store.save(1, shards(1), META)
    (tmp_path / "checkpoints" / "step-000001" / "manifest.json").write_text("{}")
    with pytest.raises(BadInputError, match="every checkpoint is damaged"):
        store.load_latest()


def test_a_format_from_the_future_is_refused_and_not_passed_over(tmp_path):
    store = save(tmp_path, 1, 2)
    reseal(tmp_path / "step-000002", format_version=2)
    with pytest.raises(BadInputError, match="format 2; this version of outerloop reads format 1"):
        store.load_latest()


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "shard-0.safetensors", 7]
)
def test_a_manifest_cannot_name_a_file_outside_its_folder(tmp_path, name):
    store = save(tmp_path, 1, 2)
    newest = tmp_path / "step-000002"
    (listed, other) = json.loads((newest / "manifest.json").read_text())["shards"]
    shutil.copy(newest / listed["name"], tmp_path / "outside.safetensors")
    reseal(newest, shards=[{**listed, "name": name}, other])
    assert_is(store.load_latest(), 1)


def test_a_link_in_place_of_a_shard_is_not_followed(tmp_path):
    store = save(tmp_path, 1, 2)
    shard = tmp_path / "step-000002" / "shard-000000000000.safetensors"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    assert_is(store.load_latest(), 1)


@pytest.mark.parametrize("shards", [[], [{"offset": 0}], "all", None])
def test_a_manifest_of_another_shape_is_damage(tmp_path, shards):
    store = save(tmp_path, 1, 2)
    reseal(tmp_path / "step-000002", shards=shards)
    assert_is(store.load_latest(), 1)


def test_the_newest_are_kept(tmp_path):
    assert save(tmp_path, 1, 2, 3, 4, 5, keep=3).steps() == [3, 4, 5]
    assert sorted(os.listdir(tmp_path)) == ["step-000003", "step-000004", "step-000005"]


def test_a_step_saved_again_replaces_the_checkpoint(tmp_path):
    store = save(tmp_path, 1, 2)
    store.save(2, [(0, np.zeros(SIZE, np.float32), {})], {})
    assert store.steps() == [1, 2]
    assert not store.load_latest().params.any()


def test_a_later_checkpoint_that_was_passed_over_goes_when_a_new_one_is_there(tmp_path):
    save(tmp_path, 10, 20, 30)
    (tmp_path / "step-000030" / "manifest.json").write_text("torn")
    assert save(tmp_path, 21).steps() == [10, 20, 21]


def test_shards_that_leave_a_gap_make_no_checkpoint(tmp_path):
    store = save(tmp_path, 1)
    with pytest.raises(RunFailedError, match="do not make one whole vector"):
        store.save(2, [(0, np.ones(3, np.float32), {}), (4, np.ones(3, np.float32), {})], {})
    assert os.listdir(tmp_path) == ["step-000001"]


def test_a_disk_that_changed_a_shard_makes_no_checkpoint(tmp_path):
    store = save(tmp_path, 1)
    with store.draft(2) as draft:
        written = write_shard(draft.folder, *shards(2)[0])
        content = bytearray((draft.folder / written.name).read_bytes())
        content[-1] ^= 1
        (draft.folder / written.name).write_bytes(content)
        with pytest.raises(RunFailedError, match="not as written"):
            draft.commit([written], META)
    assert os.listdir(tmp_path) == ["step-000001"]


def test_a_draft_that_is_not_committed_leaves_no_trace(tmp_path):
    store = save(tmp_path, 1)
    with store.draft(2) as draft:
        write_shard(draft.folder, *shards(2)[0])
    assert os.listdir(tmp_path) == ["step-000001"]


@pytest.mark.parametrize(
    ("params", "optimizer"),
    [
        (np.ones(3), {}),
        (np.ones((3, 1), np.float32), {}),
        (np.ones(3, np.float32), {"momentum": np.ones(4)}),
    ],
)
def test_vectors_of_the_wrong_kind_are_a_mistake_of_the_caller(tmp_path, params, optimizer):
    with pytest.raises(ValueError, match=r"expected float32|in a shard of"):
        write_shard(tmp_path, 0, params, optimizer)


def test_a_shard_may_be_a_view_with_gaps(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    wide = np.arange(2 * SIZE, dtype=np.float32)
    store.save(1, [(0, wide[::2], {"momentum": wide[1::2]})], {})
    np.testing.assert_array_equal(store.load_latest().params, wide[::2])
    np.testing.assert_array_equal(store.load_latest().optimizer["momentum"], wide[1::2])


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.009, 0.015, 0.022])
def test_a_run_killed_in_the_middle_of_a_save_loses_nothing(tmp_path, delay_s):
    finished = int(kill_after(3, delay_s, SAVES_FOREVER, tmp_path)[-1])
    store = CheckpointStore(tmp_path, keep=2)
    loaded = store.load_latest()
    assert loaded.step >= finished
    assert loaded.meta == {"step": loaded.step}
    np.testing.assert_array_equal(loaded.params, np.full(400_000, loaded.step, np.float32))
    np.testing.assert_array_equal(loaded.optimizer["momentum"], loaded.params)
    store.save(loaded.step + 1, shards(1), META)
    assert sorted(os.listdir(tmp_path)) == [f"step-{step:06d}" for step in store.steps()]


def test_a_file_that_cannot_grow_is_one_line_and_no_damage(tmp_path):
    store = save(tmp_path, 1)
    _, errors = start(SAVES_WITH_SMALL_FILES_ONLY, tmp_path).communicate()
    assert errors.splitlines()[-1].endswith(
        "step-000002: cannot be written: File too large; make room or mend the folder, then "
        "resume; earlier checkpoints are untouched"
    )
    assert os.listdir(tmp_path) == ["step-000001"]
    assert_is(store.load_latest(), 1)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk (root)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_no_damage(small_disk):
    store = save(small_disk, 1)
    with pytest.raises(RunFailedError, match=r"cannot be written: No space left on device; make"):
        store.save(2, [(0, np.ones(200_000, np.float32), {})], {})
    assert os.listdir(small_disk) == ["step-000001"]
    assert_is(store.load_latest(), 1)
    store.save(2, shards(2), META)
    assert_is(store.load_latest(), 2)


def test_a_read_only_disk_is_one_line_and_no_damage(small_disk):
    store = save(small_disk, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunFailedError, match=r"cannot be written: Read-only file system; make"):
        store.save(2, shards(2), META)
    assert_is(store.load_latest(), 1)


def sign_again(folder, change):
    """Change the manifest of a checkpoint, and make its checksum fit."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["sha256"] = sha256_json(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("change", NOT_WHAT_WE_WRITE.values(), ids=list(NOT_WHAT_WE_WRITE))
def test_a_manifest_made_to_do_harm_is_damaged(tmp_path, change):
    store = CheckpointStore(tmp_path, keep=2)
    store.save(2, shards(2), META)
    sign_again(tmp_path / "step-000002", change)
    with pytest.raises(DamagedCheckpointError):
        store.load(2)


@pytest.mark.parametrize(
    "state",
    [
        {"momentum": torch.ones(SIZE, dtype=torch.bfloat16)},
        {"momentum": torch.ones(SIZE, dtype=torch.float8_e4m3fn)},
        {"momentum": torch.ones(SIZE + 1)},
        {"momentum": torch.ones(SIZE, 2)},
        {},
    ],
    ids=["bfloat16", "float8", "longer", "a matrix", "none, which the other shard has"],
)
def test_optimizer_state_made_to_do_harm_is_damaged(tmp_path, state):
    store = CheckpointStore(tmp_path, keep=2)
    params = np.ones(SIZE, np.float32)
    halves = [(start, params, {"momentum": params}) for start in (0, SIZE)]
    store.save(2, halves, META)
    folder = tmp_path / "step-000002"
    path = folder / f"shard-{SIZE:012d}.safetensors"
    tensors = {f"optimizer.{name}": tensor for name, tensor in state.items()}
    path.write_bytes(safetensors.torch.save({"params": torch.ones(SIZE), **tensors}))

    def vouch(manifest):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest["shards"][1].update(size=path.stat().st_size, sha256=digest)

    sign_again(folder, vouch)
    with pytest.raises(DamagedCheckpointError):
        store.load(2)
