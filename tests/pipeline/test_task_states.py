"""Checkpoints inside a task: what was written comes back, bitwise, or is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.task_states import (
    DamagedStateError,
    drop_states_after,
    read_state,
    state_header,
    state_steps,
    write_state,
)

STATE = {
    "version": 7,
    "held": None,
    "loop": {
        "step": 12,
        "path_length": torch.tensor(1.5, dtype=torch.float64),
        "values": torch.arange(6.0),
        "buffers": {},
        "task": {
            "generator": torch.Generator().manual_seed(3).get_state(),
            "name": "a",
            "on": True,
        },
    },
    "metrics": {"return": -1.25},
}


def test_a_state_comes_back_as_it_was(tmp_path):
    write_state(tmp_path, 12, STATE)
    state = read_state(tmp_path, 12)
    assert state["loop"].keys() == STATE["loop"].keys()
    for name in ("path_length", "values"):
        assert state["loop"][name].dtype == STATE["loop"][name].dtype
        assert torch.equal(state["loop"][name], STATE["loop"][name])
    assert torch.equal(state["loop"]["task"]["generator"], STATE["loop"]["task"]["generator"])
    assert {k: state[k] for k in ("version", "held", "metrics")} == {
        k: STATE[k] for k in ("version", "held", "metrics")
    }
    assert state["loop"]["task"]["on"] is True
    assert state_header(tmp_path, 12)["version"] == 7


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15):
        write_state(tmp_path, step, STATE)
    assert state_steps(tmp_path) == [10, 15]
    for step in (20, 25):
        write_state(tmp_path, step, STATE, num_kept=4)
    assert state_steps(tmp_path) == [10, 15, 20, 25]


def test_a_new_attempt_is_not_pruned_for_what_a_dead_one_left(tmp_path):
    for step in (300, 400):
        write_state(tmp_path, step, STATE)
    write_state(tmp_path, 100, STATE | {"version": 8})
    assert state_steps(tmp_path) == [100]
    write_state(tmp_path, 100, STATE | {"version": 9})
    assert state_header(tmp_path, 100)["version"] == 9
    assert len(list(tmp_path.iterdir())) == 1
    drop_states_after(tmp_path, 99)
    assert state_steps(tmp_path) == []


@settings(deadline=None, max_examples=80)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), cut=st.booleans())
def test_any_changed_byte_is_found(tmp_path_factory, place, change, cut):
    folder = tmp_path_factory.mktemp("state")
    write_state(folder, 12, STATE)
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    if cut:
        del data[at:]
    else:
        data[at] ^= change
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedStateError, match="wrong checksum"):
        state_header(folder, 12)
    with pytest.raises(DamagedStateError, match="wrong checksum"):
        read_state(folder, 12)


def test_what_is_not_there_or_is_a_link_is_refused(tmp_path):
    with pytest.raises(DamagedStateError, match="there is none"):
        read_state(tmp_path / "missing", 3)
    write_state(tmp_path / "real", 3, STATE)
    (path,) = (tmp_path / "real").iterdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / path.name).symlink_to(path)
    with pytest.raises(DamagedStateError, match="there is none"):
        read_state(tmp_path / "linked", 3)


def test_what_json_and_safetensors_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="cannot hold set"):
        write_state(tmp_path, 3, {"version": 0, "loop": {"seen": {1, 2}}})
    assert list(tmp_path.iterdir()) == []
