"""The dashboard and how Grafana is told of it; its queries are asked in test_prometheus.py."""

from __future__ import annotations

import json
from itertools import combinations

import yaml

from tests.infra.manifests import INFRA

GRAFANA = INFRA / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "outerloop.json").read_text())
SHOWN = (
    "inner_steps", "env_steps", "outer_steps", "tasks_in_flight", "staleness", "retries",
    "dropped_tasks", "workers",
)  # fmt: skip


def overlap(one, other):
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_panels_lie_beside_each_other_and_say_what_they_are():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not [pair for pair in combinations(places, 2) if overlap(*pair)]
    for panel in panels:
        assert panel["type"] == "row" or panel["description"], panel["title"]


def test_panels_ask_the_data_source_that_is_chosen():
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "run"}
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            names = [target["refId"] for target in panel["targets"]]
            assert len(set(names)) == len(names) > 0


def test_every_metric_of_a_run_is_shown():
    text = json.dumps(DASHBOARD)
    for name in SHOWN:
        assert f"ray_outerloop_{name}" in text


def test_what_grafana_is_given_is_where_compose_puts_it():
    compose = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    told = GRAFANA / "provisioning"
    assert mounts["../grafana/provisioning"] == "/etc/grafana/provisioning"
    [source] = yaml.safe_load((told / "datasources" / "prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((told / "dashboards" / "outerloop.yaml").read_text())["providers"]
    assert provider["options"]["path"] == mounts["../grafana/dashboards"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose
