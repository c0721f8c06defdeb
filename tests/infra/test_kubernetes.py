"""The manifests as `kubectl kustomize` gives them, against the schemas of what reads them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from jobs import catalog
from tests.infra.manifests import INFRA, checked, kustomized, tool

FOLDERS = ("base", "cluster", "job")
KUBERAY = json.loads((Path(__file__).parent / "kuberay_schema.json").read_text())
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|STORE_URI")


@pytest.fixture(scope="module")
def objects():
    return {folder: kustomized(INFRA / "kubernetes" / folder) for folder in FOLDERS}


def everything(objects):
    return [thing for folder in FOLDERS for thing in objects[folder]]


def of_kind(objects, *kinds):
    return [thing for thing in everything(objects) if thing["kind"] in kinds]


def pod_templates(thing):
    """The pod templates within an object, wherever they are."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            if key in ("template", "submitterPodTemplate"):
                yield value
            else:
                yield from pod_templates(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from pod_templates(value)


def containers(objects):
    return [
        (template["spec"], container)
        for template in pod_templates(everything(objects))
        for container in template["spec"]["containers"]
    ]


def test_kubernetes_knows_every_object_and_every_field(objects):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    version = kubernetes_validate.latest_version()
    own = [thing for thing in everything(objects) if thing["apiVersion"] != "ray.io/v1"]
    assert len(own) > 10
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | template
        for template in pod_templates(of_kind(objects, "RayCluster", "RayJob"))
    ]
    assert len(pods) == 7  # three of a cluster, in a job too, and the job's submitter
    for thing in own + pods:
        kubernetes_validate.validate(thing, version, strict=True)


def test_kuberay_knows_every_field(objects):
    ours = of_kind(objects, "RayCluster", "RayJob")
    assert [thing["kind"] for thing in ours] == ["RayCluster", "RayJob"]
    for thing in ours:
        jsonschema.validate(thing, KUBERAY)


def test_a_job_has_the_cluster_that_stays_and_does_not_make_it(objects):
    [cluster], [job] = of_kind(objects, "RayCluster"), of_kind(objects, "RayJob")
    assert [thing["kind"] for thing in objects["job"]] == ["RayJob"]
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_rays_autoscaler_finds_cpu_and_gpu_nodes(objects):
    from ray.autoscaler._private.kuberay import autoscaling_config

    [cluster] = of_kind(objects, "RayCluster")
    found = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    kinds = found["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    assert kinds["cpu"]["resources"]["CPU"] == 8
    assert kinds["gpu-preemptible"]["resources"]["GPU"] == 1
    assert kinds["gpu-preemptible"]["labels"] == {"ray.io/market-type": "spot"}
    assert found["idle_timeout_minutes"] == 5


def test_pods_run_as_somebody_and_ask_for_what_they_need(objects):
    found = containers(objects)
    assert len(found) == 9
    for pod, container in found:
        name = container["name"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
        assert "memory" in container["resources"]["limits"], name
        assert not container["image"].endswith(":latest"), name
        assert ":" in container["image"], name


def test_what_serves_is_probed(objects):
    for thing in of_kind(objects, "Deployment", "StatefulSet"):
        [container] = thing["spec"]["template"]["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


def test_secrets_are_named_and_never_written(objects):
    assert not of_kind(objects, "Secret")
    named = set()
    for _, container in containers(objects):
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                named.add(variable["valueFrom"]["secretKeyRef"]["name"])
            else:
                assert not SECRET.search(variable["name"]), variable
    assert named == {"mlflow-db"}
    assert "create secret generic mlflow-db" in (INFRA / "README.md").read_text()


def test_claims_and_accounts_that_pods_name_are_there(objects):
    claims = {thing["metadata"]["name"] for thing in of_kind(objects, "PersistentVolumeClaim")}
    accounts = {thing["metadata"]["name"] for thing in of_kind(objects, "ServiceAccount")}
    for pod, _ in containers(objects):
        assert pod["serviceAccountName"] in accounts
        for volume in pod.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims


def test_gpu_workers_go_to_machines_that_may_be_taken_away(objects):
    [cluster] = of_kind(objects, "RayCluster")
    [group] = [g for g in cluster["spec"]["workerGroupSpecs"] if "gpu" in g["groupName"]]
    pod = group["template"]["spec"]
    rule = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    wanted = {e["key"] for t in rule["nodeSelectorTerms"] for e in t["matchExpressions"]}
    assert "cloud.google.com/gke-spot" in wanted
    assert {t["key"] for t in pod["tolerations"]} - wanted == {"nvidia.com/gpu"}
    assert pod["containers"][0]["image"].endswith("-cuda")


def matches(selector, labels):
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "Exists"
        if rule["key"] not in labels:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def may_enter(objects, who, whom, port, namespace="outerloop"):
    """Whether a pod with labels `who` in `namespace` reaches one of ours: any policy allows it."""
    policies = [p["spec"] for p in of_kind(objects, "NetworkPolicy")]
    chosen = [p for p in policies if matches(p["podSelector"], whom)]
    assert chosen, "no policy: everybody may"
    for rule in (rule for policy in chosen for rule in policy.get("ingress", [])):
        ports = [entry["port"] for entry in rule.get("ports", [])]
        for peer in rule["from"]:
            if "namespaceSelector" in peer:
                spaces = {"kubernetes.io/metadata.name": namespace}
                is_there = matches(peer["namespaceSelector"], spaces)
            else:
                is_there = namespace == "outerloop"
            if is_there and matches(peer.get("podSelector", {}), who) and port in (ports or [port]):
                return True
    return False


RAY = {"ray.io/cluster": "outerloop", "ray.io/node-type": "worker"}
HEAD = RAY | {"ray.io/node-type": "head"}
MLFLOW, DATABASE = ({"app.kubernetes.io/name": name} for name in ("mlflow", "mlflow-db"))
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}


def test_network_policies_let_in_who_is_needed(objects):
    assert may_enter(objects, RAY, HEAD, 6379)
    assert may_enter(objects, HEAD, RAY, 34567)
    assert may_enter(objects, RAY, MLFLOW, 5000)
    assert may_enter(objects, MLFLOW, DATABASE, 5432)
    assert may_enter(objects, OPERATOR, HEAD, 8265, namespace="kuberay")
    assert may_enter(objects, {}, RAY, 8080, namespace="monitoring")
    [job] = of_kind(objects, "RayJob")
    submitter = job["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert may_enter(objects, submitter, HEAD, 8265)


def test_network_policies_let_in_nobody_else(objects):
    assert not may_enter(objects, RAY, DATABASE, 5432)
    assert not may_enter(objects, {}, MLFLOW, 5000)
    assert not may_enter(objects, RAY, MLFLOW, 5000, namespace="another")
    assert not may_enter(objects, RAY, HEAD, 6379, namespace="another")
    assert not may_enter(objects, {}, HEAD, 8265)
    assert not may_enter(objects, {}, RAY, 6379, namespace="monitoring")


def test_the_job_is_a_run_that_can_be_begun_again(objects):
    [job] = of_kind(objects, "RayJob")
    python, dash_m, module, retries, *words = shlex.split(job["spec"]["entrypoint"])
    assert (python, dash_m, module) == ("python", "-m", "jobs.cluster.entry")
    assert int(retries) > 0
    at = words.index("--run-id")
    assert words[at + 1] == job["metadata"]["name"]
    experiment = catalog.load(words[0], [*words[1:at], *words[at + 2 :]])
    assert experiment.workers.address == "auto"
    assert experiment.workers.wait_for_nodes_s > 0


def test_an_overlay_names_other_images(objects, tmp_path):
    overlay = {
        "resources": ["../job"],
        "images": [{"name": "outerloop", "newName": "registry.example/outerloop"}],
    }
    (tmp_path / "job").symlink_to(INFRA / "kubernetes" / "job")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    said = checked(tool("kubectl"), "kustomize", str(folder))
    images = set(re.findall(r"image: (\S+)", said))
    assert images == {f"registry.example/outerloop:0.1.0-{kind}" for kind in ("cpu", "cuda")}
