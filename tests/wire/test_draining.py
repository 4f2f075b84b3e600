"""The end of a server: SIGTERM is announced, calls under way are finished, and the process ends in order."""

import json
import pathlib
import re
import subprocess
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests import server
from tests.wire.inference import infer

PATIENCE = 120  # Seconds; a bound on what must happen at all, not on how soon.


@pytest.fixture
def process(tmp_path):
    file = pathlib.Path(tmp_path, "ports.json")
    started = subprocess.Popen(
        [server.binary(), "serve", "--port=0", "--metrics-port=0", f"--port-file={file}"],
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + PATIENCE
    while not file.exists():
        assert started.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    yield started, json.loads(file.read_text())
    if started.poll() is None:
        started.kill()
        started.wait()


def calls_taken(metrics_port):
    """Inferences that the server's queue holds or its worker runs."""
    page = urllib.request.urlopen(f"http://localhost:{metrics_port}/metrics", timeout=PATIENCE).read().decode()
    return sum(
        float(value)
        for name, value in re.findall(r"^(attnd_queue_requests|attnd_running_calls)(?:{.*})? (\S+)$", page, re.MULTILINE)
    )


def test_sigterm(process):
    started, ports = process
    address = f"localhost:{ports['grpc']}"
    # float64 runs the definition, which takes its time; unlike scales keep the calls apart.
    x = np.random.default_rng(0).standard_normal((1, 2000, 4, 32))
    count = 12
    outcomes = {}
    with grpc.insecure_channel(address) as channel, tritonclient.grpc.InferenceServerClient(address) as client:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING

        def call(index):
            try:
                outputs = infer(client, "softmax_attention", {name: x for name in "qkv"}, {"scale": 0.1 + index})
                outcomes[index] = outputs["o"].shape
            except InferenceServerException as error:
                outcomes[index] = error.status()

        callers = [threading.Thread(target=call, args=(index,)) for index in range(count)]
        for caller in callers:
            caller.start()
        # Until several are in the server's hands at the same moment.
        limit = time.monotonic() + PATIENCE
        while (taken := calls_taken(ports["metrics"])) < 3:
            assert time.monotonic() < limit and len(outcomes) < count - 3, "the calls end too soon: this tests nothing"
        ended = len(outcomes)
        started.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for caller in callers:
            caller.join(PATIENCE)
    assert started.wait(PATIENCE) == 0
    # What had been taken is answered; what came later is told to go elsewhere; nothing is lost.
    assert sorted(outcomes) == list(range(count))
    ends = list(outcomes.values())
    assert set(ends) <= {x.shape, "StatusCode.UNAVAILABLE"}
    assert ends.count(x.shape) >= max(ended, taken)
