"""What MLflow was given is on record: the first value of a parameter, the last state of a file."""

from __future__ import annotations

import pytest

from pipeline.sent_record import SENT, SentRecord, model_label, read_sent
from tests.processes import start


def test_a_record_says_what_was_added_whoever_opened_it(tmp_path):
    first = SentRecord(tmp_path)
    first.add_params({"lr": "1", "seed": "0"})
    first.add_artifact("plots/a.png", 7)
    first.add_artifact("log.txt", None)
    again = SentRecord(tmp_path)
    again.add_params({"lr": "2", "more": "3"})
    again.add_artifact("plots/a.png", 9)
    again.add_model("leap", 4, ["config.yaml", "shard"])
    sent = read_sent(tmp_path)
    assert sent.params == {"lr": "1", "seed": "0", "more": "3"}
    assert sent.artifacts == {"plots/a.png": 9, "log.txt": None}
    assert sent.models == {model_label("leap", 4): ("config.yaml", "shard")}
    assert sent.bad_lines == []


def test_half_a_line_of_a_process_that_died_does_not_count_and_goes(tmp_path):
    SentRecord(tmp_path).add_artifact("a", 1)
    with (tmp_path / SENT).open("ab") as file:
        file.write(b'{"kind": "artifact", "na')
    assert read_sent(tmp_path).bad_lines == []
    SentRecord(tmp_path).add_artifact("b", 2)
    assert read_sent(tmp_path).artifacts == {"a": 1, "b": 2}
    assert read_sent(tmp_path).bad_lines == []


FULL_FOR_A_WHILE = """
import pathlib, resource, signal, sys
from pipeline.sent_record import SentRecord
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
record = SentRecord(pathlib.Path(sys.argv[1]))
record.add_artifact("a", 1)
limit = (pathlib.Path(sys.argv[1]) / "sent.jsonl").stat().st_size + 10
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    record.add_artifact("b", 2)
except OSError as error:
    print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
record.add_artifact("b", 2)
"""


def test_a_disk_that_becomes_full_in_the_middle_of_a_line_leaves_no_half_of_it(tmp_path):
    said, errors = start(FULL_FOR_A_WHILE, tmp_path).communicate(timeout=60)
    assert (said.strip(), errors) == ("OSError", "")
    assert read_sent(tmp_path).artifacts == {"a": 1, "b": 2}
    assert read_sent(tmp_path).bad_lines == []


@pytest.mark.parametrize(
    "line",
    [b"[" * 40_000, b"5", b"\xff", b"{}", b'{"kind": "param", "name": "a", "value": 5}',
     b'{"kind": "model", "name": "a", "files": [5]}', b'{"kind": "artifact", "name": ""}',
     b'{"kind": "artifact", "name": "a", "size": true}'],
)  # fmt: skip
def test_a_line_that_is_none_is_told_of(tmp_path, line):
    SentRecord(tmp_path).add_artifact("a", 1)
    with (tmp_path / SENT).open("ab") as file:
        file.write(line + b"\n")
    sent = read_sent(tmp_path)
    assert sent.bad_lines == [2]
    assert sent.artifacts == {"a": 1}
