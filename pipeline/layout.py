"""How a task's flat parameters lie in the outer parameter vector, and how shards divide that.

Without per-task output layers the two vectors are the same. With them (multi-headed
finetuning) the outer vector is [body | head of task 0 | head of task 1 | …], and a task holds
[body | its own head]. Where heads are local (`num_heads` 0), the outer vector is the body alone
and each task begins with a fresh head, which no other ever sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pipeline.messages import Piece


@dataclass(frozen=True, slots=True)
class Span:
    """`length` consecutive elements, at `local` in the task's vector, at `outer` in the outer."""

    local: int
    outer: int
    length: int


@dataclass(frozen=True, slots=True)
class OuterLayout:
    """Sizes, in elements, of the parts of the outer vector.

    Attributes:
        body: parameters that every task shares.
        head: parameters of one output layer of its own; 0 where tasks share all parameters.
        num_heads: meta-training tasks that keep one; 0 with a head: it is the task's alone.
        num_shards: aggregator shards over which the vector is divided.
    """

    body: int
    head: int
    num_heads: int
    num_shards: int

    @property
    def size(self) -> int:
        """Elements of the outer vector."""
        return self.body + self.head * self.num_heads

    def spans(self, task_id: int) -> tuple[Span, ...]:
        """Where the parameters of meta-training task `task_id` lie."""
        body = Span(0, 0, self.body)
        if not self.num_heads:
            return (body,)
        return (body, Span(self.body, self.body + task_id * self.head, self.head))

    def shard_bounds(self) -> tuple[tuple[int, int], ...]:
        """First and last-plus-one element of each shard, as even as may be."""
        marks = [self.size * i // self.num_shards for i in range(self.num_shards + 1)]
        return tuple(pairwise(marks))

    def cut(self, task_id: int) -> tuple[tuple[tuple[int, Piece], ...], ...]:
        """For each shard, the (local offset, valueless piece) pairs that task `task_id` fills."""
        shares = []
        for first, last in self.shard_bounds():
            share = []
            for span in self.spans(task_id):
                start, stop = max(first, span.outer), min(last, span.outer + span.length)
                if start < stop:
                    local = span.local + start - span.outer
                    share.append((local, Piece(start, None, stop - start)))
            shares.append(tuple(share))
        return tuple(shares)
