"""What `bench episodes` is measured against: the same meta-steps in public libraries' ways.

Each peer is written as its library's own examples write it. They share no code with what is
measured against them, but the episodes; the network is the same one, of plain modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, log_softmax

from algorithms.types import Episode

Params = dict[str, Tensor]


class Peer(ABC):
    """Meta-steps with Adam on the network `net`.

    Attributes:
        library: What must be installed; empty if nothing more than PyTorch.
    """

    library = ""

    def __init__(self, net: nn.Module, num_steps: int, inner_lr: float, outer_lr: float) -> None:
        self.net = net
        self.num_steps = num_steps
        self.inner_lr = inner_lr
        self.optimizer = torch.optim.Adam(net.parameters(), lr=outer_lr)

    @abstractmethod
    def task_loss(self, episode: Episode) -> Tensor:
        """Return the loss of the queries, with a graph to the parameters of `net`."""

    def differentiate(self, episodes: Sequence[Episode]) -> Tensor:
        """Put the gradient of the mean loss into the parameters' `.grad`; return that loss."""
        self.optimizer.zero_grad()
        losses = []
        for episode in episodes:
            loss = self.task_loss(episode) / len(episodes)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def gradient(self) -> Tensor:
        """Return what `differentiate` found, as one vector [P]."""
        return torch.cat([p.grad.flatten() for p in self.net.parameters() if p.grad is not None])

    def step(self, episodes: Sequence[Episode]) -> None:
        """Take one meta-step."""
        self.differentiate(episodes)
        self.optimizer.step()


class Torchopt(Peer):
    """MAML by torchopt's differentiable optimizer."""

    library = "torchopt"

    def __init__(self, net: nn.Module, num_steps: int, inner_lr: float, outer_lr: float) -> None:
        import torchopt

        super().__init__(net, num_steps, inner_lr, outer_lr)
        self._torchopt = torchopt
        self._inner = torchopt.MetaSGD(net, lr=inner_lr)

    def task_loss(self, episode: Episode) -> Tensor:
        """Return the loss of the queries."""
        net, torchopt = self.net, self._torchopt
        start = torchopt.extract_state_dict(net, by="reference")
        inner_start = torchopt.extract_state_dict(self._inner, by="reference")
        for _ in range(self.num_steps):
            self._inner.step(cross_entropy(net(episode.support_x), episode.support_y))
        loss = cross_entropy(net(episode.query_x), episode.query_y)
        torchopt.recover_state_dict(net, start)
        torchopt.recover_state_dict(self._inner, inner_start)
        return loss


class Higher(Peer):
    """MAML by higher's monkey-patched modules."""

    library = "higher"

    def task_loss(self, episode: Episode) -> Tensor:
        """Return the loss of the queries."""
        import higher

        inner = torch.optim.SGD(self.net.parameters(), lr=self.inner_lr)
        context = higher.innerloop_ctx(self.net, inner, copy_initial_weights=False)
        with context as (net, optimizer):
            for _ in range(self.num_steps):
                optimizer.step(cross_entropy(net(episode.support_x), episode.support_y))
            return cross_entropy(net(episode.query_x), episode.query_y)


class Learn2learn(Peer):
    """MAML by learn2learn's cloned modules."""

    library = "learn2learn"

    def __init__(self, net: nn.Module, num_steps: int, inner_lr: float, outer_lr: float) -> None:
        from learn2learn.algorithms import MAML

        super().__init__(net, num_steps, inner_lr, outer_lr)
        self._maml = MAML(net, lr=inner_lr, first_order=False)

    def task_loss(self, episode: Episode) -> Tensor:
        """Return the loss of the queries."""
        net = self._maml.clone()
        for _ in range(self.num_steps):
            net.adapt(cross_entropy(net(episode.support_x), episode.support_y))
        return cross_entropy(net(episode.query_x), episode.query_y)


class Functional(Peer):
    """MAML in plain PyTorch: `functional_call` and `autograd.grad`, task after task.

    Not all tasks at once by `vmap`: in torch 2.13 that gives other second derivatives of batch-norm
    than autograd does without it, and it is slower on a CPU, by 1.1 to 1.4 times.
    """

    def task_loss(self, episode: Episode) -> Tensor:
        """Return the loss of the queries."""
        params: Params = dict(self.net.named_parameters())
        for _ in range(self.num_steps):
            outputs = functional_call(self.net, params, (episode.support_x,))
            loss = cross_entropy(outputs, episode.support_y)
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {
                name: p - self.inner_lr * g
                for (name, p), g in zip(params.items(), grads, strict=True)
            }
        outputs = functional_call(self.net, params, (episode.query_x,))
        return cross_entropy(outputs, episode.query_y)


class PlainPrototypes(Peer):
    """Prototypical networks as a plain loop: images class by class, distances by broadcasting."""

    def task_loss(self, episode: Episode) -> Tensor:
        """Return the loss of the queries."""
        ways = episode.num_ways
        features = self.net(torch.cat([episode.support_x, episode.query_x]))
        support, queries = features.split([len(episode.support_x), len(episode.query_x)])
        prototypes = support.view(ways, -1, support.shape[1]).mean(1)
        distances = (queries[:, None] - prototypes[None]).pow(2).sum(2)
        log_beliefs = log_softmax(-distances, dim=1)
        return -log_beliefs.gather(1, episode.query_y[:, None]).mean()


MAML_PEERS: dict[str, type[Peer]] = {
    "torchopt": Torchopt,
    "higher": Higher,
    "learn2learn": Learn2learn,
    "torch.func": Functional,
}
PROTOTYPE_PEERS: dict[str, type[Peer]] = {"plain loop": PlainPrototypes}


def is_installed(peer: type[Peer]) -> bool:
    """Return whether the peer's library is there."""
    return not peer.library or find_spec(peer.library) is not None


def plain_network(num_filters: int, num_outputs: int | None, keeps_statistics: bool) -> nn.Module:
    """Return Conv-4 for 28×28 pixels of one channel, with a linear layer of `num_outputs` if any.

    Blocks are convolution, batch-norm, ReLU, max-pool.
    """
    layers: list[nn.Module] = []
    channels = 1
    for _ in range(4):
        layers += [
            nn.Conv2d(channels, num_filters, 3, padding=1),
            nn.BatchNorm2d(num_filters, track_running_stats=keeps_statistics),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = num_filters
    head = [] if num_outputs is None else [nn.Linear(num_filters, num_outputs)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def by_class(episode: Episode) -> Episode:
    """Return the episode with support set and queries in the order of their labels."""
    support, query = episode.support_y.argsort(stable=True), episode.query_y.argsort(stable=True)
    return Episode(
        support_x=episode.support_x[support].contiguous(),
        support_y=episode.support_y[support],
        query_x=episode.query_x[query].contiguous(),
        query_y=episode.query_y[query],
        num_ways=episode.num_ways,
    )
