"""What `kubectl kustomize deploy/base` renders is valid Kubernetes, and keeps its promises of safety."""

import pathlib
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKLOADS = ("Deployment", "StatefulSet")


@pytest.fixture(scope="module")
def manifests():
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl is missing: install the packages of deploy/packages-test.txt"
    rendered = subprocess.run(
        [kubectl, "kustomize", str(ROOT / "deploy/base")], check=True, capture_output=True, text=True
    ).stdout
    return [manifest for manifest in yaml.safe_load_all(rendered) if manifest]


def of_kind(manifests, *kinds):
    found = [manifest for manifest in manifests if manifest["kind"] in kinds]
    assert found, f"nothing of kind {kinds}"
    return found


def test_every_manifest_is_valid(manifests):
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.27", strict=True)


def test_the_parts_are_there(manifests):
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    assert {
        ("Deployment", "attnd-router"),
        ("StatefulSet", "attnd-worker"),
        ("Service", "attnd"),
        ("Service", "attnd-worker"),
        ("ConfigMap", "attnd"),
    } <= names


def test_containers_are_locked_down(manifests):
    for workload in of_kind(manifests, *WORKLOADS):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
            assert context["capabilities"]["drop"] == ["ALL"]


def test_probes_ask_the_health_service(manifests):
    for workload in of_kind(manifests, *WORKLOADS):
        for container in workload["spec"]["template"]["spec"]["containers"]:
            assert container["readinessProbe"]["grpc"]["port"] == 8001
            assert container["livenessProbe"] and container["startupProbe"]


def test_services_select_pods_that_exist(manifests):
    labels = [w["spec"]["template"]["metadata"]["labels"] for w in of_kind(manifests, *WORKLOADS)]
    for service in of_kind(manifests, "Service"):
        selector = service["spec"]["selector"].items()
        assert any(selector <= pod.items() for pod in labels), service["metadata"]["name"]


def test_settings_are_flags_of_the_program(manifests, attnd_help):
    for config in of_kind(manifests, "ConfigMap"):
        for name in yaml.safe_load(config["data"]["attnd.yaml"]):
            assert f"--{name}" in attnd_help


@pytest.fixture(scope="module")
def attnd_help():
    from tests import server

    return subprocess.run([server.binary(), "--help"], check=True, capture_output=True, text=True).stdout
