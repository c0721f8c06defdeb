"""The compose file as docker-compose reads it, its commands as their programs read them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.scripts.scripts import start

from tests.infra.manifests import INFRA, checked

FOLDER = INFRA / "compose"


def compose_command():
    """Docker's plugin or the program of before; neither needs an engine to read a file."""
    if docker := shutil.which("docker"):
        asked = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)
        if not asked.returncode:
            return [docker, "compose"]
    if path := shutil.which("docker-compose"):
        return [path]
    pytest.skip("needs docker compose, or docker-compose (Debian)")


def read(*files):
    given = [word for name in files for word in ("-f", str(FOLDER / name))]
    words = [*compose_command(), "--project-directory", str(FOLDER), *given, "config"]
    return yaml.safe_load(checked(*words))


@pytest.fixture(scope="module")
def services():
    return read("compose.yaml")["services"]


def words_of(service):
    command = service["command"]
    return shlex.split(command) if isinstance(command, str) else command


def published(service):
    """Host address of each port; of both programs' ways to write it."""
    for port in service.get("ports", []):
        yield (
            port["host_ip"] if isinstance(port, dict) else port.rpartition(":")[0].partition(":")[0]
        )


def test_ports_are_open_to_this_machine_alone(services):
    addresses = [address for service in services.values() for address in published(service)]
    assert addresses == ["127.0.0.1"] * 4


def test_images_have_versions(services):
    for name, service in services.items():
        assert ":" in service["image"], name
        assert not service["image"].endswith(":latest"), name


def test_passwords_and_the_token_come_from_files(services):
    for name, service in services.items():
        for variable, value in (service.get("environment") or {}).items():
            if any(word in variable for word in ("PASSWORD", "TOKEN")):
                assert value.startswith("/run/secrets/"), (name, variable)
                assert Path(value).name in {s["source"] for s in service["secrets"]}, name
    assert "infra/compose/secrets/" in (INFRA.parent / ".gitignore").read_text().splitlines()


def test_only_mlflow_reaches_the_database(services):
    assert [n for n, service in services.items() if "database" in service["networks"]] == (
        ["db", "mlflow"]
    )
    assert list(services["db"]["networks"]) == ["database"]


def test_nodes_share_runs_data_and_token(services):
    head, worker = services["head"], services["worker"]
    assert head["environment"] == worker["environment"]
    assert head["environment"]["RAY_AUTH_MODE"] == "token"
    shared = [v for v in map(str, worker["volumes"]) if "/runs" in v or "/data" in v]
    assert len(shared) == 2
    assert set(shared) <= set(map(str, head["volumes"]))


def test_ray_takes_the_commands_of_the_nodes(services):
    for name in ("head", "worker"):
        ray, command, *options = words_of(services[name])
        assert (ray, command) == ("ray", "start")
        given = start.make_context(command, options).params
        assert given["block"]
        assert given["metrics_export_port"] == 8080
        assert given["head"] == (name == "head")
        assert given["address"] == (None if name == "head" else "head:6379")


def test_whatever_is_waited_for_has_a_health_check(services):
    for service in services.values():
        for name, how in (service.get("depends_on") or {}).items():
            if how["condition"] == "service_healthy" and name != "mlflow":  # its image has one
                assert services[name]["healthcheck"]["test"][0] == "CMD", name
    assert "HEALTHCHECK" in (INFRA / "docker" / "mlflow.Dockerfile").read_text()


def test_prometheus_finds_what_the_head_writes(services):
    mounts = [str(volume) for volume in services["prometheus"]["volumes"]]
    assert any("ray" in mount and "/tmp/ray" in mount for mount in mounts)
    found = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    [ray] = [job for job in found["scrape_configs"] if job["job_name"] == "ray"]
    [file] = ray["file_sd_configs"][0]["files"]
    assert file.startswith("/tmp/ray/")


def test_folders_that_are_mounted_are_there(services):
    for service in services.values():
        for volume in service["volumes"]:
            source = volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
            assert "/" not in source or Path(source).is_dir(), source


def test_workers_take_gpus_where_that_is_asked_for():
    worker = read("compose.yaml", "gpu.yaml")["services"]["worker"]
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert worker["command"]
