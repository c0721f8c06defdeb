"""What fits on a cluster, and what is said of what does not."""

from __future__ import annotations

import pytest
import ray

from pipeline import resources
from pipeline.config_sections import WorkersConfig
from pipeline.errors import BadInputError
from pipeline.resources import Node, check_resources, gpu_share, room_for_workers, said_of
from tests.pipeline.runs_for_tests import tiny


def node(cpus=4.0, gpus=0.0, kind="", **labels):
    kinds = frozenset({kind} - {""})
    return Node(cpus, gpus, kinds, frozenset(labels.items()))


@pytest.mark.parametrize(
    ("workers", "share", "there", "room"),
    [
        ({}, 0, [node(4), node(3)], 7),
        ({"threads": 3}, 0, [node(4), node(3), node(2)], 2),  # 9 cores, but not side by side
        ({}, 0.5, [node(4, 1), node(4)], 2),
        ({}, 0.1, [node(16, 1)], 10),  # though 1 / 0.1 / 10 is less than one in floats
        ({}, 2.0, [node(8, 3), node(8, 1)], 1),
        ({"accelerator": "A100"}, 1, [node(4, 1, "A100"), node(4, 1, "T4")], 1),
        ({"labels": {"zone": "a"}}, 0, [node(4, zone="a"), node(4, zone="b"), node(4)], 4),
        ({"labels": {"zone": "a", "spot": "yes"}}, 0, [node(4, zone="a")], 0),
    ],
)
def test_room_is_counted_node_by_node(workers, share, there, room):
    assert room_for_workers(tiny(workers=workers), share, there) == room


@pytest.mark.parametrize(
    ("workers", "gpus", "share"),
    [
        ({"count": 2}, 0, 0),
        ({"count": 2}, 1, 0.5),
        ({"count": 2}, 5, 2),
        ({"count": 2, "device": "cpu"}, 2, 0),
        ({"count": 2, "gpus_per_worker": 0.25}, 8, 0.25),
        ({"count": "auto"}, 3, 1),
        ({"count": "auto"}, 0, 0),
    ],
)
def test_gpus_are_shared_evenly_unless_told_otherwise(workers, gpus, share):
    assert gpu_share(WorkersConfig(**workers), [node(8, gpus)]) == share


@pytest.mark.parametrize(
    ("workers", "there", "said"),
    [
        ({"count": 9}, [node(4), node(4)], "9 workers of 1 thread.* need 9 CPU cores; there are 8"),
        ({"count": 1, "device": "cuda"}, [node(4)], "1 workers need 1 GPUs; there are 0"),
        (
            {"count": 2, "threads": 3},
            [node(4), node(2)],
            "2 workers of 3 CPU cores: there is room for 1 on 2 nodes with 6 CPU cores and 0 GPUs",
        ),
        (
            {"count": 1, "accelerator": "H100", "gpus_per_worker": 1},
            [node(4, 1, "T4")],
            r"1 worker of 1 CPU core, 1 GPU, H100: there is room for 0 on 1 node .* GPUs \(T4\)",
        ),
        ({"count": "auto", "labels": {"a": "b"}}, [node(4)], "1 worker of 1 CPU core, a=b: there"),
    ],
)
def test_what_does_not_fit_is_refused_but_when_nodes_are_waited_for(
    workers, there, said, monkeypatch
):
    monkeypatch.setattr(resources, "nodes", lambda: there)
    with pytest.raises(BadInputError, match=said):
        check_resources(tiny(workers=workers))
    waits = {**workers, "wait_for_nodes_s": 60}
    check_resources(tiny(workers={**waits, "address": "auto"}))
    with pytest.raises(BadInputError, match=said):  # a Ray that is started here does not grow
        check_resources(tiny(workers=waits))


@pytest.mark.ray
def test_a_real_cluster_says_what_it_has(local_ray):
    (here,) = resources.nodes()
    assert here.cpus == ray.cluster_resources()["CPU"] == 4
    assert not here.gpus
    assert here.labels
    said = said_of(tiny(workers={"count": "auto"}))
    assert said == (
        "cluster: 1 node with 4 CPU cores and 0 GPUs; asked for: as many workers as fit of "
        "1 CPU core; there is room for 4"
    )
