"""What `kubectl kustomize deploy/base` renders is valid Kubernetes, fits the program and the image, and keeps its promises
of safety."""

import pathlib
import re
import shutil
import subprocess

import grpc
import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests import server

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


def named(manifests, kind, name):
    (found,) = [m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name]
    return found


def pod_of(workload):
    return workload["spec"]["template"]["spec"]


def container_of(workload):
    (container,) = pod_of(workload)["containers"]
    return container


@pytest.fixture(scope="module")
def router(manifests):
    return named(manifests, "Deployment", "attnd-router")


@pytest.fixture(scope="module")
def worker(manifests):
    return named(manifests, "StatefulSet", "attnd-worker")


@pytest.fixture(params=WORKLOADS)
def workload(manifests, request):
    (found,) = of_kind(manifests, request.param)
    return found


@pytest.fixture(scope="module")
def settings(manifests):
    (config,) = of_kind(manifests, "ConfigMap")
    return yaml.safe_load(config["data"]["attnd.yaml"])


def flags(workload):
    """{flag: value} of the container's arguments."""
    return dict(argument.split("=", 1) for argument in container_of(workload)["args"][1:])


def size(text):
    """Bytes of "8Gi" or "8GiB"."""
    number, unit = re.fullmatch(r"(\d+)([KMGT]?)(?:iB?)?", str(text)).groups()
    return int(number) << 10 * " KMGT".index(unit or " ")


def test_every_manifest_is_valid(manifests):
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.27", strict=True)


def test_namespace_admits_nothing_but_locked_down_pods(manifests):
    (namespace,) = of_kind(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in manifests:
        if manifest is not namespace:
            assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"]


def test_containers_are_locked_down(workload):
    pod = pod_of(workload)
    assert pod["automountServiceAccountToken"] is False
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    # The image's own user, so that its files are readable and nothing is anybody else's.
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "deploy/Containerfile").read_text(), re.MULTILINE)
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user
    context = container_of(workload)["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_resources_are_asked_for_and_bounded(workload):
    resources = container_of(workload)["resources"]
    assert resources["requests"]["cpu"] and size(resources["requests"]["memory"])
    assert size(resources["limits"]["memory"]) >= size(resources["requests"]["memory"])


def test_ports_are_those_of_the_program(workload, attnd_help):
    ports = {port["name"]: port["containerPort"] for port in container_of(workload)["ports"]}
    for name, flag in (("grpc", "--port"), ("metrics", "--metrics-port")):
        assert re.search(rf"{flag} INT[^\n]*={ports[name]} ", attnd_help), attnd_help


def test_probes_ask_the_health_service(workload):
    """Readiness: whether calls are taken. The others: whether the process lives, whatever it can do now."""
    container = container_of(workload)
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    port = next(port["containerPort"] for port in container["ports"] if port["name"] == "grpc")
    assert probes["readiness"]["grpc"] == {"port": port}
    for name in ("startup", "liveness"):
        assert probes[name]["grpc"] == {"port": port, "service": "live"}
    assert probes["startup"]["failureThreshold"] * probes["startup"]["periodSeconds"] >= 60


def test_a_router_without_a_worker_lives_but_is_not_ready():
    """What the probes rest on."""
    with server.started("router", "--workers=localhost:1") as ports:
        with grpc.insecure_channel(f"localhost:{ports['grpc']}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answers = {
                service: health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status
                for service in ("live", "")
            }
    assert answers == {
        "live": health_pb2.HealthCheckResponse.SERVING,
        "": health_pb2.HealthCheckResponse.NOT_SERVING,
    }


def test_services_lead_to_ports_of_pods(manifests):
    workloads = of_kind(manifests, *WORKLOADS)
    for service in of_kind(manifests, "Service"):
        selector = service["spec"]["selector"].items()
        (workload,) = [w for w in workloads if selector <= w["spec"]["template"]["metadata"]["labels"].items()]
        names = {port["name"]: port["containerPort"] for port in container_of(workload)["ports"]}
        for port in service["spec"]["ports"]:
            assert port["port"] == names[port["targetPort"]], service["metadata"]["name"]


def test_the_router_knows_every_worker_by_its_stable_name(manifests, router, worker):
    service = named(manifests, "Service", worker["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None", "only a headless service has names of pods"
    assert service["spec"]["publishNotReadyAddresses"] is True, "the router watches workers itself"
    assert container_of(router)["args"][0] == "router" and container_of(worker)["args"][0] == "worker"
    (port,) = [port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc"]
    name, of = worker["metadata"]["name"], service["metadata"]["name"]
    expected = [f"{name}-{i}.{of}:{port}" for i in range(worker["spec"]["replicas"])]
    assert flags(router)["--workers"].split(",") == expected


def test_the_configuration_is_what_the_programs_read(manifests, workload):
    (config,) = of_kind(manifests, "ConfigMap")
    file = pathlib.Path(flags(workload)["--config"])
    (mount,) = [m for m in container_of(workload)["volumeMounts"] if pathlib.Path(m["mountPath"]) == file.parent]
    (volume,) = [v for v in pod_of(workload)["volumes"] if v["name"] == mount["name"]]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert file.name in config["data"]
    # A change of it changes the pods.
    assert re.fullmatch(r"attnd-[a-z0-9]{10}", config["metadata"]["name"])


def test_the_programs_take_the_configuration(manifests, settings, tmp_path):
    (config,) = of_kind(manifests, "ConfigMap")
    file = tmp_path / "attnd.yaml"
    file.write_text(config["data"]["attnd.yaml"])
    with server.started("serve", f"--config={file}"):
        pass
    # A setting that the program does not know would have been refused.
    file.write_text("no-such-setting: 1\n")
    with pytest.raises(RuntimeError, match="no-such-setting"), server.started("serve", f"--config={file}"):
        pass


def test_pods_end_only_after_they_have_drained(workload, settings):
    grace = pod_of(workload)["terminationGracePeriodSeconds"]
    assert settings["drain-notice-ms"] >= 5000, "DNS takes its time"
    assert settings["drain-seconds"] > settings["drain-notice-ms"] / 1000, "the notice is part of it"
    assert grace >= settings["drain-seconds"] + 10


def test_clients_cannot_make_a_pod_exceed_its_memory(router, worker, settings):
    held = sum(size(settings[f"{what}-bytes"]) for what in ("max-buffer", "queue")) + size(settings["memory-limit"])
    launch = settings["worker-streams"] * (size(settings["max-call-bytes"]) + size(settings["max-batch-bytes"]))

    def limit(workload):
        return size(container_of(workload)["resources"]["limits"]["memory"])

    assert held + size(settings["max-sequence-bytes"]) + launch * worker["spec"]["replicas"] < limit(router)
    assert held + launch * router["spec"]["replicas"] < limit(worker)


def test_every_mount_is_there_and_the_worker_writes_to_its_volume(workload, worker):
    claims = {claim["metadata"]["name"]: claim for claim in workload["spec"].get("volumeClaimTemplates", [])}
    volumes = {volume["name"] for volume in pod_of(workload)["volumes"]} | claims.keys()
    mounts = {mount["name"]: mount for mount in container_of(workload)["volumeMounts"]}
    assert mounts.keys() == volumes
    if workload is not worker:
        return
    ((name, claim),) = claims.items()
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"] and size(claim["spec"]["resources"]["requests"]["storage"])
    assert not mounts[name].get("readOnly")
    assert pod_of(worker)["securityContext"]["fsGroup"] == pod_of(worker)["securityContext"]["runAsGroup"]
    assert pathlib.Path(flags(worker)["--port-file"]).parent == pathlib.Path(mounts[name]["mountPath"])


@pytest.fixture(scope="module")
def attnd_help():
    return subprocess.run([server.binary(), "--help"], check=True, capture_output=True, text=True).stdout
