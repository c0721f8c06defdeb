import errno
import json
import logging
import threading

import pytest

from pipeline import delivery
from pipeline.delivery import Delivery, back_off_s, deliver_until
from pipeline.mlflow_run import is_refusal
from pipeline.outbox import Outbox, pending_items
from tests.pipeline.mlflow_for_tests import client, run_folder


class Turns(threading.Event):
    """Ends a delivery after `count` turns, and notes how long each would have waited."""

    def __init__(self, count):
        super().__init__()
        self.count = count
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        if len(self.waits) == self.count:
            self.set()
        return self.is_set()


class Unspeakable(BaseException):
    def __str__(self):
        raise RuntimeError("not even that")


class FailingDelivery:
    uri = "http://127.0.0.1:9"
    errors = (OSError("away"), Unspeakable(), SystemExit(1), KeyboardInterrupt(), RecursionError())

    def __init__(self):
        self.attempts = 0

    def undelivered(self):
        return 1, 0

    def deliver(self, with_refused=False):
        self.attempts += 1
        raise self.errors[self.attempts % len(self.errors)]


def test_thousands_of_failures_of_any_kind_do_not_end_the_delivery():
    turns, failing = Turns(5000), FailingDelivery()
    deliver_until(turns, failing)
    assert failing.attempts == 5001
    assert turns.waits[:5] == [10, 20, 40, 60, 60]
    assert set(turns.waits[5:]) == {60}


class RefusesOnce:
    """Fails at first; then delivers the three points that waited, and a new one."""

    uri = "http://127.0.0.1:9"
    failed = False

    def undelivered(self):
        return 3, 1

    def deliver(self, with_refused=False):
        if not self.failed:
            self.failed = True
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return 4, 0


def test_what_waited_for_the_end_of_a_failure_is_counted_once(caplog):
    caplog.set_level(logging.INFO)
    deliver_until(Turns(3), RefusesOnce())
    first, second = caplog.messages
    assert first.startswith("MLflow at http://127.0.0.1:9: connection refused; training goes on")
    assert second.endswith("delivered 3 metric points and 0 other items that were waiting")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.records[1].shown  # to who was warned, although it is no warning


def test_a_file_here_that_cannot_be_read_is_not_laid_to_mlflow(database, tmp_path, caplog):
    delivering = Delivery(run_folder(tmp_path), database, "unreadable")
    delivering.metrics_path.mkdir()
    deliver_until(Turns(1), delivering, (3, 0))
    (said,) = caplog.messages
    assert said.startswith(f"{delivering.metrics_path}: is a directory; training goes on")


def test_what_shows_the_log_may_end_as_it_likes(caplog, monkeypatch):
    def reader_has_gone(*_, **__):
        raise SystemExit(1)

    monkeypatch.setattr(delivery.logger, "warning", reader_has_gone)
    failing = FailingDelivery()
    deliver_until(Turns(8), failing)
    assert failing.attempts == 9


def test_at_the_end_a_server_is_waited_for_unless_it_has_been_away_for_long(monkeypatch):
    slept = []
    monkeypatch.setattr(delivery.time, "sleep", slept.append)
    failing = FailingDelivery()
    deliver_until(Turns(1), failing)
    assert failing.attempts == 7
    assert slept == [delivery.AT_END_EVERY_S] * 5
    comes_back = RefusesOnce()
    finishing = Turns(1)
    finishing.set()
    deliver_until(finishing, comes_back)
    assert comes_back.failed
    assert len(slept) == 6


def test_a_delivery_that_was_ended_makes_no_run_and_leaves_what_waits(database, tmp_path):
    folder = run_folder(tmp_path)
    Outbox(folder / "tracking" / "pending").put("tags", {"a": "b"})
    ended, finishing = Delivery(folder, database, "ended"), threading.Event()
    ended.end()
    finishing.set()
    deliver_until(finishing, ended)
    assert ended.mlflow_run_id is None
    assert ended.undelivered() == (0, 1)
    found = client(database).get_experiment_by_name("ended")
    assert found is None or not client(database).search_runs([found.experiment_id])


def test_a_delivery_without_trouble_says_nothing(caplog):
    delivery = RefusesOnce()
    delivery.failed = True
    deliver_until(Turns(3), delivery)
    assert caplog.messages == []


def test_the_back_off_is_soon_at_first_and_bounded_for_ever():
    assert [back_off_s(failures) for failures in (0, 1, 2, 1024, 10**9)] == [5, 10, 20, 60, 60]


def test_a_refused_item_does_not_make_the_curves_wait(database, tmp_path):
    delivering = Delivery(run_folder(tmp_path), database, "refused")
    Outbox(delivering.pending_folder).put("tags", {"": "a tag has to have a name"})
    turns = Turns(3)
    deliver_until(turns, delivering)
    assert turns.waits == [delivery.DELIVER_EVERY_S] * 3
    assert delivering.undelivered() == (0, 1)


@pytest.mark.parametrize(
    "damaged",
    ['{"kind": "tagz", "content": {}}', '{"kind": "tags", "content": []}', '{"kind": "status"}',
     '{"kind": "status", "content": {}}', '{"kind": "dataset", "content": {"name": 3}}', "{"],
)  # fmt: skip
def test_a_damaged_item_does_not_hold_up_those_after_it(database, tmp_path, damaged):
    delivering = Delivery(run_folder(tmp_path), database, "damaged")
    outbox = Outbox(delivering.pending_folder)
    outbox.put("tags", {"first": "1"})
    outbox.put("tags", {"second": "2"})
    next(pending_items(delivering.pending_folder)).file.write_text(damaged)
    assert delivering.deliver() == (0, 1)
    run = client(database).get_run(delivering.mlflow_run_id)
    assert run.data.tags["second"] == "2"
    assert delivering.undelivered() == (0, 1)


def test_a_refused_item_is_tried_again_once_in_a_while_and_at_the_end(
    database, tmp_path, monkeypatch
):
    delivering = Delivery(run_folder(tmp_path), database, "refused")
    outbox = Outbox(delivering.pending_folder)
    for _ in range(2):
        outbox.put("tags", {"": "a tag has to have a name"})
    delivering.deliver()
    first, second = (item.file for item in pending_items(delivering.pending_folder))
    # What MLflow would take now shows when it is tried again.
    first.write_text(json.dumps({"kind": "tags", "content": {"first": "1"}}))
    delivering.deliver()
    assert delivering.undelivered() == (0, 2)
    delivering.deliver(with_refused=True)
    assert delivering.undelivered() == (0, 1)
    second.write_text(json.dumps({"kind": "tags", "content": {"second": "2"}}))
    monkeypatch.setattr(delivery, "REFUSED_AGAIN_AFTER_S", 0.0)
    delivering.deliver()
    assert delivering.undelivered() == (0, 0)


@pytest.mark.parametrize(
    ("status", "refused"), [(400, True), (413, True), (401, False), (429, False), (503, False)]
)
def test_what_is_about_the_item_alone_is_a_refusal(status, refused):
    from requests import HTTPError, Response

    response = Response()
    response.status_code = status
    assert is_refusal(HTTPError("of an upload", response=response)) == refused


def test_other_errors_are_no_refusals():
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    assert not is_refusal(MlflowException("who are you", error_code=PERMISSION_DENIED))
    assert not is_refusal(ConnectionError("away"))
