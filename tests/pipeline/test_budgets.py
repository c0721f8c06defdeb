"""Budgets of hours and steps in whole runs: what ends, what is said of it, what goes on."""

from __future__ import annotations

import json
import time

import pytest

from pipeline import session
from pipeline.checkpoint import CheckpointStore
from pipeline.config import Experiment, build_experiment
from pipeline.dispatcher import Counters
from pipeline.errors import BadInputError
from pipeline.local import LocalBackend
from pipeline.metric_log import read_curve
from pipeline.progress import SilentProgress
from pipeline.run_list import overview
from pipeline.runs import RunFolder
from pipeline.server import Start
from tests.pipeline.environments_for_tests import control
from tests.pipeline.runs_for_tests import make_trainer, tiny


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class Told(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def budgeted(**meta) -> Experiment:
    """Three outer steps of 36 inner steps each, unless a budget ends them."""
    return tiny(meta={"num_steps": 3, "batch_size": 4, **meta})


def train(experiment):
    result = session.train(experiment, SilentProgress())
    return result, RunFolder.open(result.run_id)


def summary(run):
    return json.loads(run.summary.read_text())


def test_a_run_that_its_budget_ended_is_tested_says_so_and_goes_on_with_a_larger_one():
    result, run = train(budgeted(max_inner_steps=50))
    assert result.outer_steps == 2
    assert summary(run)["ended_by"] == "meta.max_inner_steps"
    assert summary(run)["counts"]["inner_steps"] == 72
    assert result.evaluation is not None
    assert summary(run)["final"]["accuracy"]["mean"] >= 0
    (row,) = overview()
    assert (row.state, row.ended_by) == ("finished", "meta.max_inner_steps")
    (note,) = result.notes
    assert note == (
        "ended by meta.max_inner_steps=50 after 2 of 3 outer steps; to train on: "
        f"outerloop train --resume {run.run_id} meta.max_inner_steps=100"
    )
    assert f"WARNING {note}" in run.log.read_text()

    again = session.resume(run, ["meta.max_inner_steps=100"], SilentProgress())
    assert (again.outer_steps, again.notes) == (3, ())
    assert summary(run)["ended_by"] == overview()[0].ended_by == "meta.num_steps"
    whole, _ = train(budgeted())
    assert again.parameters_sha256 == whole.parameters_sha256


def test_a_resumed_run_whose_budget_is_as_it_was_trains_no_further():
    result, run = train(budgeted(max_inner_steps=10))
    told = Told()
    again = session.resume(run, [], told)
    assert again.outer_steps == 1
    assert again.notes == result.notes
    assert told.messages == [
        f"run {run.run_id}: meta.max_inner_steps=10 is used up after 1 of 3 outer steps: "
        "the meta-test alone is done again; to train on, add meta.max_inner_steps=72"
    ]
    assert again.parameters_sha256 == result.parameters_sha256
    assert summary(run)["ended_by"] == "meta.max_inner_steps"


def test_hours_of_all_processes_of_a_run_count_together():
    _, run = train(budgeted(num_steps=1))
    store = CheckpointStore(run.checkpoints, keep=3)
    first = store.load(1).meta["counters"]["train_s"]
    session.resume(run, ["meta.num_steps=2"], SilentProgress())
    assert store.load(2).meta["counters"]["train_s"] > first > 0
    hours = store.load(2).meta["counters"]["train_s"] / 3600
    again = session.resume(run, ["meta.num_steps=9", f"meta.max_hours={hours}"], SilentProgress())
    assert again.outer_steps == 2
    assert summary(run)["ended_by"] == "meta.max_hours"


def test_env_steps_end_a_run_in_environments():
    experiment = control(meta={"num_steps": 3, "batch_size": 2, "max_env_steps": 1})
    result, run = train(experiment)
    assert result.outer_steps == 1
    assert summary(run)["ended_by"] == "meta.max_env_steps"
    assert summary(run)["counts"]["env_steps"] > 1


def test_no_budget_is_no_limit_and_the_number_of_steps_ended_the_run():
    result, run = train(budgeted())
    assert summary(run)["ended_by"] == "meta.num_steps"
    assert result.notes == ()


def test_a_budget_that_is_used_up_with_the_last_step_ended_nothing():
    result, run = train(budgeted(max_inner_steps=108))
    assert summary(run)["ended_by"] == "meta.num_steps"
    assert result.notes == ()


@pytest.mark.parametrize("every", [1, 2])
def test_a_budget_ends_a_run_with_tests_in_between(every):
    """`evaluation.every` cuts meta-training into slices: none is begun beyond the budget."""
    experiment = budgeted(num_steps=6, max_inner_steps=100)
    evaluation = experiment.evaluation.model_copy(update={"every": every})
    result, run = train(experiment.model_copy(update={"evaluation": evaluation}))
    assert result.outer_steps == 3
    tested = [step for step, _ in read_curve(run.metrics, "eval/test/accuracy")]
    assert tested == [*range(every, 3, every), 3]  # the last of them is the run's own meta-test


def test_a_checkpoint_from_before_there_were_budgets_is_loaded():
    _, run = train(budgeted(num_steps=1))  # writes what a version of then would have, and more
    saved = CheckpointStore(run.checkpoints, keep=3).load(1).meta["counters"]
    assert saved.pop("train_s") > 0
    assert saved.pop("unmoved") == 0
    old = Counters(**saved)
    assert (old.train_s, old.inner_steps, old.unmoved) == (0, 36, 0)


@pytest.mark.parametrize(
    ("key", "most", "steps_left"),
    [
        ("max_inner_steps", 144, 3),
        ("max_inner_steps", 145, 4),  # the outer step in which it is used up is taken whole
        ("max_inner_steps", 0, 99),
        ("max_inner_steps", 36_000, 99),
        ("max_env_steps", 1, 99),  # of which there are none here
        ("max_hours", 2.5, 2),  # times what the first step took
    ],
)
def test_the_time_to_go_ends_with_the_first_budget(tmp_path, key, most, steps_left):
    experiment = budgeted(num_steps=100)
    trainer, books = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    told = []
    trainer._progress.outer_step = told.append
    trainer._started = (time.monotonic() - 1000, *trainer._started[1:])  # no step takes so long
    trainer.outer_step()
    if key == "max_hours":
        most *= books.counters.train_s / 3600
    meta = experiment.meta.model_copy(update={key: most})
    trainer.experiment = experiment.model_copy(update={"meta": meta})
    assert told[0].eta_s == pytest.approx(99_000, rel=0.05)
    assert trainer._eta_s() == pytest.approx(1000 * steps_left, rel=0.05)


@pytest.mark.parametrize("key", ["max_hours", "max_inner_steps", "max_env_steps"])
def test_a_budget_below_none_is_refused(key):
    with pytest.raises(BadInputError, match=rf"meta\.{key}: expected a .*at least 0, got -1"):
        build_experiment({"meta": {key: -1}}, "test")


def test_a_run_that_was_given_more_to_do_and_did_not_do_it_is_listed_as_unfinished():
    _, run = train(budgeted(max_inner_steps=50))
    run.config.write_text(run.config.read_text().replace("max_inner_steps: 50", ""))
    (row,) = overview()
    assert (row.state, row.ended_by, row.outer_steps) == ("unfinished", "", 2)


def test_a_run_that_ended_before_its_meta_test_is_said_to_lack_that_alone():
    _, run = train(budgeted(num_steps=1))
    run.summary.unlink()
    told = Told()
    session.resume(run, [], told)
    assert told.messages == [
        f"run {run.run_id} is finished (1 outer steps): only the meta-test is left to do; "
        "to train on, add meta.steps=2"
    ]


def test_outer_steps_that_moved_nothing_are_told_of_at_the_end():
    experiment = budgeted(num_steps=2, max_bad_tasks=100)
    diverging = experiment.inner.model_copy(update={"lr": 1e30})
    result, run = train(experiment.model_copy(update={"inner": diverging}))
    note = "{0} of {0} outer steps moved nothing: all their tasks were dropped; see {1}"
    assert result.notes == (note.format(2, run.log),)
    again = session.resume(run, ["meta.num_steps=3"], SilentProgress())
    assert again.notes == (note.format(3, run.log),)
    assert summary(run)["counts"]["unmoved"] == 3
