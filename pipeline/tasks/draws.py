"""Which images an episode is made of, and what is done to each: drawn as arrays, from one seed.

Shape letters: N ways, K support examples and Q queries a way, M = N · (K + Q) images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Integers = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

PADDING = 4  # pixels, of the frame that a random crop is taken from


@dataclass(frozen=True, slots=True)
class EpisodeSize:
    """How many classes an episode has, and how many examples of each."""

    num_ways: int
    num_shots: int
    num_queries: int


@dataclass(frozen=True, slots=True)
class EpisodeDraw:
    """The images of one episode: its support set, then its queries, each in random order."""

    rows: Integers  # [M] of the data set's images
    turns: Integers  # [M] anticlockwise, by 90° each
    labels: Integers  # [M]
    offsets: Integers  # [M, 2] in [0, 2 · PADDING], of random crops: down, right
    flips: Flags  # [M]


def draw_episode(size: EpisodeSize, classes: Integers, num_turns: int, seed: int) -> EpisodeDraw:
    """Return an episode drawn from `classes`: rows [·, 2], the first image of each and its end.

    A class in each of `num_turns` directions is a class of its own. There must be enough of
    them, and enough images of each.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = generator.choice(num_turns * len(classes), size.num_ways, replace=False)
    turns, numbers = np.divmod(chosen, len(classes))
    rows = _distinct(classes[numbers], size.num_shots + size.num_queries, generator)
    # Random order too: a learner that reads one example after the other must not learn from it.
    order = [generator.permutation(size.num_ways * n) for n in (size.num_shots, size.num_queries)]

    def arranged(values: Integers) -> Integers:
        """Return values [N, K + Q] as support set, then queries: [M]."""
        parts = np.split(values, [size.num_shots], axis=1)
        return np.concatenate([p.ravel()[o] for p, o in zip(parts, order, strict=True)])

    return EpisodeDraw(
        rows=arranged(rows),
        turns=arranged(np.broadcast_to(turns[:, None], rows.shape)),
        labels=arranged(np.broadcast_to(np.arange(size.num_ways)[:, None], rows.shape)),
        offsets=generator.integers(0, 2 * PADDING + 1, (rows.size, 2)),
        flips=generator.random(rows.size) < 0.5,
    )


def draw_minibatch(size: int, classes: Integers, num_turns: int, seed: int) -> EpisodeDraw:
    """Return `size` images drawn from all `classes`, rows as above; labels are those of classes.

    All images are as likely and none comes twice. A class turned by t · 90° has the label of the
    class plus t times the number of classes.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    ends = (classes[:, 1] - classes[:, 0]).cumsum()
    places = generator.choice(num_turns * int(ends[-1]), size, replace=False, shuffle=True)
    turns, places = np.divmod(places, ends[-1])
    numbers = np.searchsorted(ends, places, side="right")
    return EpisodeDraw(
        rows=classes[numbers, 1] - (ends[numbers] - places),
        turns=turns,
        labels=turns * len(classes) + numbers,
        offsets=generator.integers(0, 2 * PADDING + 1, (size, 2)),
        flips=generator.random(size) < 0.5,
    )


def _distinct(ranges: Integers, num: int, generator: np.random.Generator) -> Integers:
    """Return [N, num] numbers of each range [N, 2], none twice, all as likely, in random order."""
    lengths = ranges[:, 1:] - ranges[:, :1]
    keys = generator.random((len(ranges), int(lengths.max())))
    keys[np.arange(keys.shape[1]) >= lengths] = 2  # behind all that there are
    lowest = np.argpartition(keys, num - 1, axis=1)[:, :num]
    order = np.argsort(np.take_along_axis(keys, lowest, axis=1), axis=1)
    return np.asarray(ranges[:, :1] + np.take_along_axis(lowest, order, axis=1))
