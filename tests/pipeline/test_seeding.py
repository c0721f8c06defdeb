import subprocess
import sys

import numpy as np
import torch

from pipeline.seeding import derive_seed, numpy_generator, torch_generator


def test_seeds_never_change():
    """Checkpoints of old runs go on with the same draws: these values are frozen."""
    assert derive_seed(0) == 9112507877425210602
    assert derive_seed(7, "task", 12, 3) == 4172966086276276205


def test_seed_is_the_same_in_another_process_with_another_hash_seed():
    code = "from pipeline.seeding import derive_seed; print(derive_seed(5, 'task', 1, 2))"
    output = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "9"}, capture_output=True, check=True
    ).stdout
    assert int(output) == derive_seed(5, "task", 1, 2)


def test_each_path_has_a_seed_of_its_own():
    paths = [(), ("a",), ("b",), ("ab",), ("a", "b"), (1,), ("1",), (1, 2), (12,), (2, 1), (-1,)]
    assert len({derive_seed(seed, *path) for seed in range(50) for path in paths}) == 50 * 11


def test_seeds_fill_63_bits():
    seeds = np.array([derive_seed(0, i) for i in range(4000)], dtype=np.uint64)
    bits = (seeds[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    ones = bits.mean(axis=0)
    assert ones[63] == 0
    assert (np.abs(ones[:63] - 0.5) < 0.05).all()


def test_numpy_integers_count_as_integers():
    assert derive_seed(np.int64(3), np.int32(4)) == derive_seed(3, 4)


def test_generators_follow_their_path():
    assert numpy_generator(1, "x").random() == numpy_generator(1, "x").random()
    assert numpy_generator(1, "x").random() != numpy_generator(1, "y").random()
    draws = [torch.rand(3, generator=torch_generator(1, name)) for name in ("x", "x", "y")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
