"""The end of a server: SIGTERM is announced, calls under way are finished, and the process ends in order."""

import collections
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests import server
from tests.wire.inference import infer, tensor

PATIENCE = 120  # Seconds; a bound on what must happen at all, not on how soon.


@pytest.fixture
def process(tmp_path):
    with server.spawned(tmp_path, "serve", "--drain-seconds=240") as started:  # However slow the machine.
        yield started


def calls_taken(metrics_port):
    """Inferences that the server's queue holds or its worker runs."""
    page = urllib.request.urlopen(f"http://localhost:{metrics_port}/metrics", timeout=PATIENCE).read().decode()
    return sum(
        float(value)
        for name, value in re.findall(r"^(attnd_queue_requests|attnd_running_calls)(?:{.*})? (\S+)$", page, re.MULTILINE)
    )


def test_calls_that_come_to_the_last_moment_are_told_to_go_elsewhere(process):
    """Clients that never pause, each on a connection of its own: whatever moment a call meets, it is answered, or
    UNAVAILABLE, which clients repeat."""
    started, ports = process
    x = np.random.default_rng(0).standard_normal((1, 64, 2, 16), dtype=np.float32)
    gone = threading.Event()
    outcomes = collections.Counter()

    def call():
        with tritonclient.grpc.InferenceServerClient(f"localhost:{ports['grpc']}") as client:
            while not gone.is_set():
                try:
                    infer(client, "softmax_attention", {name: x for name in "qkv"})
                    outcomes["answered"] += 1
                except InferenceServerException as error:
                    outcomes[error.status()] += 1

    callers = [threading.Thread(target=call) for _ in range(16)]
    for caller in callers:
        caller.start()
    limit = time.monotonic() + PATIENCE
    while outcomes["answered"] < 100:
        assert time.monotonic() < limit
        time.sleep(0.01)
    started.terminate()
    assert started.wait(PATIENCE) == 0
    gone.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert set(outcomes) == {"answered", "StatusCode.UNAVAILABLE"}, outcomes


def test_not_ready_as_soon_as_it_is_announced(tmp_path):
    with server.spawned(tmp_path, "serve", "--drain-notice-ms=5000") as (process, ports):
        address = f"localhost:{ports['grpc']}"
        x = np.ones((1, 2, 1, 8), np.float32)
        with tritonclient.grpc.InferenceServerClient(address) as client:
            assert client.is_server_ready()
            process.terminate()
            limit = time.monotonic() + PATIENCE
            while client.is_server_ready():
                assert time.monotonic() < limit
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"http://localhost:{ports['metrics']}/readyz", timeout=PATIENCE)
            assert caught.value.code == 503
            assert not client.is_model_ready("gla")
            # And still answers.
            assert infer(client, "softmax_attention", {name: x for name in "qkv"})["o"].shape == x.shape
        assert process.wait(PATIENCE) == 0


def test_launches_longer_than_the_drain_do_not_hold_up_its_end(tmp_path, monkeypatch):
    """What runs cannot be stopped; the process can."""
    # It ends without joining its threads; ThreadSanitizer, where the server has it, is told.
    monkeypatch.setenv("TSAN_OPTIONS", f"{os.environ.get('TSAN_OPTIONS', '')}:report_thread_leaks=0")
    x = np.random.default_rng(0).standard_normal((1, 5000, 8, 64))
    with server.spawned(tmp_path, "serve", "--drain-seconds=0.5") as (process, ports):
        address = f"localhost:{ports['grpc']}"
        with tritonclient.grpc.InferenceServerClient(address) as client:
            outcome = queue.Queue()
            client.async_infer(
                "softmax_attention", [tensor(name, x) for name in "qkv"],
                callback=lambda result, error: outcome.put((time.monotonic(), error)),
            )
            limit = time.monotonic() + PATIENCE
            while calls_taken(ports["metrics"]) < 1:
                assert time.monotonic() < limit
            begin = time.monotonic()
            process.terminate()
            assert process.wait(PATIENCE) == 0
            end, error = outcome.get(timeout=PATIENCE)
            assert error is not None, "the call ended too soon: this tests nothing"
            assert error.status() == "StatusCode.UNAVAILABLE"
            # Far less than the launch takes: some ten seconds on the fastest machine.
            assert time.monotonic() - begin < 5


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
