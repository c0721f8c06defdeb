"""The cluster launcher's file, against Ray's own schema and Amazon's own API."""

from __future__ import annotations

import shlex

import botocore.session
import botocore.validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from tests.infra.manifests import INFRA


@pytest.fixture
def config():
    return yaml.safe_load((INFRA / "ray-cluster.yaml").read_text())


def test_ray_takes_it(config):
    config = prepare_config(config)  # as `ray up` does
    validate_config(config)
    kinds = config["available_node_types"]
    assert config["head_node_type"] == "head"
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert sum(kind["max_workers"] for name, kind in kinds.items() if name != "head") == 20


def test_amazon_takes_its_machines(config):
    """As parameters of EC2's RunInstances; what Ray adds is left out."""
    client = botocore.session.get_session().create_client(
        "ec2", region_name="eu-central-1", aws_access_key_id="-", aws_secret_access_key="-"
    )
    shape = client.meta.service_model.operation_model("RunInstances").input_shape
    for kind in config["available_node_types"].values():
        asked = {"MinCount": 1, "MaxCount": 1} | kind["node_config"]
        report = botocore.validate.ParamValidator().validate(asked, shape)
        assert not report.has_errors(), report.generate_report()
        types = shape.members["InstanceType"].enum
        assert asked["InstanceType"] in types


def test_gpu_machines_may_be_taken_away_and_have_the_image_for_them(config):
    kinds = config["available_node_types"]
    assert kinds["gpu-spot"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert kinds["gpu-spot"]["docker"]["worker_image"].endswith("-cuda")
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]


def test_nodes_start_with_the_token_and_commands_that_ray_knows(config):
    [token] = config["file_mounts"]
    options = config["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    assert f"--env RAY_AUTH_TOKEN_PATH={token}" in options
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        words = shlex.split(commands[-1])
        ray, command, *words = words[words.index("ray") :]
        assert (ray, command) == ("ray", "start")
        assert start.make_context(command, words).params["metrics_export_port"] == 8080


def test_only_ssh_is_open_and_not_to_everybody(config):
    [rule] = config["provider"]["security_group"]["IpPermissions"]
    assert rule["FromPort"] == rule["ToPort"] == 22
    assert "0.0.0.0/0" not in [entry["CidrIp"] for entry in rule["IpRanges"]]
