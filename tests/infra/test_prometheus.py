"""A real Prometheus on a real run: it gets what the dashboard shows, and the rules are sound."""

from __future__ import annotations

import json
import re
import tempfile
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from jobs.bench.chaos_processes import WORKER, Driver, Group, Nodes, free_port
from tests.infra.manifests import INFRA, checked, tool
from tests.processes import ROOT, wait_until

PROMETHEUS = INFRA / "prometheus"
DASHBOARD = json.loads((INFRA / "grafana" / "dashboards" / "outerloop.json").read_text())
METRIC = re.compile(r"\bray_\w+")
OF_GPUS = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available"}
# Its environments fail after a while, so that tasks are left out; that is no matter here.
RUN = (
    "leap-control", "environments.name=tests.pipeline.environments_for_tests:OuterloopFails-v0",
    "environments.num_train=3", "environments.num_held_out=1", "environments.num_envs=2",
    "environments.unroll=3", "agent.num_epochs=1", "agent.num_minibatches=1",
    "inner.segment_steps=1", "inner.num_steps=4", "meta.batch_size=4", "meta.max_bad_tasks=1000000",
    "meta.steps=1000000", "evaluation.num_steps=1", "checkpoint.every=100000",
)  # fmt: skip


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions():
    """Every query of the dashboard, with Grafana's variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            filled = target["expr"].replace("$__rate_interval", "1m").replace("$run", ".*")
            assert "$" not in filled, filled
            yield filled


class Prometheus:
    """A server over a configuration, as long as the block runs."""

    def __init__(self, config, folder):
        self._address = f"127.0.0.1:{free_port()}"
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self._command = [
            tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'store'}",
            f"--web.listen-address={self._address}", "--log.level=warn",
        ]  # fmt: skip
        self._log = folder / "log"

    def __enter__(self):
        self._group = Group(self._command, self._log, {})
        wait_until(lambda: self.get("/-/ready") is not None, 120)
        return self

    def __exit__(self, *_):
        self._group.kill()

    def get(self, path, **query):
        """What it answers; None while it does not."""
        url = f"http://{self._address}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read()
        except OSError:
            return None

    def query(self, expression):
        """The series that an expression has now; a wrong one fails."""
        said = self.get("/api/v1/query", query=expression)
        assert said is not None, expression
        return json.loads(said)["data"]["result"]


def config_of(name, **changes):
    config = yaml.safe_load((PROMETHEUS / name).read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / file) for file in config["rule_files"]]
    config["scrape_configs"][0] |= changes
    return config


@contextmanager
def short_folder():
    with tempfile.TemporaryDirectory(prefix="ray-") as name:  # a socket's path is 107 bytes at most
        yield Path(name)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Prometheus on a cluster of two nodes where a run goes on, one of whose workers was killed."""
    tool("prometheus")
    folder = tmp_path_factory.mktemp("watched")
    with short_folder() as short:
        nodes = Nodes(short / "n", 4, has_jobs=True)
        nodes.environment |= {"PYTHONPATH": str(ROOT), "RAY_metrics_report_interval_ms": "1000"}
        found = short / "n" / "head" / "prom_metrics_service_discovery.json"
        files = [{"files": [str(found)], "refresh_interval": "1s"}]
        with (
            nodes,
            Prometheus(config_of("prometheus.yml", file_sd_configs=files), folder) as server,
        ):
            words = [*RUN, "workers.count=2", f"workers.address={nodes.address}"]
            driver = Driver(["train", *words], folder / "runs", folder / "driver.log", nodes, {})
            try:
                steps = "ray_outerloop_inner_steps_total"
                wait_until(lambda: driver.exit_code is not None or server.query(steps), 120)
                assert driver.exit_code is None, driver.last_line()
                driver.actors(WORKER)[0].kill()
                yield server
            finally:
                driver.end()


@pytest.mark.ray
def test_prometheus_gets_every_metric_of_the_dashboard(watched):
    wanted = {name for text in expressions() for name in METRIC.findall(text)}
    assert len(wanted) > 15
    assert wanted >= OF_GPUS
    missing = wanted - OF_GPUS

    def nothing_is_missing():
        missing.difference_update([name for name in missing if watched.query(name)])
        return not missing

    try:
        wait_until(nothing_is_missing, 120)
    finally:
        assert not missing


@pytest.mark.ray
def test_the_dashboards_queries_have_answers(watched):
    """Each is asked as Grafana would; a rate needs a while."""
    for expression in expressions():
        if not set(METRIC.findall(expression)) & OF_GPUS:
            wait_until(lambda asked=expression: bool(watched.query(asked)), 120)


@pytest.mark.ray
def test_metrics_say_whose_they_are_and_what_was_counted(watched):
    wait_until(lambda: bool(watched.query("ray_outerloop_retries_total")), 120)
    for series in watched.query('{__name__=~"ray_outerloop_.+"}'):
        assert series["metric"]["experiment"] == "leap-control"
        assert series["metric"]["run"].startswith("leap-control-")
    [retries] = watched.query("ray_outerloop_retries_total")
    assert retries["metric"]["kind"] == "worker_died"
    assert float(retries["value"][1]) >= 1
    wait_until(lambda: bool(watched.query("ray_outerloop_workers == 2")), 120)
    wait_until(lambda: bool(watched.query("ray_outerloop_tasks_in_flight > 0")), 120)
    assert len(watched.query("up == 1")) >= 2  # both nodes


def test_rules_and_configurations_are_sound(tmp_path):
    promtool = tool("promtool")
    checked(promtool, "check", "config", str(PROMETHEUS / "prometheus.yml"))
    checked(promtool, "check", "rules", str(PROMETHEUS / "rules.yml"))


def test_alerts_follow_from_what_happens(tmp_path):
    text = (Path(__file__).parent / "rules_for_tests.yml").read_text()
    file = tmp_path / "rules.yml"
    file.write_text(text.replace("RULES", str(PROMETHEUS / "rules.yml")))
    checked(tool("promtool"), "test", "rules", str(file))
    tested = set(re.findall(r"alertname: (\w+)", text))
    there = set(re.findall(r"alert: (\w+)", (PROMETHEUS / "rules.yml").read_text()))
    assert tested == there


def pod(address, port, **labels):
    """A target as Kubernetes' discovery gives it, with what pods in the manifests have."""
    meta = {
        "pod_annotation_prometheus_io_scrape": "true",
        "pod_annotation_prometheus_io_port": "8080",
        "pod_annotation_prometheus_io_path": "/metrics",
        "pod_label_ray_io_cluster": "outerloop",
        "pod_name": f"pod-{address}",
        "namespace": "outerloop",
    } | labels
    return {
        "targets": [f"{address}:{port}"],
        "labels": {f"__meta_kubernetes_{key}": value for key, value in meta.items() if value},
    }


def test_ray_pods_are_scraped_in_kubernetes_once_each_and_no_others(tmp_path):
    """What becomes of targets; Debian's Prometheus cannot ask Kubernetes itself for them."""
    pods = [
        pod("10.0.0.1", 6379), pod("10.0.0.1", 8265), pod("10.0.0.1", 8080),
        pod("10.0.0.2", 8080),
        pod("10.0.0.3", 8080, pod_label_ray_io_cluster=""),  # of something else
        pod("10.0.0.4", 8080, pod_annotation_prometheus_io_scrape=""),
    ]  # fmt: skip
    found = tmp_path / "pods.json"
    found.write_text(json.dumps(pods))
    config = config_of("prometheus-kubernetes.yml", file_sd_configs=[{"files": [str(found)]}])
    [job] = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    with Prometheus(config, tmp_path) as server:

        def scraped():
            said = server.get("/api/v1/targets", state="active")
            return [target["labels"] for target in json.loads(said)["data"]["activeTargets"]]

        wait_until(lambda: bool(scraped()), 120)
        assert sorted(label["instance"] for label in scraped()) == [
            "10.0.0.1:8080",
            "10.0.0.2:8080",
        ]
        assert scraped()[0].keys() == {"instance", "job", "namespace", "pod", "ray_cluster"}
