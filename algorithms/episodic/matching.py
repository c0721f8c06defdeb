"""Matching networks: a query's label is an attention over those of the support set.

Vinyals et al. (2016), "Matching Networks for One Shot Learning", arXiv:1606.04080: attention in
section 2.1.1, full context embeddings in section 2.1.2 and appendices A.1 (queries) and A.2
(support set).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from algorithms.episodic.features import full_precision
from algorithms.episodic.metric import MetricLearner, log_sums
from algorithms.episodic.options import check_count, check_positive, check_switch
from algorithms.types import Encoder


class MatchingNetwork(MetricLearner):
    """Scores are log P(y = k) = log Σ a(x̂, x_i) over the support examples i of class k.

    a(x̂, ·) is the softmax over the support set of scale · cos(f(x̂), g(x_i)); scores leave out
    its normaliser, which is the same for all classes. Without full context embeddings f = g is
    the encoder; with them, an LSTM makes each depend on the support set.

    Args:
        encoder: Maps inputs to features, which are flattened.
        num_outputs: N ways.
        full_context: Whether embeddings depend on the support set ("FCE"). Its examples are then
            read in the order in which they are given, forwards and backwards, so the answers
            depend on that order; the paper gives none. Labels are not read.
        num_processing_steps: Steps K of the queries' attention LSTM; unused without
            `full_context`.
        scale: What cosines are multiplied by before the softmax; 1 in the paper.
        transductive: Whether evaluation normalises by the statistics of the episode.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        *,
        full_context: bool = False,
        num_processing_steps: int = 5,
        scale: float = 1.0,
        transductive: bool = False,
    ) -> None:
        super().__init__(encoder, num_outputs, transductive)
        check_switch("full_context", full_context)
        check_count("num_processing_steps", num_processing_steps)
        check_positive("scale", scale)
        self.scale = scale
        self.ordered = full_context
        self.context: FullContext | None = None
        if full_context:
            size = math.prod(encoder.feature_shape)
            self.context = FullContext(size, num_processing_steps)

    @full_precision
    def compare(self, support: Tensor, support_y: Tensor, num_ways: int, query: Tensor) -> Tensor:
        """Return [Q, N]: the log of the unnormalised attention that falls on each class."""
        support, query = support.flatten(1), query.flatten(1)
        if self.context is not None:
            support, query = self.context(support, query)
        cosines = normalize(query) @ normalize(support).T  # [Q, S]
        return log_sums(self.scale * cosines, support_y, num_ways)


class FullContext(nn.Module):
    """Embeds support set and queries in the context of the whole support set.

    Support (A.2): g(x_i) = h→_i + h←_i + g′(x_i), with h→, h← the outputs of a bidirectional LSTM
    that reads g′(x_1) … g′(x_S).

    Queries (A.1, eqs. 3 to 6), for k = 1 … K:

        r_{k−1} = Σ_i softmax_i(h_{k−1} · g(x_i)) g(x_i)
        ĥ_k, c_k = LSTM(f′(x̂), [h_{k−1}, r_{k−1}], c_{k−1}),    h_k = ĥ_k + f′(x̂),    f(x̂) = h_K

    The paper leaves the start open: here ĥ_0 = c_0 = 0, so that h_0 = f′(x̂).

    Args:
        size: Features F of an example.
        num_steps: K.
    """

    def __init__(self, size: int, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.support_lstm = nn.LSTM(size, size, bidirectional=True)
        # An LSTM's gates are linear in input and state, so r may stand with the input x.
        self.query_lstm = nn.LSTMCell(2 * size, size)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return g [S, F] and f [Q, F], given g′ `support` [S, F] and f′ `query` [Q, F]."""
        outputs, _ = self.support_lstm(support)
        forwards, backwards = outputs.chunk(2, dim=1)
        support = forwards + backwards + support
        state, cell = query, torch.zeros_like(query)
        for _ in range(self.num_steps):
            read = torch.softmax(state @ support.T, dim=1) @ support
            output, cell = self.query_lstm(torch.cat([query, read], dim=1), (state, cell))
            state = output + query
        return support, state
