"""Copies of real runs: what is in them, and that a run goes on from one as if nothing was."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import copies, copy_owner, copy_upload, delivery, run_ending, session
from pipeline.copies import Copies
from pipeline.copy_lineage import read_manifests
from pipeline.copy_manifest import CopyManifest, decode
from pipeline.copy_owner import Owner, read_owner, write_owner
from pipeline.errors import BadInputError, TakenOverError
from pipeline.metric_log import read_curve
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.storage import Storage
from pipeline.trainer import Trainer
from tests.pipeline.copies_for_tests import (
    STEPS,
    KilledError,
    Machine,
    address_of,
    assert_whole,
    experiment,
    newest_step,
)
from tests.pipeline.mlflow_for_tests import client
from tests.pipeline.storage_for_tests import needs_moto, objects, s3  # noqa: F401
from tests.pipeline.test_run_log import Heard
from tests.processes import wait_until

KINDS = ["path", "memory", pytest.param("s3", marks=needs_moto)]


def whole_runs(database):
    found = client(database).search_runs(["1"], max_results=1000)
    return [run for run in found if "mlflow.parentRunId" not in run.data.tags]


@pytest.fixture
def machines(tmp_path, monkeypatch):
    return [Machine(tmp_path / name, monkeypatch) for name in ("first", "second")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, database):
    with pytest.MonkeyPatch.context() as patch:
        yield Machine(tmp_path_factory.mktemp("whole"), patch).train(experiment("", database))


def killed_after(step: int, monkeypatch) -> None:
    """Let the run end after outer step `step` as a killed process does: nothing more is kept."""
    take = Trainer.outer_step

    def outer_step(self, *arguments):
        if self.version == step:
            wait_until(lambda: not self._books.copies.behind)
            raise KilledError
        take(self, *arguments)

    def abandon(self, *arguments):
        self._finishing = True
        with self._changed:
            self._waiting = None

    monkeypatch.setattr(Trainer, "outer_step", outer_step)
    monkeypatch.setattr(Copies, "finish", abandon)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_its_copy_on_another_machine(
    kind, machines, undisturbed, database, tmp_path, request
):
    first, second = machines
    place = {"path": str(tmp_path / "store"), "memory": f"memory://{secrets.token_hex(4)}/runs"}
    if kind == "s3":
        place["s3"] = request.getfixturevalue("s3").address
    copied = experiment(place[kind], database)
    run = first.train_until(4, copied)
    log = run.log.read_text()
    first.is_lost()
    result = second.resume(address_of(copied, run), f"meta.steps={STEPS}")
    assert_whole(result, undisturbed, database)
    gone_on = RunFolder(result.run_dir)
    assert gone_on.path == second.home / run.run_id
    assert gone_on.log.read_text().startswith(log)
    assert gone_on.read_summary()["counts"]["outer_steps"] == STEPS
    newest = read_manifests(Storage(address_of(copied, run)))[-1]
    assert newest.step == STEPS
    paths = {one.path for one in newest.files}
    assert {"config.yaml", "summary.json", "plots/meta-test.png"} <= paths
    assert "evaluation/curves.parquet" in paths
    second.is_lost()
    assert_whole(second.resume(address_of(copied, run)), undisturbed, database)


def test_who_takes_a_run_from_another_machine_is_told_so(machines, database, tmp_path):
    first, second = machines
    copied = experiment(str(tmp_path / "store"), database)
    run = first.train_until(1, copied)
    owner = tmp_path / "store" / run.run_id / "owner.json"
    owner.write_text(json.dumps(json.loads(owner.read_text()) | {"host": "elsewhere"}))
    fetched, heard = second.fetch(address_of(copied, run)), Heard()
    session.evaluate(fetched, (), heard)
    assert f"run {run.run_id} was at work on elsewhere, and is this machine's from now" in str(
        heard.texts
    )
    heard = Heard()
    session.evaluate(fetched, (), heard)
    assert "was at work on" not in str(heard.texts)


def test_what_mlflow_has_beyond_the_copy_is_not_sent_again(
    machines, undisturbed, database, tmp_path, monkeypatch
):
    first, second = machines
    copied = experiment(str(tmp_path / "store"), database)
    offer = Copies.offer
    with monkeypatch.context() as patch:
        patch.setattr(Copies, "offer", lambda self, n: offer(self, n) if n <= 2 else None)
        patch.setattr(Copies, "finish", lambda *_: None)
        run = first.train_until(5, copied)
    wait_until(lambda: read_manifests(Storage(address_of(copied, run)))[-1].step == 2)
    first.is_lost()
    result = second.resume(address_of(copied, run), f"meta.steps={STEPS}", take_over=True)
    assert_whole(result, undisturbed, database)


def test_a_store_that_does_not_know_the_run_any_more_gets_all_curves(
    machines, undisturbed, database, tmp_path
):
    first, second = machines
    copied = experiment(str(tmp_path / "store"), database)
    run = first.train_until(3, copied)
    gone = {"run_id": "0" * 32, "tracking_id": "0" * 32}  # as a new store at the old address
    fetched = second.fetch(address_of(copied, run))
    target = fetched.path / "tracking" / "target.json"
    target.write_text(json.dumps(json.loads(target.read_text()) | gone))
    result = second.resume(run.run_id, f"meta.steps={STEPS}")
    assert result.mlflow_run_id != "0" * 32
    assert_whole(result, undisturbed, database)


def test_a_run_that_died_before_its_first_checkpoint_goes_on_in_the_same_mlflow_run(
    machines, undisturbed, database, tmp_path, monkeypatch
):
    first, second = machines
    copied = experiment(str(tmp_path / "store"), database, checkpoint={"every": 100})
    with monkeypatch.context() as patch:
        killed_after(3, patch)
        with pytest.raises(KilledError):
            first.train(copied)
    (run,) = map(RunFolder, first.home.glob("custom-*"))
    before = len(whole_runs(database))
    first.is_lost()
    result = second.resume(address_of(copied, run), take_over=True)
    assert_whole(result, undisturbed, database)
    assert len(whole_runs(database)) == before


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_task_goes_on_in_its_middle_on_another_machine(
    mode, machines, database, tmp_path, monkeypatch
):
    first, second = machines
    monkeypatch.setattr(copies, "IN_FLIGHT_EVERY_S", 0.0)
    copied = experiment(
        str(tmp_path / "store"),
        database,
        meta={"mode": mode, "num_steps": 2, "batch_size": 2},
        inner={"num_steps": 12, "segment_steps": 2, "checkpoint_every": 2},
    )
    whole = Machine(tmp_path / "whole", monkeypatch).train(
        experiment("", database, meta=copied.meta.model_dump(), inner=copied.inner.model_dump())
    )
    taken = []
    take = Trainer._take_rows

    def run():
        return next(map(RunFolder, first.home.glob("custom-*")))

    def has_copied_state_of(spec) -> bool:
        newest = read_manifests(Storage(address_of(copied, run())))[-1]
        state = f"step-{spec.meta_step:06d}-task-{spec.index:06d}/state-"
        return any(state in one.path for one in newest.files)

    def take_rows(self, segment):
        record = take(self, segment)
        taken.append(segment)
        if len(taken) == 2 * 7 + 7 + 4:  # in the middle of the last task of the second outer step
            wait_until(lambda: has_copied_state_of(segment.spec))
            raise KilledError
        return record

    with monkeypatch.context() as patch:
        killed_after(99, patch)
        patch.setattr(Trainer, "_take_rows", take_rows)
        with pytest.raises(KilledError):
            first.train(copied)
    place = address_of(copied, run())
    first.is_lost()
    result = second.resume(place, take_over=True)
    assert_whole(result, whole, database, last=2)
    if mode == "sync":  # in async mode tasks that a checkpoint knows nothing of begin again
        log = RunFolder(result.run_dir).log.read_text()
        assert "goes on from its inner step" in log


def test_only_the_last_copies_are_kept_and_all_that_they_name(machines, database, tmp_path):
    first, _ = machines
    copied = experiment(str(tmp_path / "store"), database, meta={"num_steps": 20})
    run = first.train(copied)
    place = tmp_path / "store" / run.run_id
    kept = read_manifests(Storage(str(place)))
    assert [one.step for one in kept][-1] == 20
    assert len(kept) <= 4
    assert len(kept[-1].records) <= 8  # of 20 outer steps: small ones were packed together
    named = {one.object_name for copy in kept for one in copy.parts}
    assert set(objects(place)) == {*named, "owner.json", *(one.name for one in kept)}
    checkpoints = {name.split("/")[2] for name in named if name.startswith("files/checkpoints/")}
    assert len(checkpoints) <= 3


def test_storage_that_is_away_for_a_while_stops_nothing(
    machines, undisturbed, database, tmp_path, monkeypatch, caplog
):
    first, second = machines
    copied = experiment(str(tmp_path / "store"), database)
    monkeypatch.setattr(copies, "back_off_s", lambda failures: 0.02)
    write, failures = Storage.write, []

    def away(self, name, blocks):
        if "step-000002" in name and len(failures) < 5:
            failures.append(name)
            raise OSError("storage is away")
        write(self, name, blocks)

    monkeypatch.setattr(Storage, "write", away)
    with caplog.at_level(logging.INFO, "pipeline.copies"):
        run = first.train(copied)
    warnings = [r for r in caplog.records if "storage is away" in r.message]
    assert len(warnings) <= 1
    first.is_lost()
    result = second.resume(address_of(copied, run))
    assert_whole(result, undisturbed, database)
    behind = read_curve(RunFolder(result.run_dir).metrics, "fault/copies_behind")
    assert [step for step, _ in behind] == list(range(1, STEPS + 1))


def test_storage_that_fails_once_at_the_very_end_gets_the_last_copy_nevertheless(
    machines, database, tmp_path, monkeypatch
):
    first, _ = machines
    copied = experiment(str(tmp_path / "store"), database)
    write, finish, left = Storage.write, Copies.finish, [0]

    def finish_with_a_failure(self, *arguments):
        wait_until(lambda: not self.behind)
        left[0] = 1
        finish(self, *arguments)

    def fails_once(self, name, blocks):
        if left[0]:
            left[0] -= 1
            raise OSError("503 slow down")
        write(self, name, blocks)

    monkeypatch.setattr(Copies, "finish", finish_with_a_failure)
    monkeypatch.setattr(Storage, "write", fails_once)
    run = first.train_until(2, copied)
    newest = read_manifests(Storage(address_of(copied, run)))[-1]
    assert "summary.json" in {one.path for one in newest.files}
    assert not (run.path / ".copying").exists()


def test_steps_that_are_taken_again_while_the_storage_is_away_are_not_kept_as_they_were(
    machines, database, tmp_path, monkeypatch
):
    first, second = machines
    monkeypatch.setattr(copies, "IN_FLIGHT_EVERY_S", 0.0)
    monkeypatch.setattr(copies, "back_off_s", lambda failures: 0.02)
    monkeypatch.setattr(copy_upload, "first_to_pack", lambda records, more: len(records))  # large
    copied = experiment(str(tmp_path / "store"), database, checkpoint={"every": 100})
    take, write = Trainer.outer_step, Storage.write

    def newest():
        (place,) = (tmp_path / "store").iterdir()
        return read_manifests(Storage(str(place)))[-1]

    def is_killed(self, *arguments):
        if self.version == 4:
            self._books.copies.offer_tasks(self.version)
            wait_until(lambda: newest().records[-1].last.outer_steps == 4)
            raise KilledError
        take(self, *arguments)

    with monkeypatch.context() as patch:
        killed_after(99, patch)
        patch.setattr(Trainer, "outer_step", is_killed)
        with pytest.raises(KilledError):
            first.train(copied)
    (run,) = map(RunFolder, first.home.glob("custom-*"))
    is_away = [True]

    def away(self, name, blocks):
        if is_away[0]:
            raise OSError("storage is away")
        write(self, name, blocks)

    def comes_back(self, *arguments):
        take(self, *arguments)
        is_away[0] = self.version < 5

    monkeypatch.setattr(Storage, "write", away)
    monkeypatch.setattr(Trainer, "outer_step", comes_back)
    first.resume(run.run_id, "checkpoint.every=1", take_over=True)
    fetched = second.fetch(address_of(copied, run))
    for path in run.trajectories.rglob("*.parquet"):
        again = fetched.trajectories / path.relative_to(run.trajectories)
        assert again.read_bytes() == path.read_bytes()


def test_once_nothing_is_copied_any_longer_nothing_is_held_on_to(
    machines, database, tmp_path, monkeypatch, caplog
):
    first, _ = machines
    place, later = tmp_path / "store", tmp_path / "later"
    (tmp_path / "file").write_text("no folder")
    place.symlink_to(tmp_path / "file")
    copied = experiment(str(place), database)
    monkeypatch.setattr(copies, "back_off_s", lambda failures: 0.02)
    take = Trainer.outer_step

    def outer_step(self, *arguments):
        if self.version == 2:  # what answers in the end is of a later version
            body = json.loads(CopyManifest(1, 0, "0" * 16, "host", "", (), ()).encode())
            body |= {"format_version": 2}
            del body["sha256"]
            text = json.dumps(body, sort_keys=True, separators=(",", ":"))
            body["sha256"] = hashlib.sha256(text.encode()).hexdigest()
            (run,) = first.home.glob("custom-*")
            name = f"{run.name}/copies/00000001.json"
            Storage(str(later)).write(name, [json.dumps(body).encode()])
            (tmp_path / "link").symlink_to(later)
            (tmp_path / "link").rename(place)
            wait_until(lambda: "nothing is copied any longer" in caplog.text)
        take(self, *arguments)

    monkeypatch.setattr(Trainer, "outer_step", outer_step)
    run = first.train(copied)
    assert newest_step(run) == STEPS
    assert not (run.path / ".copying").exists()
    (run.path / ".copying" / "00000001").mkdir(parents=True)  # as a killed process leaves it
    first.resume(run.run_id, 'checkpoint.copy_to=""')
    assert not (run.path / ".copying").exists()


def test_storage_that_never_answers_costs_one_warning_and_a_last_line(
    machines, undisturbed, database, tmp_path, monkeypatch, caplog
):
    first, _ = machines
    (tmp_path / "file").write_text("")
    copied = experiment(str(tmp_path / "file" / "store"), database)
    monkeypatch.setattr(copies, "back_off_s", lambda failures: 0.02)
    monkeypatch.setattr(run_ending, "COPY_TIMEOUT_S", 2.0)
    run = first.train(copied)
    said = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert sum("training goes on, and the run is copied later" in line for line in said) == 1
    assert sum("is not at" in line for line in said) == 1
    assert newest_step(run) == STEPS
    (tmp_path / "file").unlink()
    result = first.resume(run.run_id)  # what is missing is copied then
    assert read_manifests(Storage(address_of(copied, run)))[-1].step == STEPS
    assert_whole(result, undisturbed, database)


def at_work_elsewhere(place: str) -> Owner:
    other = Owner("f" * 16, "other-host", 4242, "another-boot/1", 0.0, False)
    write_owner(Storage(place), other)
    return other


def test_a_run_that_is_at_work_elsewhere_is_refused_unless_it_is_taken_over(
    machines, undisturbed, database, tmp_path
):
    first, second = machines
    copied = experiment(str(tmp_path / "store"), database)
    run = first.train_until(2, copied)
    place = address_of(copied, run)
    at_work_elsewhere(place)
    for machine, text in ((first, run.run_id), (second, place)):
        with pytest.raises(BadInputError, match=r"process 4242 on other-host.*take-over"):
            machine.resume(text, f"meta.steps={STEPS}")
    assert not (second.home / run.run_id).exists()
    result = second.resume(place, f"meta.steps={STEPS}", take_over=True)
    assert_whole(result, undisturbed, database)


def test_an_owner_that_is_not_heard_of_or_has_ended_or_is_dead_here_does_not_block():
    here = Owner.here("0" * 16)
    assert here.blocks_for_s() > 60
    elsewhere = replace(here, process="other-boot/1", host="there")
    assert elsewhere.blocks_for_s() > 60
    assert replace(elsewhere, heard=time.time() - 500).blocks_for_s() == 0
    assert replace(elsewhere, is_over=True).blocks_for_s() == 0
    assert 0 < replace(elsewhere, heard=time.time() + 10_000).blocks_for_s() <= 120
    if here.process:
        boot = here.process.rpartition("/")[0]
        assert replace(here, process=f"{boot}/1").blocks_for_s() == 0  # its number was used again
        assert replace(here, pid=2**22 + 1).blocks_for_s() == 0


def test_an_owner_who_is_half_written_is_read_again(tmp_path, monkeypatch, caplog):
    storage = Storage(str(tmp_path))
    owner = at_work_elsewhere(str(tmp_path))
    whole = (tmp_path / "owner.json").read_bytes()
    for half in (b"", whole[: len(whole) // 2]):
        (tmp_path / "owner.json").write_bytes(half)
        monkeypatch.setattr(
            copy_owner.time, "sleep", lambda _: (tmp_path / "owner.json").write_bytes(whole)
        )
        found = read_owner(storage)
        assert found is not None
        assert found.writer == owner.writer
    assert not caplog.records
    (tmp_path / "owner.json").write_bytes(b"{}")
    monkeypatch.setattr(copy_owner.time, "sleep", lambda _: None)
    assert read_owner(storage) is None
    assert "it is not known who is at work" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"heard": float("nan")}, {"heard": float("inf")}, {"host": 7}, {"pid": "1"}, {"writer": []}],
)
def test_an_owner_who_says_what_none_of_ours_says_blocks_nobody(change, tmp_path):
    at_work_elsewhere(str(tmp_path))
    path = tmp_path / "owner.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_owner(Storage(str(tmp_path))) is None


def test_names_of_machines_are_shown_short_and_without_control_characters(tmp_path):
    host = "\x1b[2Jx\n" + "h" * 2000
    write_owner(Storage(str(tmp_path)), replace(at_work_elsewhere(str(tmp_path)), host=host))
    found = read_owner(Storage(str(tmp_path)))
    manifest = CopyManifest(1, 0, "0" * 16, host, "", (), ())
    for name in (found and found.host, decode(manifest.name, manifest.encode()).host):
        assert name == "?[2Jx?" + "h" * 94


def test_a_run_that_went_on_elsewhere_is_refused_here_and_fetched_over_what_is_older(
    machines, undisturbed, database, tmp_path
):
    first, second = machines
    copied = experiment(str(tmp_path / "store"), database)
    run = first.train_until(2, copied)
    place = address_of(copied, run)
    with pytest.raises(BadInputError, match=r"is in .* already, at outer step 2.*no newer"):
        first.resume(place)
    second.resume(place, "meta.steps=4")
    with pytest.raises(BadInputError, match=r"went on on .*, up to outer step 4.*--resume"):
        first.resume(run.run_id, "meta.steps=6")
    with pytest.raises(BadInputError, match="went on on"):
        session.evaluate(run, None, SilentProgress())
    result = first.resume(place, f"meta.steps={STEPS}")
    assert_whole(result, undisturbed, database)
    (older,) = first.home.glob(f".older-{run.run_id}-*")
    assert newest_step(RunFolder(older)) == 2
    with pytest.raises(BadInputError, match=r"went on on .*, up to outer step 6"):
        second.resume(run.run_id, "meta.steps=7")
    taken = second.resume(run.run_id, "meta.steps=7", take_over=True)
    assert taken.outer_steps == 7
    assert read_manifests(Storage(place))[-1].step == 7


def test_a_run_that_is_taken_over_while_it_runs_stops(machines, database, tmp_path, monkeypatch):
    first, _ = machines
    copied = experiment(str(tmp_path / "store"), database, meta={"num_steps": 500})
    take = Trainer.outer_step

    def outer_step(self, *arguments):
        take(self, *arguments)
        if self.version == 3:
            at_work_elsewhere(str(next((tmp_path / "store").iterdir())))

    monkeypatch.setattr(Trainer, "outer_step", outer_step)
    with pytest.raises(TakenOverError, match="was taken over by process 4242 on other-host"):
        first.train(copied)
    place = str(next((tmp_path / "store").iterdir()))
    assert read_manifests(Storage(place))[-1].step <= 4


def knows_that_it_was_taken_over(found: Copies) -> bool:
    try:
        found.check()
    except TakenOverError:
        return True
    return False


def test_a_run_that_was_taken_over_and_finished_is_left_as_it_is_by_who_had_it(
    machines, undisturbed, database, tmp_path, monkeypatch
):
    first, second = machines
    copied = experiment(str(tmp_path / "store"), database, checkpoint={"every": 2})
    take, results = Trainer.outer_step, []

    def outer_step(self, *arguments):
        take(self, *arguments)
        if results and self.version == 5:
            wait_until(lambda: knows_that_it_was_taken_over(self._books.copies))
        if not results and self.version == 3:
            place = str(next((tmp_path / "store").iterdir()))
            wait_until(lambda: read_manifests(Storage(place))[-1].step == 2)
            results.append(None)  # from here on in the other one
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "outer_step", take)
                results[:] = [second.resume(place, take_over=True)]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "outer_step", outer_step)
        with pytest.raises(TakenOverError, match="was taken over by process") as told:
            first.train(copied)
    assert "--resume" not in str(told.value)
    (result,) = results
    assert_whole(result, undisturbed, database)

    def in_mlflow(key):
        found = client(database).get_metric_history(result.mlflow_run_id, key)
        return [point.step for point in found]

    steps = list(range(1, STEPS + 1))
    assert in_mlflow("outer/grad_norm") == in_mlflow("train/loss") == steps
    assert client(database).get_run(result.mlflow_run_id).info.status == "FINISHED"
    # And if it takes the run back, it sends what MLflow has not got.
    first.resume(Path(result.run_dir).name, f"meta.steps={STEPS + 1}", take_over=True)
    assert in_mlflow("outer/grad_norm") == in_mlflow("train/loss") == [*steps, STEPS + 1]


def test_points_are_kept_while_nobody_says_whose_the_run_is(
    machines, undisturbed, database, tmp_path, monkeypatch, caplog
):
    first, _ = machines
    copied = experiment(str(tmp_path / "store"), database)
    run = first.train_until(2, copied)
    place = Path(address_of(copied, run))
    place.rename(place.with_name("away"))
    place.write_text("no folder")
    monkeypatch.setattr(run_ending, "COPY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(delivery, "AT_END_EVERY_S", 0.05)
    mlflow_run = first.resume(run.run_id, "meta.steps=4").mlflow_run_id
    points = client(database).get_metric_history(mlflow_run, "train/loss")
    assert [point.step for point in points] == [1, 2]
    assert "MLflow gets nothing until it answers" in caplog.text
    place.unlink()
    place.with_name("away").rename(place)
    assert_whole(first.resume(run.run_id, f"meta.steps={STEPS}"), undisturbed, database)


def test_a_copy_is_evaluated_and_exported_and_compared(machines, database, tmp_path, monkeypatch):
    from rich.console import Console

    from jobs import commands

    first, second = machines
    copied = experiment(str(tmp_path / "store"), database)
    run = first.train_until(2, copied)
    place = address_of(copied, run)
    first.is_lost()
    monkeypatch.setenv("OUTERLOOP_HOME", str(second.home))
    quiet = Console(quiet=True)
    commands.export(quiet, place, tmp_path / "model")
    assert (tmp_path / "model" / "README.md").exists()
    compared = commands.compare(quiet, [place, run.run_id], None, None)
    assert compared["runs"] == [run.run_id]
    second.is_lost()
    assert commands.evaluate(quiet, place, None, [])["run_id"] == run.run_id


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:secret@bucket/runs",
        "s3://bucket/runs?access_key=a&secret_key=b",
        "sftp://me@host/runs",
        "s3://bucket/runs?session_token=x",
    ],
)
def test_no_password_gets_into_a_configuration(address, machines):
    with pytest.raises(ValueError, match="holds no password"):
        experiment(address, "")
    with pytest.raises(BadInputError, match="no password") as told:
        machines[0].fetch(f"{address}/run-1")
    assert "secret@" not in str(told.value)
    assert "key=b" not in str(told.value)


@pytest.mark.parametrize(
    "address",
    [
        "nonsense://x/y",
        "hf://datasets/me/runs",
        "s3://b/x?foo=1",
        "HOME",
        "HOME/x",
        "file://HOME/x",
    ],
)
def test_what_cannot_be_copied_to_is_told_before_a_run_is_made(address, machines, database):
    home = machines[0].home
    with pytest.raises(BadInputError):
        machines[0].train(experiment(address.replace("HOME", str(home)), database))
    assert not list(home.glob("*"))


def test_a_run_of_the_home_is_found_though_a_folder_here_has_its_name(
    machines, database, tmp_path, monkeypatch
):
    first, second = machines
    run = first.train_until(2, experiment(str(tmp_path / "store"), database))
    monkeypatch.chdir(tmp_path / "store")
    assert first.fetch(run.run_id) == run
    assert second.fetch(run.run_id).path == second.home / run.run_id


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://", "expected a place"),
        ("s3://?region=x", "expected a place"),
        ("s3://bucket", "expected the address of a run's copy"),
        ("a" * 300, "unknown run"),
        ("~nobody-of-that-name/x", "unknown run"),
        ("a\0b", "unknown run"),
    ],
)
def test_what_names_neither_a_run_nor_a_copy_is_refused_in_one_line(text, said, machines):
    with pytest.raises(BadInputError, match=said) as told:
        machines[0].fetch(text)
    assert "\n" not in str(told.value)


def test_a_home_of_nobody_is_no_address():
    with pytest.raises(ValueError, match="no such user"):
        experiment("~nobody-of-that-name/x", "")
