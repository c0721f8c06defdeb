"""The benchmark of Atari runs and reports, at a size where speeds mean nothing."""

import json

import pytest
import torch
from torch import nn

from algorithms.models.atari import NatureEncoder, SmallAtariEncoder
from jobs import cli
from jobs.bench import atari, atari_peer

TINY = ("environments.num_envs=2", "environments.unroll=2")


@pytest.mark.timeout(600)  # nine processes, each of which imports torch
def test_every_figure_is_measured_and_every_part_told_of(capsys):
    figures = atari.run(num_steps=2, repeats=1, overrides=TINY)

    out, err = capsys.readouterr()
    told = [line.removeprefix("bench atari: ") for line in err.splitlines()]
    assert out == ""
    assert told[-1] == "loading the game"
    for part in ("two_workers", "one_worker", "ale_two_threads", "network_one_process"):
        assert told.index(f"starting {part}") < told.index(f"{part}, 1 of 1")

    parts = ("ale_one_thread", "ale_two_threads", "ale_two_processes", "network_two_processes")
    assert all(figures[f"{part}_env_steps_per_s"] > 0 for part in parts)
    ours, bound = figures["env_steps_per_s"], figures["bound_env_steps_per_s"]
    ale = max(figures[f"{part}_env_steps_per_s"] for part in parts[1:3])
    network = figures["network_two_processes_env_steps_per_s"]
    assert bound == pytest.approx(1 / (1 / ale + 1 / network))
    assert figures["task_start_s"] > 0
    assert figures["ratio_to_bound"] == pytest.approx(ours / bound)
    one = figures["env_steps_per_s_one_worker"]
    assert figures["scaling_1_to_2"] == pytest.approx(ours / one)
    if atari_peer.is_installed():
        assert figures["peer"] == "stable-baselines3"
        peer = figures["peer_env_steps_per_s"]
        assert figures["ratio_to_peer"] == pytest.approx(ours / peer)
    else:
        assert figures["ratio_to_peer"] is None
        assert "pip install 'outerloop[bench]'" in figures["peer"]


def test_the_faster_way_of_a_part_counts_and_ratios_are_within_a_repeat():
    # The machine is half as fast in the second repeat: no ratio changes.
    base = {
        "two_workers": 300.0,
        "one_worker": 200.0,
        "ale_two_processes": 500.0,
        "ale_two_threads": 600.0,
        "ale_one_thread": 350.0,
        "network_two_processes": 1200.0,
        "network_one_process": 700.0,
        "peer_threads_1": 50.0,
        "peer_threads_2": 100.0,
    }
    rates = {name: [rate, rate / 2] for name, rate in base.items()}
    rates["one_worker"] = [200.0, 200.0]

    figures = atari.reported(atari.bench_experiment("breakout", 2), rates)

    assert figures["ratio_to_bound"] == pytest.approx(0.75)  # of 400
    assert figures["ratio_to_peer"] == pytest.approx(3.0)
    assert figures["scaling_1_to_2"] == pytest.approx((1.5 + 0.75) / 2)


def test_env_steps_are_those_of_all_copies():
    experiment = atari.bench_experiment("pong", 2, TINY)

    assert atari.env_steps(experiment) == 4
    assert experiment.environments.games == ("pong",)
    assert experiment.environments.repeat_action_probability == 0


@pytest.mark.parametrize(
    ("name", "encoder"), [("atari-small", SmallAtariEncoder), ("nature", NatureEncoder)]
)
def test_the_peers_network_is_ours(name, encoder):
    ours = encoder(in_channels=4)
    theirs = atari_peer.plain_encoder(name, in_channels=4)
    layers = [m for m in theirs if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer, same in zip(layers, [*ours.convs, ours.linear], strict=True):
        layer.load_state_dict(same.state_dict())
    pixels = torch.randint(256, (2, 4, 84, 84), dtype=torch.uint8)

    torch.testing.assert_close(theirs(pixels / 255), ours(pixels))


def test_unknown_game_is_one_line_of_bad_input(capsys):
    code = cli.run(["--json", "bench", "atari", "--game", "brakeout"])

    captured = capsys.readouterr()
    told = json.loads(captured.out.splitlines()[-1])
    assert code == told["exit_code"] == 2
    assert "brakeout" in told["error"]
    assert "breakout" in told["error"]
    assert "\n" not in told["error"]
    assert "Traceback" not in captured.err
