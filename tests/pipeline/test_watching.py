"""`outerloop watch` on real runs: games, control tasks, videos, MLflow, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image

from jobs import cli
from pipeline import export, session
from pipeline.errors import BadInputError, InterruptedRunError
from pipeline.messages import TaskSpec
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.trajectory_worker import TrajectoryWorker
from pipeline.watch_session import WatchRequest, watch
from pipeline.watching import adapt, find_task
from tests.pipeline.environments_for_tests import atari, control
from tests.pipeline.mlflow_for_tests import client
from tests.pipeline.runs_for_tests import at_home, tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with at_home(folder):
        yield folder


@pytest.fixture(scope="module")
def trained(home):
    """A run of a few steps on pong and breakout; episodes are 15 actions, freeway is held out."""
    return session.train(atari(), SilentProgress())


@pytest.fixture(scope="module")
def run(trained):
    return RunFolder.open(trained.run_id)


def frames_of(path):
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def watched(run, task, **request):
    return watch(run, WatchRequest(task, **request), SilentProgress())


def test_a_held_out_game_becomes_a_video_that_mlflow_has_too(run, trained):
    result = watched(run, "freeway")
    assert result.video == run.videos / "freeway.mp4"
    frames = frames_of(result.video)
    assert len(frames) == result.length + 1
    assert frames[0].shape == (210, 160, 3)
    assert any((one != frames[0]).any() for one in frames)
    assert (result.method, result.inner_steps, result.has_ended) == ("leap", 5, True)
    assert result.env_steps > 0
    store = client(trained.tracking_uri)
    artifacts = [one.path for one in store.list_artifacts(trained.mlflow_run_id, "videos")]
    assert artifacts == ["videos/freeway.mp4"]
    assert store.get_run(trained.mlflow_run_id).info.status == "FINISHED"


def test_what_plays_is_bitwise_what_the_meta_test_judged(run):
    experiment = run.read_experiment()
    params = [export.tested_checkpoint(run, experiment).params]
    spec = TaskSpec(2, 0, 0, "test", 2, purpose="evaluate", method="leap")
    tested, playing = TrajectoryWorker(experiment), TrajectoryWorker(experiment)
    segments = list(tested.run(spec, params))
    told = []
    env_steps = adapt(playing.begin(spec, params), 5, 4, told.append)
    assert torch.equal(tested.vector.values, playing.vector.values)
    assert env_steps == segments[-1].rows.column("env_steps")[-1].as_py()
    assert told == [4, 1]


def test_the_initialisation_and_a_scratch_agent_can_be_watched_too(run, monkeypatch):
    begun = []
    begin = TrajectoryWorker.begin

    def remembered(worker, spec, params):
        loop = begin(worker, spec, params)
        begun.append((spec.method, worker.vector.values.clone()))
        return loop

    monkeypatch.setattr(TrajectoryWorker, "begin", remembered)
    unadapted = watched(run, "freeway", num_steps=0, output=run.path / "unadapted.gif")
    assert (unadapted.inner_steps, unadapted.env_steps) == (0, 0)
    with Image.open(unadapted.video) as gif:
        assert gif.size == (160, 210)
    scratch = watched(run, "freeway", method="scratch", num_steps=1)
    assert scratch.video == run.videos / "freeway-scratch.mp4"
    assert scratch.method == "scratch"
    (own, learned), (baseline, random) = begun
    assert (own, baseline) == ("leap", "scratch")
    assert not torch.equal(learned, random)


@pytest.mark.parametrize("game", ["pong", "alien"])
def test_a_trained_game_and_one_that_is_new_to_the_run_do_as_well(run, game):
    result = watched(run, game, num_steps=1)
    assert len(frames_of(result.video)) == result.length + 1
    assert not run.read_experiment().environments.held_out.count("alien")


def test_seconds_bound_the_play_and_the_video(run):
    result = watched(run, "freeway", num_steps=1, max_seconds=0.4)
    assert (result.length, result.has_ended) == (6, False)  # 60 frames a second, 4 an action
    assert len(frames_of(result.video)) == 7


def test_the_same_request_gives_the_same_video(run):
    one = watched(run, "freeway", num_steps=2, output=run.path / "one.mp4")
    other = watched(run, "freeway", num_steps=2, output=run.path / "other.mp4")
    assert one.episode_return == other.episode_return
    np.testing.assert_array_equal(frames_of(one.video), frames_of(other.video))


class Interrupting(SilentProgress):
    """Sends this process a real SIGINT when the playing begins."""

    def phase(self, name, total):
        if name == "playing":
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interruption_leaves_no_video_nor_half_of_one(run):
    before = sorted(path.name for path in run.videos.glob("*"))
    with pytest.raises(InterruptedRunError, match="interrupted by SIGINT; no video was written"):
        watch(run, WatchRequest("breakout", num_steps=1), Interrupting())
    assert sorted(path.name for path in run.videos.glob("*")) == before


def test_control_tasks_are_found_by_their_names_and_the_ends_of_them():
    experiment = control()
    for name in ("CartPole-v1 #test-1", "test-1"):
        place = find_task(experiment, name)
        assert (place.split, place.number, place.name) == ("test", 1, "CartPole-v1 #test-1")
    assert find_task(experiment, "train-2").split == "train"
    with pytest.raises(BadInputError, match=r"'tset-1' is no task of the run .*test-1"):
        find_task(experiment, "tset-1")


def test_a_control_task_that_cannot_be_drawn_is_refused_before_it_is_adapted_to(
    home, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "pygame", None)
    result = session.train(control(meta={"num_steps": 0}), SilentProgress())
    assert cli.run(["watch", result.run_id, "--task", "test-0"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "CartPole-v1 cannot be drawn: pygame is not installed" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--game", "freewy"], "'freewy' is no Atari game that ALE plays alone (did you mean free"),
        (["--game", "pong", "--method", "maml"], "method 'maml': expected leap or scratch"),
        (["--game", "pong", "--output", "x.avi"], "x.avi: expected a video's name to end in .mp4"),
        (["--game", "pong", "--steps", "-1"], "'--steps'"),
        ([], "--game"),
    ],
)
def test_what_cannot_be_watched_is_refused_in_one_line(run, capsys, words, said):
    before = sorted(run.path.rglob("*"))
    assert cli.run(["watch", run.run_id, *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert sorted(run.path.rglob("*")) == before


def test_mp4_without_its_library_is_refused_before_any_adaptation(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    assert cli.run(["watch", run.run_id, "--game", "pong"]) == 2
    out, err = capsys.readouterr()
    assert "adapting" not in out
    assert "pip install 'outerloop[video]'" in err


def test_a_run_without_environments_is_nothing_to_watch(home):
    other = RunFolder.create(tiny())
    with pytest.raises(BadInputError, match="alphabets is nothing to watch"):
        watched(other, "pong")
    with pytest.raises(BadInputError, match="has no checkpoint"):
        watched(RunFolder.create(atari()), "pong")


def test_json_says_what_the_episode_came_to(run, capsys):
    words = ["watch", run.run_id, "--game", "pong", "--steps", "1", "--json"]
    assert cli.run(words) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["video"] == str(run.videos / "pong.mp4")
    assert {"run_id", "task", "method", "inner_steps", "env_steps", "return", "length"} <= {*result}
    assert "episode_return" not in result
