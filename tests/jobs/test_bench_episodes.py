"""The benchmark of episode learners runs and reports, at a size where speeds mean nothing."""

import pytest
import torch

from algorithms.models.conv import ConvEncoder
from jobs.bench import episode_peers, episodes
from pipeline.errors import BadInputError
from tests.processes import start

TINY = ("data.name=glyphs", "episodes.group=1", "meta.batch_size=1", "model.num_filters=4")
KEYS = {"meta_steps_per_s", "best_peer", "ratio_to_best_peer", "peak_mib"}


def tiny(name):
    case = episodes.CASES[name]
    return case, episodes.case_experiment(case, TINY)


@pytest.mark.parametrize("name", ["maml", "maml_5_steps", "prototypical", "prototypical_60_way"])
def test_all_installed_peers_have_our_losses_and_outer_gradients(name):
    case, experiment = tiny(name)
    names = [n for n, peer in case.peers.items() if episode_peers.is_installed(peer)]

    differences = episodes.check_agreement(case, experiment, names)

    assert set(differences) == set(names)
    assert {"torch.func", "plain loop"} & set(names)


def test_a_peer_that_computes_something_else_is_told():
    class Wrong(episode_peers.Functional):
        def task_loss(self, episode):
            return 1.01 * super().task_loss(episode)

    case, experiment = tiny("maml")
    wrong = episodes.Case(case.experiment, case.overrides, {"wrong": Wrong})

    with pytest.raises(RuntimeError, match="wrong and outerloop do not compute the same"):
        episodes.check_agreement(wrong, experiment, ["wrong"])


def test_every_figure_is_measured(monkeypatch):
    class Absent(episode_peers.Functional):
        library = "no_such_library"

    case, _ = tiny("maml")
    peers = {"absent": Absent, "torch.func": episode_peers.Functional}
    small = episodes.Case(case.experiment, case.overrides, peers)
    monkeypatch.setattr(episodes, "CASES", {"maml": small})

    figures = episodes.run(repeats=1, meta_steps=1, overrides=TINY)["maml"]

    assert figures.keys() >= KEYS
    assert figures["best_peer"] == "torch.func"
    assert figures["peers"]["absent"] == "not installed"
    peer = figures["peers"]["torch.func"]
    assert figures["ratio_to_best_peer"] == peer["ratio"]
    assert peer["ratio"] == pytest.approx(figures["meta_steps_per_s"] / peer["meta_steps_per_s"])
    assert figures["peak_mib"] > 0
    assert peer["peak_mib"] > 0


def test_episodes_are_those_the_figures_name():
    _, experiment = tiny("prototypical_60_way")

    (batch,) = episodes.draw_batches(experiment, 1, torch.float32)

    assert (batch[0].num_ways, len(batch[0].support_y), len(batch[0].query_y)) == (60, 60, 300)
    assert batch[0].query_y.tolist() == sorted(batch[0].query_y.tolist())


def test_plain_network_is_the_encoder_with_other_modules():
    net = episode_peers.plain_network(4, None, keeps_statistics=True)
    encoder = ConvEncoder(num_filters=4, pool_first=False)
    with torch.no_grad():
        for theirs, ours in zip(net.parameters(), encoder.parameters(), strict=True):
            theirs.copy_(ours)
    images = torch.rand(3, 1, 28, 28)

    torch.testing.assert_close(net.eval()(images), encoder.eval()(images).flatten(1))


PEAK = """
import torch
from jobs.bench.peak_memory import peak_mib
torch.ones(32 << 20)  # earlier, and larger
print(peak_mib(lambda: torch.ones(16 << 20)))  # 64 MiB that are freed at once
"""


def test_peak_is_that_of_the_work_alone():
    """In a process of its own: one that has trained keeps memory that was freed."""
    said, _ = start(PEAK).communicate()
    assert 60 < float(said) < 80


def test_wrong_override_is_bad_input():
    with pytest.raises(BadInputError, match="num_wayz"):
        episodes.run(overrides=("episodes.num_wayz=3",))
