from __future__ import annotations

import pytest
import torch
from torch import nn

from algorithms.batch_norm import estimate_statistics, statistics_from


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def test_statistics_are_those_of_the_batches():
    network = model()
    batches = [torch.randn(6, 3, dtype=torch.float64) * scale for scale in (1.0, 5.0)]
    features = [network[0](batch).detach() for batch in batches]
    with statistics_from(network, batches):
        mean = torch.stack([f.mean(dim=0) for f in features]).mean(dim=0)
        variance = torch.stack([f.var(dim=0) for f in features]).mean(dim=0)
        torch.testing.assert_close(network[1].running_mean, mean)
        torch.testing.assert_close(network[1].running_var, variance)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was_found(fails):
    network = model().eval()
    network[1].running_mean.fill_(7.0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        with statistics_from(network, [torch.randn(6, 3, dtype=torch.float64)]):
            assert not network.training
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert not network.training
    assert network[1].momentum == 0.1
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_model_without_batch_norm_sees_no_batch():
    network = nn.Linear(3, 4)
    with statistics_from(network, iter([torch.full((1, 3), float("nan"))])):
        pass


def test_statistics_of_nothing_are_refused_and_the_old_ones_stay():
    network = model()
    network[1].running_mean.fill_(7.0)
    with pytest.raises(ValueError, match="passes: expected at least one"):
        estimate_statistics(network, [])
    assert (network[1].running_mean == 7).all()
