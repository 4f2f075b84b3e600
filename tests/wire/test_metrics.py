"""The page of metrics after calls of every kind: that Prometheus can read it, and that its labels stay few."""

import collections
import re
import time
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests import server
from tests.wire.inference import infer

SAMPLE = re.compile(r'^([a-z_:][a-z0-9_:]*)(?:{(.*)})? (\S+)$')
LABELS = {"cause", "code", "dtype", "from", "from_tier", "kernel", "kind", "le", "method", "mode", "op", "priority",
          "reason", "result", "stage", "state", "tier", "to", "version", "worker"}


@pytest.fixture
def ports(tmp_path):
    with server.spawned(tmp_path, "serve", "--device=cpu") as (_, ports):
        yield ports


def scrape(ports):
    """{name: {labels: value}}, with the types that are announced."""
    page = urllib.request.urlopen(f"http://localhost:{ports['metrics']}/metrics", timeout=60).read().decode()
    samples, types = collections.defaultdict(dict), {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in types, f"{name} is announced twice"
            types[name] = kind
        elif not line.startswith("#"):
            name, labels, value = SAMPLE.match(line).groups()
            labels = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")))
            assert labels not in samples[name], f"{line}: a second time"
            samples[name][labels] = float(value)
    return samples, types


def family(name, types):
    return next(n for n in (name, re.sub("_(bucket|sum|count)$", "", name)) if n in types)


def use(ports):
    random = np.random.default_rng(3)
    x = random.standard_normal((1, 8, 2, 4), dtype=np.float32)
    inputs = {name: x for name in "qkv"}
    with tritonclient.grpc.InferenceServerClient(f"localhost:{ports['grpc']}") as client:
        for _ in range(20):
            infer(client, "softmax_attention", inputs)
        infer(client, "gla", inputs | {"g": -np.ones((1, 8, 2), np.float32)}, sequence_id=1, sequence_start=True)
        for call in (
            lambda: infer(client, "softmax_attention", inputs, {"scale": "wide"}),
            lambda: infer(client, "nonsense", inputs),
            client.get_system_shared_memory_status,
        ):
            with pytest.raises(InferenceServerException):
                call()
    with grpc.insecure_channel(f"localhost:{ports['grpc']}") as channel:
        for n in range(30):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(f"/no.Service{n}/Method{n}")(b"")


def test_the_page_is_sound(ports):
    use(ports)
    samples, types = scrape(ports)
    for name, values in samples.items():
        kind = types[family(name, types)]
        assert re.match("(attnd|process)_", name), name
        assert name.endswith("_total") == (kind == "counter"), f"{name} is a {kind}"
        for labels in values:
            assert {key for key, _ in labels} <= LABELS, f"{name}{labels}"
    for name, kind in types.items():
        if kind != "histogram":
            continue
        for labels, count in samples[name + "_count"].items():
            buckets = sorted(
                (float(dict(key)["le"]), value)
                for key, value in samples[name + "_bucket"].items()
                if tuple(entry for entry in key if entry[0] != "le") == labels
            )
            values = [value for _, value in buckets]
            assert values == sorted(values) and values[-1] == count and buckets[-1][0] == float("inf"), (name, labels)
            assert (samples[name + "_sum"][labels] > 0) == (count > 0), (name, labels)


def test_calls_move_it(ports):
    before, _ = scrape(ports)
    use(ports)
    time.sleep(0.5)  # A call is counted when it is over, which may be after its answer.
    after, _ = scrape(ports)

    def moved(name, **labels):
        def total(samples):
            return sum(v for key, v in samples[name].items() if labels.items() <= dict(key).items())

        return total(after) - total(before)

    infer_method = "inference.GRPCInferenceService/ModelInfer"
    assert moved("attnd_rpc_requests_total", method=infer_method, code="OK") == 21
    assert moved("attnd_rpc_requests_total", method=infer_method, code="INVALID_ARGUMENT") == 1
    assert moved("attnd_rpc_requests_total", method=infer_method, code="NOT_FOUND") == 1
    assert moved("attnd_rpc_duration_seconds_count", method=infer_method) == 23
    assert moved("attnd_op_evaluations_total", op="softmax_attention", code="OK") == 20
    assert moved("attnd_op_compute_seconds_count", op="softmax_attention") > 0
    assert moved("attnd_batch_size_sum", op="softmax_attention") == 20
    assert moved("attnd_queue_wait_seconds_count") == 21
    assert moved("attnd_rpc_rejected_total", cause="invalid") == 2
    assert moved("attnd_rpc_received_bytes_total") > 21 * 3 * 256
    assert moved("attnd_rpc_sent_bytes_total") > 21 * 256
    assert moved("attnd_sequences") == 1 and moved("attnd_sequence_bytes") == 2 * 4 * 4 * 4
    # Whatever names clients make up.
    assert moved("attnd_rpc_requests_total", method="unknown", code="UNIMPLEMENTED") == 30
    assert not [key for key in after["attnd_rpc_requests_total"] if "no.Service" in dict(key)["method"]]
