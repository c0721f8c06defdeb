"""One root seed, and from it an independent seed for every random draw of a run.

A seed is derived from the root and a path that names the draw, e.g. `(seed, "task", meta_step,
index)`. It depends on nothing else: not on the process, the platform or the order of draws.
"""

from __future__ import annotations

import hashlib
import operator
from typing import SupportsIndex

import numpy as np
import torch


def derive_seed(seed: SupportsIndex, *path: SupportsIndex | str) -> int:
    """Return a seed in [0, 2**63) for the draw that `path` names under the root `seed`.

    Different paths give unrelated seeds; `1` and `"1"` are different path parts, and so are
    `("ab",)` and `("a", "b")`.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *path):
        text = f"s{part}" if isinstance(part, str) else f"i{operator.index(part)}"
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(4, "little"))
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little") >> 1


def numpy_generator(seed: SupportsIndex, *path: SupportsIndex | str) -> np.random.Generator:
    """Return a NumPy generator for the draw that `path` names."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *path)))


def torch_generator(seed: SupportsIndex, *path: SupportsIndex | str) -> torch.Generator:
    """Return a CPU generator for the draw that `path` names; draws are the same for any device."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))
