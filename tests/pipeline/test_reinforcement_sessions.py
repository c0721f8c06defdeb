"""Commands on a run in environments: all that they leave behind, and what is exported."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import session
from pipeline.errors import BadInputError
from pipeline.estimator import load
from pipeline.evaluation import Evaluation
from pipeline.export import export_run, read_exported
from pipeline.local import LocalBackend
from pipeline.model_card import model_card
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.server import Start
from tests.pipeline.environments_for_tests import atari, control
from tests.pipeline.runs_for_tests import make_trainer, parameters


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_a_run_of_continuous_actions_leaves_figures_plots_and_a_model_behind(home):
    experiment = control(
        algorithm={"name": "leap", "options": {"norm": True, "loss": False}},
        agent={"reward_clip": 0.1},
        environments={"name": "Pendulum-v1", "num_envs": 2, "unroll": 50},
        inner={"num_steps": 5},
        meta={"num_steps": 1},
        evaluation={"num_steps": 5},
    )
    result = session.train(experiment, SilentProgress())
    run = RunFolder.open(result.run_id)
    summary = json.loads(run.summary.read_text())
    assert set(summary["final"]) == set(summary["baselines"]["scratch"]) == {"auc", "return"}
    assert summary["final"]["return"]["mean"] < 0  # as Pendulum's are
    assert summary["counts"]["env_steps"] > 0
    assert summary["throughput"]["env_steps_per_s"] > 0
    assert {path.name for path in run.plots.iterdir()} == {"meta-test.png", "meta-training.png"}
    assert Evaluation.from_parquet(run.evaluation).curves[0].env_steps[-1] == 5 * 50 * 2 - 2

    export_run(run, home / "exported")
    network = read_exported(home / "exported").model
    output, value = network(torch.zeros(4, 3))
    assert (output.shape, value.shape) == ((4, 2), (4,))
    with pytest.raises(BadInputError, match="is an agent in environments"):
        load(home / "exported")


def test_a_card_says_how_games_are_played():
    experiment = atari()
    lines = model_card(RunFolder.create(experiment), experiment, 0).splitlines()
    assert "- tasks: freeway, 30 env steps" in lines
    assert "- sticky actions 0.25" in lines
    assert 'network = read_exported(Path("this folder")).model' in lines
    assert not any("omniglot" in line for line in lines)


def test_stopping_and_resuming_changes_no_bit(home):
    """I5: at the outer step; within a task episodes begin anew."""
    experiment = control()
    for name, stops in (("whole", (3,)), ("parts", (1, 3))):
        start, version = Start(), 0
        for until in stops:
            backend = LocalBackend(experiment, start)
            trainer, _ = make_trainer(experiment, backend, home / name, version)
            trainer.train(until)
            start, version = Start(home / name / "checkpoints", until), until
    np.testing.assert_array_equal(parameters(home / "whole"), parameters(home / "parts"))


def test_an_adaptation_that_diverged_has_no_return_and_is_no_best():
    experiment = control(meta={"num_steps": 0}, evaluation={"num_steps": 3})
    backend = LocalBackend(experiment, Start())
    trainer, _ = make_trainer(experiment, backend, RunFolder.create(experiment).path)
    (curve, *_) = trainer.meta_test(["scratch"], 1)
    losses = curve.losses.copy()
    losses[1] = np.nan
    judged = replace(curve, losses=losses).judged()
    assert all(np.isnan(value) for value in judged.figures().values())
    assert set(judged.figures()) == {"auc", "return"}
