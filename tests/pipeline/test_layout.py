"""OuterLayout: every element of a task goes to its one place, whatever the shards."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.layout import OuterLayout


@given(
    body=st.integers(1, 50),
    head=st.integers(0, 9),
    num_heads=st.integers(1, 5),
    shards=st.integers(1, 8),
    data=st.data(),
)
def test_cut_pieces_put_a_task_into_the_outer_vector(body, head, num_heads, shards, data):
    layout = OuterLayout(body, head, num_heads, shards)
    task = data.draw(st.integers(0, num_heads - 1))
    local = np.arange(body + head) + 1
    outer = np.zeros(layout.size, int)
    bounds, cut = layout.shard_bounds(), layout.cut(task)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == layout.size
    assert len(cut) == shards
    for (first, last), share in zip(bounds, cut, strict=True):
        for start, piece in share:
            assert first <= piece.offset < piece.offset + piece.length <= last
            outer[piece.offset : piece.offset + piece.length] += local[start : start + piece.length]
    expected = np.zeros(layout.size, int)
    expected[:body] = local[:body]
    expected[body + task * head : body + (task + 1) * head] = local[body:]
    np.testing.assert_array_equal(outer, expected)


def test_a_task_reads_its_own_output_layer():
    layout = OuterLayout(body=3, head=2, num_heads=4, num_shards=1)
    outer = np.arange(layout.size)
    local = np.concatenate([outer[s.outer : s.outer + s.length] for s in layout.spans(2)])
    assert local.tolist() == [0, 1, 2, 7, 8]
