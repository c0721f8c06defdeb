"""One attempt at one task on a worker: its inner loop, segment by segment, and its checkpoints.

Without checkpoints inside the task, each segment streams its part of the outer gradient. With them
the parts are summed here, in the same order, and leave with the task's last segment: so a task that
goes on elsewhere counts once, whatever was streamed before its worker died.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.inner_loop import InnerLoop, StepRecords
from pipeline.config_sections import InnerConfig
from pipeline.files import disk_errors
from pipeline.messages import BACKPRESSURE_SEGMENTS, TRAJECTORY_SCHEMA, Piece, Segment, TaskSpec
from pipeline.snapshots import write_snapshot
from pipeline.task_rows import trajectory_rows
from pipeline.task_states import as_tensor, read_state, write_state

Pieces = tuple[tuple[Piece, ...], ...]
NO_ROWS = pa.RecordBatch.from_pylist([], schema=TRAJECTORY_SCHEMA)


@dataclass(slots=True)
class TaskRun:
    """What a worker knows of the attempt that it is at."""

    spec: TaskSpec
    name: str  # of the task
    begin: Callable[[], InnerLoop]  # gives the inner loop at the task's starting point
    num_steps: int
    inner: InnerConfig
    cut: Callable[[Tensor], Pieces]  # from an outer gradient [P] to each shard's share
    # Whether the task does at each checkpoint what it would have to do to go on elsewhere: begin
    # new episodes. Then it makes no difference to the result whether it does.
    renew: bool = False
    loop: InnerLoop = field(init=False)  # once it was begun
    _number: int = 0  # of the next segment
    _num_parts: int = 0  # of the outer gradient that were streamed
    _held: Tensor | None = None  # the outer gradient so far [P], where it leaves in the end

    def segments(self) -> Iterator[Segment]:
        """Yield the attempt's segments in order; go on from `spec.resume` if it says so.

        Raises:
            EnvironmentFailedError: The task's environment raised, hung or could not be made.
            DamagedStateError: There is nothing to go on from.
            RunFailedError: A checkpoint cannot be written.
        """
        self._number = self.spec.resume // self.inner.segment_steps
        self.loop = self.begin()
        if self.spec.resume:
            closed = self._restore()
            if closed is not None:
                yield closed
                return
        while self.loop.step < self.num_steps:
            yield (segment := self._next())
            if segment.final:
                return
            # After the rows have left: the driver is not to see a checkpoint ahead of them.
            if segment.kept and self.loop.step < self.num_steps:
                with self._disk_errors():
                    self._write_state(closed=False, loop=self.loop.state_dict())
                if self.renew:
                    self.loop.task.load_state_dict(self.loop.task.state_dict())
        yield self._close()

    def failed(self, reason: str) -> Segment:
        """Return the segment that ends a task whose environment failed for `reason`."""
        return self._segment(NO_ROWS, final=True, finite=False, failure=reason)

    @property
    def _keeps_states(self) -> bool:
        return bool(self.spec.folder and self.inner.checkpoint_every)

    def _next(self) -> Segment:
        first, loop = self.loop.step, self.loop
        start = time.perf_counter()
        records = loop.run(min(self.inner.segment_steps, self.num_steps - first))
        wall_ms = 1e3 * (time.perf_counter() - start) / (loop.step - first)
        at_end = loop.step == self.num_steps
        last = at_end and not self._keeps_states
        pulled: Tensor | None = None
        if last:
            pulled = loop.finish()
        elif loop.fold is not None and not at_end:  # where it ends, the rest is one sum
            pulled = loop.fold.drain(loop.shared)
        finite = _all_finite(records, pulled)
        # A held-out task that diverges is a result; one in meta-training ends here.
        ends = last or (loop.fold is not None and not finite)
        self._snapshot()
        return self._segment(
            trajectory_rows(self.spec, self.name, first, records, wall_ms),
            final=ends,
            finite=finite,
            pulled=pulled if finite else None,
            metrics=loop.task.evaluate(loop.model) if last and loop.fold is None else {},
            kept=not ends and self._keeps_states and self._is_due(self.inner.checkpoint_every),
        )

    def _close(self) -> Segment:
        """Return the last segment of a task that keeps its outer gradient back until then."""
        if self.loop.fold is None:
            metrics: dict[str, float] = self.loop.task.evaluate(self.loop.model)
        else:
            metrics = {}
            rest = self.loop.finish()
            assert rest is not None
            self._hold(rest)
        with self._disk_errors():
            self._write_state(closed=True, metrics=metrics)
        return self._closed(metrics)

    def _closed(self, metrics: dict[str, float]) -> Segment:
        finite = self._held is None or bool(torch.isfinite(self._held).all())
        pieces = self.cut(self._held) if self._held is not None and finite else ()
        return self._segment(NO_ROWS, final=True, finite=finite, pieces=pieces, metrics=metrics)

    def _segment(
        self,
        rows: pa.RecordBatch,
        *,
        final: bool,
        finite: bool,
        pulled: Tensor | None = None,
        pieces: Pieces = (),
        **others: Any,
    ) -> Segment:
        if pulled is not None:
            if self._keeps_states:
                self._hold(pulled)
            else:
                pieces = self.cut(pulled)
        segment = Segment(
            spec=self.spec,
            number=self._number,
            final=final,
            finite=finite,
            task=self.name,
            rows=rows,
            pieces=pieces,
            part=self._num_parts,
            **({"metrics": {}} | others),
        )
        self._number += 1
        self._num_parts += bool(pieces)
        return segment

    def _hold(self, pulled: Tensor) -> None:
        # As the aggregator would sum them, so that checkpoints change no bit of the result.
        self._held = pulled if self._held is None else self._held.add_(pulled)

    def _is_due(self, every: int) -> bool:
        return self.loop.step % every == 0 or self.loop.step == self.num_steps

    def _snapshot(self) -> None:
        every = self.inner.snapshot_every if self.spec.folder else 0
        if every and self.spec.purpose == "train" and self.loop.step % every == 0:
            with self._disk_errors():
                write_snapshot(Path(self.spec.folder), self.loop.step, self.loop.vector.values)

    def _write_state(self, **state: Any) -> None:
        state |= {"version": self.spec.version, "held": self._held}
        # The driver may be some segments behind; one more, should the newest be damaged.
        ahead = (BACKPRESSURE_SEGMENTS + 1) * self.inner.segment_steps
        num_kept = 2 + -(-ahead // self.inner.checkpoint_every)
        write_state(Path(self.spec.folder), self.loop.step, state, num_kept)

    def _restore(self) -> Segment | None:
        """Go to where the checkpoint says; return the last segment if that is the end."""
        state = read_state(Path(self.spec.folder), self.spec.resume)
        held = as_tensor(state, "held")
        self._held = None if held is None else held.to(self.loop.vector.values.device)
        if state["closed"]:
            self.loop.step = self.spec.resume
            return self._closed(state["metrics"])
        self.loop.load_state_dict(state["loop"])
        return None

    def _disk_errors(self) -> Any:
        return disk_errors(
            f"checkpoint inside a task in {self.spec.folder}", "free space, then resume the run"
        )


def _all_finite(records: StepRecords, pulled: Tensor | None) -> bool:
    figures = [records.loss, records.grad_norm] + ([] if pulled is None else [pulled])
    return all(bool(torch.isfinite(figure).all()) for figure in figures)
