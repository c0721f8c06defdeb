import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metric_log import MetricLog, count_points, read_points
from tests.processes import kill_after, start

APPENDS_FOREVER = """
import sys, pathlib
from pipeline.metric_log import MetricLog
log = MetricLog(pathlib.Path(sys.argv[1]))
step = 0
while True:
    log.append(step, {f"train/{i}": step + i / 7 for i in range(500)}, timestamp_ms=step)
    print(step, flush=True)
    step += 1
"""

FILLS_THE_DISK = """
import pathlib, resource, sys
from pipeline.metric_log import MetricLog
log = MetricLog(pathlib.Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    log.append(0, {"train/loss": 1.0}, timestamp_ms=0)
except OSError:
    print("append")
try:
    log.close()
except OSError:
    print("close")
try:
    log.sync()
except ValueError:
    print("closed")
"""


def points(path, offset=0, limit=10**6):
    return [(p.key, p.step, p.value, p.timestamp_ms) for p in read_points(path, offset, limit)[0]]


def log_steps(path, steps, time=0):
    log = MetricLog(path)
    for step in steps:
        log.append(step, {"train/loss": step / 3, "outer/norm": step / 7}, timestamp_ms=time + step)
    log.close()


EXPECTED = [
    (key, step, step / divisor, step)
    for step in range(6)
    for key, divisor in [("train/loss", 3), ("outer/norm", 7)]
]


def test_points_come_back_exactly_and_in_order(tmp_path):
    log_steps(tmp_path / "log", range(6))
    assert points(tmp_path / "log") == EXPECTED


def test_points_are_readable_as_soon_as_they_are_logged(tmp_path):
    log = MetricLog(tmp_path / "log")
    log.append(0, {"a": 1.0}, timestamp_ms=5)
    assert points(tmp_path / "log") == [("a", 0, 1.0, 5)]
    log.close()


def test_steps_taken_again_are_logged_once_with_their_first_time(tmp_path):
    log_steps(tmp_path / "log", range(4))
    log_steps(tmp_path / "log", range(2, 6), time=0)
    assert points(tmp_path / "log") == EXPECTED
    log_steps(tmp_path / "log", range(6), time=1000)
    assert points(tmp_path / "log") == EXPECTED


def test_a_key_that_is_new_at_a_known_step_is_logged(tmp_path):
    log_steps(tmp_path / "log", range(2))
    log = MetricLog(tmp_path / "log")
    log.append(1, {"train/loss": 9.0, "eval/test/auc": 0.5}, timestamp_ms=7)
    log.close()
    assert points(tmp_path / "log")[4:] == [("eval/test/auc", 1, 0.5, 7)]


@settings(deadline=None, max_examples=60)
@given(keep=st.floats(0, 1), garbage=st.binary(max_size=20).filter(lambda b: b"\n" not in b))
def test_a_torn_log_is_mended_and_each_point_is_there_once(keep, garbage):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        log_steps(path, range(6))
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))] + garbage)
        log_steps(path, range(6))
        assert points(path) == EXPECTED


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path):
    log_steps(tmp_path / "log", range(3))
    with (tmp_path / "log").open("ab") as file:
        file.write(b"x" * 200_000)
    log_steps(tmp_path / "log", range(6))
    assert points(tmp_path / "log") == EXPECTED


def test_a_line_that_is_still_being_written_is_not_read(tmp_path):
    log_steps(tmp_path / "log", range(1))
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole + b'{"key": "train/lo')
    found, offset = read_points(tmp_path / "log", 0, 100)
    assert (len(found), offset) == (2, len(whole))
    assert count_points(tmp_path / "log", 0) == 2


def test_reading_goes_on_where_it_stopped(tmp_path):
    log_steps(tmp_path / "log", range(6))
    offset, seen = 0, []
    while batch := read_points(tmp_path / "log", offset, limit=5):
        if batch[1] == offset:
            break
        seen.append(len(batch[0]))
        assert count_points(tmp_path / "log", batch[1]) == 12 - sum(seen)
        offset = batch[1]
    assert seen == [5, 5, 2]


def test_a_line_that_is_no_point_does_not_hold_up_the_others(tmp_path, caplog):
    log_steps(tmp_path / "log", range(1))
    with (tmp_path / "log").open("a") as file:
        file.write('{"key": 1}\nnonsense\n' + json.dumps([1, 2]) + "\n")
    log_steps(tmp_path / "log", range(6))
    assert points(tmp_path / "log") == EXPECTED
    assert "a line that is no metric point was passed over" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        '{"key": "a", "step": "2", "value": 0.5, "timestamp_ms": 1}',
        '{"key": 1, "step": 2, "value": 0.5, "timestamp_ms": 1}',
        '{"key": "a", "step": 2, "value": null, "timestamp_ms": 1}',
        '{"key": "a", "step": 9223372036854775808, "value": 0.5, "timestamp_ms": 1}',
        '{"key": "a", "step": true, "value": 0.5, "timestamp_ms": 1}',
        '{"key": "' + "a" * 200_000 + '", "step": 2, "value": 0.5, "timestamp_ms": 1}',
    ],
)
def test_a_point_of_other_types_is_passed_over_when_the_log_is_opened(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    good = '{"key": "a", "step": 1, "value": 0.5, "timestamp_ms": 1}'
    path.write_text(f"{good}\n{line}\n")
    log = MetricLog(path)
    log.append(2, {"a": 1.0}, timestamp_ms=2)
    log.close()
    points, end = read_points(path, 0, 10)
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 1.0)]
    assert end == path.stat().st_size


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_left_out_and_named_once(tmp_path, caplog, value):
    log = MetricLog(tmp_path / "log")
    for step in range(3):
        log.append(step, {"train/loss": value, "outer/norm": 1.0}, timestamp_ms=0)
    log.append(3, {"train/loss": 0.5}, timestamp_ms=0)
    log.close()
    assert [p[0] for p in points(tmp_path / "log")] == ["outer/norm"] * 3 + ["train/loss"]
    assert caplog.text.count("metric train/loss is") == 1


def test_a_log_that_lost_its_end_is_read_from_what_is_there(tmp_path):
    log_steps(tmp_path / "log", range(1))
    assert points(tmp_path / "log", offset=10**9) == []
    assert points(tmp_path / "missing") == []


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.011])
def test_a_killed_process_loses_no_point_that_it_has_logged(tmp_path, delay_s):
    finished = int(kill_after(5, delay_s, APPENDS_FOREVER, tmp_path / "log")[-1])
    log = MetricLog(tmp_path / "log")
    for step in range(finished + 3):
        log.append(step, {f"train/{i}": step + i / 7 for i in range(500)}, timestamp_ms=step)
    log.close()
    found = points(tmp_path / "log")
    assert len(set(found)) == len(found)
    for key in ("train/0", "train/250", "train/499"):
        mine = [(step, value) for name, step, value, _ in found if name == key]
        offset = int(key.split("/")[1]) / 7
        assert mine == [(step, step + offset) for step in range(len(mine))]
        assert len(mine) >= finished + 3


def test_a_log_that_cannot_be_written_any_more_is_closed_all_the_same(tmp_path):
    finished = start(FILLS_THE_DISK, tmp_path / "log")
    output, errors = finished.communicate()
    assert output.split() == ["append", "close", "closed"], errors
    assert points(tmp_path / "log") == []
