"""The end of a server: SIGTERM is announced, calls under way are finished, and the process ends in order."""

import json
import pathlib
import queue
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests import server
from tests.wire.inference import infer


@pytest.fixture
def process(tmp_path):
    ports = pathlib.Path(tmp_path, "ports.json")
    started = subprocess.Popen(
        [server.binary(), "serve", "--port=0", "--metrics-port=-1", f"--port-file={ports}"],
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 60
    while not ports.exists():
        assert started.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    yield started, f"localhost:{json.loads(ports.read_text())['grpc']}"
    if started.poll() is None:
        started.kill()
        started.wait()


def test_sigterm(process):
    started, address = process
    x = np.random.default_rng(0).standard_normal((1, 1000, 4, 64))
    count = 12
    outcomes: queue.Queue = queue.Queue()
    with grpc.insecure_channel(address) as channel, tritonclient.grpc.InferenceServerClient(address) as client:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING

        def call(index):
            # float64 runs the definition, which takes its time; unlike scales keep the calls apart.
            try:
                outputs = infer(client, "softmax_attention", {name: x for name in "qkv"}, {"scale": 0.1 + index})
                outcomes.put(outputs["o"].shape)
            except InferenceServerException as error:
                outcomes.put(error.status())

        callers = [threading.Thread(target=call, args=(index,)) for index in range(count)]
        for caller in callers:
            caller.start()
        assert outcomes.get(timeout=60) == x.shape
        assert outcomes.qsize() < count - 2, "nearly all calls ended before the signal: it tests nothing"
        started.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for caller in callers:
            caller.join(60)
    assert started.wait(60) == 0
    # What had been taken is answered; what came later is told to go elsewhere; nothing is lost.
    ends = [outcomes.get_nowait() for _ in range(count - 1)]
    assert set(ends) <= {x.shape, "StatusCode.UNAVAILABLE"}
    assert ends.count(x.shape) >= 2
