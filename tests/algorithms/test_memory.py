"""The memory network against the paper's equations, slot by slot and head by head."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from algorithms.episodic.memory import MemoryNetwork, MemoryState
from tests.algorithms.episodes import image_encoder, image_episode

SLOTS, SIZE, HEADS, GAMMA = 7, 5, 2, 0.9


def make_network(**options) -> MemoryNetwork:
    torch.manual_seed(4)
    sizes = {"memory_slots": SLOTS, "memory_size": SIZE, "controller_size": 6, "num_reads": HEADS}
    network = MemoryNetwork(
        image_encoder(batch_norm=False), 3, **sizes, usage_decay=GAMMA, **options
    )
    return network.double()


def cosine(u: Tensor, v: Tensor) -> Tensor:
    lengths = u.norm() * v.norm()
    return u @ v / lengths if lengths > 0 else torch.zeros(())


def literal_scores(network: MemoryNetwork, features: Tensor, labels: list[int]) -> list[Tensor]:
    """Equations 2 to 8 of the paper, and an LSTM by hand; one score vector for each step."""
    lstm = network.controller
    h = c = torch.zeros(lstm.hidden_size).double()
    memory = [torch.zeros(SIZE).double() for _ in range(SLOTS)]
    usage = [torch.zeros(()).double()] * SLOTS
    read_weights = [[torch.zeros(()).double()] * SLOTS for _ in range(HEADS)]
    reads = [torch.zeros(SIZE).double()] * HEADS
    scores = []
    for t, x in enumerate(features):
        y = torch.zeros(3).double()
        if t:
            y[labels[t - 1]] = 1
        z = lstm.weight_ih @ torch.cat([x, y, *reads]) + lstm.bias_ih
        i, f, g, o = (z + lstm.weight_hh @ h + lstm.bias_hh).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        keys = torch.tanh(network.keys.weight @ h + network.keys.bias).split(SIZE)
        alphas = network.gates.weight @ h + network.gates.bias
        by_usage = sorted(range(SLOTS), key=lambda slot: (float(usage[slot].detach()), slot))
        least_used = [1.0 if slot in by_usage[:HEADS] else 0.0 for slot in range(SLOTS)]
        gate = [alpha.sigmoid() for alpha in alphas]
        write_weights = [
            [gate[k] * read_weights[k][s] + (1 - gate[k]) * least_used[s] for s in range(SLOTS)]
            for k in range(HEADS)
        ]
        memory[by_usage[0]] = torch.zeros(SIZE).double()
        for s in range(SLOTS):
            for k in range(HEADS):
                memory[s] = memory[s] + write_weights[k][s] * keys[k]
        for k in range(HEADS):
            likeness = torch.stack([cosine(keys[k], memory[s]) for s in range(SLOTS)])
            weights = likeness.exp() / likeness.exp().sum()
            read_weights[k] = list(weights)
            reads[k] = sum(weights[s] * memory[s] for s in range(SLOTS))
        usage = [
            GAMMA * usage[s] + sum(read_weights[k][s] + write_weights[k][s] for k in range(HEADS))
            for s in range(SLOTS)
        ]
        scores.append(network.scores.weight @ torch.cat([h, *reads]) + network.scores.bias)
    return scores


def test_a_training_sequence_is_read_as_the_equations_say():
    network, episode = make_network(), image_episode()
    result = network.episode_loss(episode)
    features = network.encoder(torch.cat([episode.support_x, episode.query_x])).flatten(1)
    labels = torch.cat([episode.support_y, episode.query_y])
    expected = torch.stack(literal_scores(network, features, labels.tolist()))
    torch.testing.assert_close(
        result.predictions, expected[len(episode.support_y) :], rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(result.loss, cross_entropy(expected, labels), rtol=1e-10, atol=0)


def test_its_gradient_is_that_of_the_equations():
    network, episode = make_network(), image_episode(num_queries=1)
    network.episode_loss(episode).loss.backward()
    found = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    features = network.encoder(torch.cat([episode.support_x, episode.query_x])).flatten(1)
    labels = torch.cat([episode.support_y, episode.query_y])
    cross_entropy(
        torch.stack(literal_scores(network, features, labels.tolist())), labels
    ).backward()
    for gradient, parameter in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-11)


def test_each_query_of_a_meta_test_is_the_next_example_after_the_support_set():
    network, episode = make_network().eval(), image_episode(seed=1)
    assert episode.support_y[0] != episode.support_y[-1]  # or the label shown would not tell
    answers = network.adapt(episode.support_x, episode.support_y)(episode.query_x)
    for query, answer in zip(episode.query_x, answers, strict=True):
        features = network.encoder(torch.cat([episode.support_x, query[None]])).flatten(1)
        expected = literal_scores(network, features, episode.support_y.tolist())[-1]
        torch.testing.assert_close(answer, expected, rtol=1e-10, atol=1e-12)


@given(changed=st.integers(0, 11))
@settings(deadline=None, max_examples=12)
def test_a_label_enters_only_later_answers(changed):
    network, episode = make_network(), image_episode()
    other = episode.query_y.clone()
    other[changed] = (other[changed] + 1) % 3
    before = network.episode_loss(episode).predictions
    after = network.episode_loss(replace(episode, query_y=other)).predictions
    assert torch.equal(before[: changed + 1], after[: changed + 1])
    assert not torch.isclose(before[changed + 1 :], after[changed + 1 :]).all(dim=1).any()


def state_with(usage: list[int]) -> MemoryState:
    network = make_network()
    empty = network._empty(torch.zeros(1).double())
    shapes = {field.name: getattr(empty, field.name).shape for field in fields(empty)}
    tensors = {name: torch.randn(shape).double() for name, shape in shapes.items()}
    weights = torch.zeros(1, HEADS, SLOTS).double()
    weights[..., 3] = 1.0  # all that was read before was slot 3
    return MemoryState(
        **tensors | {"usage": torch.tensor([usage]).double(), "read_weights": weights}
    )


@given(usage=st.permutations(range(SLOTS)), to_least_used=st.booleans())
@settings(deadline=None, max_examples=20)
def test_writes_go_to_the_least_used_slots_or_to_those_read_last(usage, to_least_used):
    network, state = make_network(), state_with(usage)
    with torch.no_grad():
        network.gates.weight.zero_()
        network.gates.bias.fill_(-1e3 if to_least_used else 1e3)
    features = torch.randn(1, network.controller.input_size - 3 - HEADS * SIZE).double()
    after = network.step(features, torch.zeros(1, 3).double(), state)
    changed = {s for s in range(SLOTS) if not torch.equal(after.memory[0, s], state.memory[0, s])}
    emptied = usage.index(0)
    written = {usage.index(k) for k in range(HEADS)} if to_least_used else {3}
    assert changed == written | {emptied}
    keys = network.keys(after.hidden).tanh().reshape(HEADS, SIZE).sum(dim=0)
    if emptied in written:
        torch.testing.assert_close(after.memory[0, emptied], keys)
    else:
        assert not after.memory[0, emptied].any()


def test_a_decay_that_is_no_number_is_named():
    with pytest.raises(TypeError, match=r"usage_decay: expected a number, got '0.9'"):
        MemoryNetwork(image_encoder(), 3, usage_decay="0.9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_slots": 0}, "memory_slots: expected 1 or more, got 0"),
        ({"controller_size": -1}, "controller_size: expected 1 or more"),
        ({"num_reads": 9, "memory_slots": 8}, "num_reads: 9, but memory_slots is 8"),
        ({"usage_decay": 1.5}, "usage_decay: expected 0 to 1, got 1.5"),
    ],
)
def test_an_option_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        MemoryNetwork(image_encoder(), 3, **options)


def test_a_support_set_with_another_number_of_ways_is_refused():
    episode = image_episode(num_ways=2)
    with pytest.raises(ValueError, match="no example of class 2"):
        make_network().eval().adapt(episode.support_x, episode.support_y)


def test_the_gradient_stays_finite_where_nothing_was_written():
    """A cosine's gradient at an empty slot would be infinite; float32, gates shut or open."""
    network, episode = make_network().float(), image_episode(dtype=torch.float32)
    for gate in (-1e3, 1e3):
        network.zero_grad()
        with torch.no_grad():
            network.gates.bias.fill_(gate)
        network.episode_loss(episode).loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())
