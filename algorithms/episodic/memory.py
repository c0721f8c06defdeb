"""Memory-augmented network: reads a support set as a sequence and remembers it outside itself.

Santoro et al. (2016), "One-shot Learning with Memory-Augmented Neural Networks",
arXiv:1605.06065: task in section 2, memory in section 3.2, equations 2 to 8.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from algorithms.episodic.features import full_precision, one_hot, vectors
from algorithms.episodic.learner import EpisodeLearner, Predictor
from algorithms.episodic.options import check_count, check_share
from algorithms.types import Encoder, Episode, EpisodeResult


@dataclass(frozen=True, slots=True)
class MemoryState:
    """What the network carries from one example to the next; B sequences side by side."""

    memory: Tensor  # M [B, slots, size]
    usage: Tensor  # w^u [B, slots]
    read_weights: Tensor  # w^r [B, heads, slots]
    reads: Tensor  # r [B, heads, size]
    hidden: Tensor  # of the controller [B, controller]
    cell: Tensor  # [B, controller]

    def copies(self, count: int) -> MemoryState:
        """Return the state of one sequence for `count` that go on from it, each by itself."""
        tensors: list[Tensor] = [getattr(self, field.name) for field in fields(self)]
        return MemoryState(*(t.expand(count, *t.shape[1:]) for t in tensors))


class MemoryNetwork(EpisodeLearner):
    """An LSTM that writes to the least recently used slots of a memory, and reads by likeness.

    An episode is a sequence of examples, each shown with the label of the one before, so that
    the answer to x_t can only come from earlier examples. At each step the controller sees the
    features of x_t, y_{t−1} as a unit vector (zero at the first step) and what was read last,
    and emits for each of n heads a key k and a gate α. With K the cosine similarity,

        w^w_t = σ(α) w^r_{t−1} + (1 − σ(α)) w^lu_{t−1}           (eq. 7), for each head
        M_t(i) = M_{t−1}(i) + Σ_heads w^w_t(i) k_t                (eq. 8)
        w^r_t = softmax_i K(k_t, M_t(i)),  r_t = Σ_i w^r_t(i) M_t(i)  (eqs. 2 to 4)
        w^u_t = γ w^u_{t−1} + Σ_heads (w^r_t + w^w_t)             (eq. 5)

    where w^lu marks the n slots of least usage (eq. 6; of slots that tie, the first), and the
    least used one is emptied before it is written to. A linear layer on the controller's state
    and the reads gives the scores. The memory starts empty. Keys are bounded by tanh.

    Meta-training is on the mean loss of the whole sequence, support set and then queries, all
    with their labels shown a step later: so the sampler must shuffle both sets, and the labels
    of the classes from episode to episode, or the order gives the answers away; and a query's
    training error is that after more examples than the support set has. At meta-test a query
    follows the support set directly, each on a copy of the memory of its own.
    """

    ordered = True
    relabels = False

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        *,
        memory_slots: int = 128,
        memory_size: int = 40,
        controller_size: int = 200,
        num_reads: int = 4,
        usage_decay: float = 0.99,
        transductive: bool = False,
    ) -> None:
        """Build the network; the defaults are the paper's.

        Args:
            encoder: Its features are flattened.
            num_outputs: N ways.
            memory_slots: Rows of the memory.
            memory_size: Numbers in a row, and in a key.
            controller_size: Units of the LSTM.
            num_reads: n, heads that read and write.
            usage_decay: γ, what is left of a slot's usage a step later.
            transductive: Whether batch-norm uses the statistics of the queries.

        Raises:
            TypeError: an option is no number.
            ValueError: an option is out of range.
        """
        super().__init__(encoder, num_outputs, transductive)
        check_count("memory_slots", memory_slots)
        check_count("memory_size", memory_size)
        check_count("controller_size", controller_size)
        check_count("num_reads", num_reads)
        if num_reads > memory_slots:
            raise ValueError(f"num_reads: {num_reads}, but memory_slots is {memory_slots}")
        check_share("usage_decay", usage_decay)
        self.memory_slots, self.memory_size, self.num_reads = memory_slots, memory_size, num_reads
        self.usage_decay = usage_decay
        reads = num_reads * memory_size
        num_features = torch.Size(encoder.feature_shape).numel()
        self.controller = nn.LSTMCell(num_features + num_outputs + reads, controller_size)
        self.keys = nn.Linear(controller_size, reads)
        self.gates = nn.Linear(controller_size, num_reads)
        self.scores = nn.Linear(controller_size + reads, num_outputs)

    def predictor(self, support_x: Tensor, support_y: Tensor) -> Predictor:
        """Read the support set in its order; each query is then the next example."""
        return self.feature_predictor(support_x, support_y, self._after)

    def episode_loss(self, episode: Episode) -> EpisodeResult:
        """Return, in training mode, the mean loss of support set and queries as one sequence."""
        if not self.training:
            return super().episode_loss(episode)
        features = vectors(self.encode(torch.cat([episode.support_x, episode.query_x])))
        labels = torch.cat([episode.support_y, episode.query_y])
        states = self._read(features, labels)
        scores = self._score(
            torch.cat([state.hidden for state in states]),
            torch.cat([state.reads for state in states]),
        )
        return EpisodeResult(cross_entropy(scores, labels), scores[len(episode.support_y) :])

    def _after(self, support: Tensor, support_y: Tensor) -> Predictor:
        """Return what answers queries, given their features: each is the next example."""
        last = self._read(vectors(support), support_y)[-1]
        label = one_hot(support_y[-1:], self.num_outputs, last.hidden)

        def answer(queries: Tensor) -> Tensor:
            count, queries = len(queries), vectors(queries)
            after = self.step(queries, label.expand(count, -1), last.copies(count))
            return self._score(after.hidden, after.reads)

        return answer

    @full_precision
    def step(self, features: Tensor, shown: Tensor, state: MemoryState) -> MemoryState:
        """Take the next example of B sequences: features [B, F], the label shown with it [B, N]."""
        inputs = torch.cat([features, shown, state.reads.flatten(1)], dim=1)
        hidden, cell = self.controller(inputs, (state.hidden, state.cell))
        keys = self.keys(hidden).tanh().unflatten(1, (self.num_reads, self.memory_size))
        gates = self.gates(hidden).sigmoid()[:, :, None]
        order = state.usage.argsort(dim=1, stable=True)
        least_used = torch.zeros_like(state.usage).scatter(1, order[:, : self.num_reads], 1.0)
        kept = torch.ones_like(state.usage).scatter(1, order[:, :1], 0.0)
        write_weights = gates * state.read_weights + (1 - gates) * least_used[:, None]
        memory = state.memory * kept[:, :, None] + write_weights.transpose(1, 2) @ keys
        likeness = normalize(keys, dim=2) @ normalize(memory, dim=2).transpose(1, 2)
        read_weights = likeness.softmax(dim=-1)
        usage = self.usage_decay * state.usage + (read_weights + write_weights).sum(dim=1)
        return MemoryState(memory, usage, read_weights, read_weights @ memory, hidden, cell)

    def _read(self, features: Tensor, labels: Tensor) -> list[MemoryState]:
        """Return the states after each example of one sequence: features [T, F], labels [T]."""
        shown = one_hot(labels, self.num_outputs, features).roll(1, dims=0)
        shown[0] = 0  # nothing is shown with the first example
        states = [self._empty(features)]
        for t in range(len(features)):
            states.append(self.step(features[t : t + 1], shown[t : t + 1], states[-1]))
        return states[1:]

    @full_precision
    def _score(self, hidden: Tensor, reads: Tensor) -> Tensor:
        """Return scores [B, N] from the controller's state and the reads."""
        scores: Tensor = self.scores(torch.cat([hidden, reads.flatten(1)], dim=1))
        return scores

    def _empty(self, features: Tensor) -> MemoryState:
        slots, size, heads = self.memory_slots, self.memory_size, self.num_reads
        shapes = [(slots, size), (slots,), (heads, slots), (heads, size)]
        shapes += [(self.controller.hidden_size,)] * 2
        return MemoryState(*(features.new_zeros(1, *shape) for shape in shapes))
