"""Bad input of experiments in environments at the real command: one line, nothing left behind."""

from __future__ import annotations

import json
import os

import pytest
import torch

from jobs import cli
from tests.pipeline.environments_for_tests import FAILING, HANGING

ATARI, CONTROL = "leap-atari-small", "leap-control"
A_LIST = "expected a list of names in brackets, 1 at least"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    threads = torch.get_num_threads()
    yield tmp_path / "runs"
    torch.set_num_threads(threads)


BAD_INPUT = {
    "an unknown game": (
        ATARI,
        "environments.games=[pong,brekout]",
        "'brekout' is no Atari game that ALE plays alone (did you mean breakout?)",
    ),
    "an unknown held-out game": (
        ATARI,
        "environments.held_out=[space-invader]",
        "'space-invader' is no Atari game that ALE plays alone (did you mean space_invaders",
    ),
    "a game that would end the process": (
        ATARI,
        "environments.games=[combat]",
        "'combat' is no Atari game that ALE plays alone",
    ),
    "a held-out game that is trained on": (
        ATARI,
        "environments.games=[pong,breakout]",
        "'breakout' is held out for the meta-test (environments.held_out)",
    ),
    "no games": (ATARI, "environments.games=[]", f"{A_LIST}, got []"),
    "no held-out games": (ATARI, "environments.held_out=[]", f"{A_LIST}, got []"),
    "a game without brackets": (ATARI, "environments.games=pong", f"{A_LIST}, got 'pong'"),
    "no environments": (
        ATARI,
        "environments.num_envs=0",
        "expected a whole number of at least 1 and at most 65536, got 0",
    ),
    "a limit below none": (
        ATARI,
        "environments.timeout_s=-1",
        "expected a number of at least 0 and at most 1000000, got -1",
    ),
    "an unknown environment": (
        CONTROL,
        "environments.name=CartPole-v9",
        "no environment is registered as 'CartPole-v9' (did you mean CartPole-v1",
    ),
    "an unsupported space": (
        CONTROL,
        "environments.name=Blackjack-v1",
        "observations are a Tuple space, expected a Box of one dimension or of uint8 images",
    ),
    "unknown physics": (
        CONTROL,
        "environments.vary=[lenght]",
        "environments.vary=['lenght']: environment CartPole-v1 has no physics 'lenght' "
        "(did you mean 'length'",
    ),
}


@pytest.mark.parametrize(("name", "override", "said"), BAD_INPUT.values(), ids=list(BAD_INPUT))
def test_bad_input_is_one_line_and_exit_2(name, override, said, home, capsys):
    code = cli.run(["train", name, "workers.count=0", override, "--json"])
    out, err = capsys.readouterr()
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert override.partition("=")[0] in err
    assert said in err
    assert json.loads(out.splitlines()[-1])["exit_code"] == 2
    assert not home.exists() or not os.listdir(home)


def test_physics_of_an_environment_that_has_none_are_refused(home, capsys):
    words = [f"environments.name={HANGING}", "environments.vary=[length]"]
    assert cli.run(["train", CONTROL, "workers.count=0", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: environments.vary=['length']: no family of physics for")


def test_an_environment_that_raises_is_left_out_and_named_in_a_line_each(home, capsys):
    small = [
        f"environments.name={FAILING}",
        "environments.num_envs=1",
        "environments.num_train=2",
        "environments.num_held_out=1",
        "meta.num_steps=1",
        "meta.batch_size=2",
        "inner.num_steps=2",
        "evaluation.num_steps=2",
        "evaluation.repeats=1",
        "evaluation.baselines=[]",
        "agent.num_minibatches=1",
    ]
    assert cli.run(["train", CONTROL, "workers.count=0", *small]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    why = f"environment {FAILING}: step raised FloatingPointError: the wheel came off"
    left_out = [line for line in lines if line.endswith(f"left out: {why}")]
    assert [line.partition(":")[0] for line in left_out] == 2 * ["outer step 1"] + ["meta-test"]
    assert any("2 dropped" in line for line in lines)
    assert err.splitlines()[-1] == f"error: the meta-test has no task left: {why}"
    assert "Traceback" not in out + err
