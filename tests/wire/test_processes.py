"""A router and its workers as processes of their own: workers that come, go, stop, or are none."""

import collections
import contextlib
import json
import signal
import threading
import time
import urllib.error
import urllib.request

import attnd
import grpc
import numpy as np
import pytest
import tritonclient.grpc
from attnd import _calls
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests import server
from tests.wire.inference import infer

PATIENCE = 120  # Seconds; a bound on what must happen at all, not on how soon.
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def start(tmp_path):
    """start(mode, *options): a process and its ports; all end with the test."""
    with contextlib.ExitStack() as processes:
        count = 0

        def start(mode, *options):
            nonlocal count
            count += 1
            device = [] if mode == "router" else ["--device=cpu"]
            return processes.enter_context(server.spawned(tmp_path / f"{mode}{count}", mode, *device, *options))

        yield start


def workers(*all_ports):
    return "--workers=" + ",".join(f"localhost:{ports['grpc']}" for ports in all_ports)


def ready(ports):
    try:
        return urllib.request.urlopen(f"http://localhost:{ports['metrics']}/readyz", timeout=PATIENCE).status == 200
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return False


def await_ready(ports, expected=True):
    limit = time.monotonic() + PATIENCE
    while ready(ports) != expected:
        assert time.monotonic() < limit
        time.sleep(0.02)


def up(ports):
    """How many workers the router holds to be up."""
    page = urllib.request.urlopen(f"http://localhost:{ports['metrics']}/metrics", timeout=PATIENCE).read().decode()
    return sum(line.endswith(" 1") for line in page.splitlines() if line.startswith("attnd_worker_up{"))


def await_up(ports, count):
    limit = time.monotonic() + PATIENCE
    while up(ports) != count:
        assert time.monotonic() < limit
        time.sleep(0.02)


class Load:
    """Threads that call without a pause, each on a connection of its own, and count how their calls end."""

    def __init__(self, ports, threads=4):
        self.outcomes = collections.Counter()
        self._address = f"localhost:{ports['grpc']}"
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(threads)]

    def _call(self):
        x = np.random.default_rng(0).standard_normal((1, 64, 2, 16), dtype=np.float32)
        with tritonclient.grpc.InferenceServerClient(self._address) as client:
            while not self._end.is_set():
                try:
                    infer(client, "softmax_attention", {name: x for name in "qkv"})
                    self.outcomes["answered"] += 1
                except InferenceServerException as error:
                    self.outcomes[error.status()] += 1

    def await_answers(self, more=100):
        wanted = self.outcomes["answered"] + more
        limit = time.monotonic() + PATIENCE
        while self.outcomes["answered"] < wanted:
            assert time.monotonic() < limit, self.outcomes
            time.sleep(0.01)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def test_a_worker_that_dies_costs_what_it_had_and_no_more(start):
    (first, first_ports), (_, second_ports) = start("worker"), start("worker")
    _, router = start("router", workers(first_ports, second_ports))
    await_up(router, 2)
    with Load(router) as load:
        load.await_answers()
        first.kill()
        await_up(router, 1)
        load.await_answers()
        start("worker", f"--port={first_ports['grpc']}")  # Found by itself.
        await_up(router, 2)
        load.await_answers()
    assert set(load.outcomes) <= {"answered", "StatusCode.UNAVAILABLE"}
    # At most what was in its hands: two launches, of whatever shared them.
    assert load.outcomes["StatusCode.UNAVAILABLE"] <= 4


def test_a_worker_that_is_stopped_in_order_costs_nothing(start):
    (first, first_ports), (_, second_ports) = start("worker"), start("worker")
    _, router = start("router", workers(first_ports, second_ports))
    await_up(router, 2)
    with Load(router) as load:
        load.await_answers()
        first.terminate()
        assert first.wait(PATIENCE) == 0
        load.await_answers()
    assert set(load.outcomes) == {"answered"}


def test_a_worker_that_hangs_is_left_alone(start):
    (first, first_ports), (_, second_ports) = start("worker"), start("worker")
    _, router = start("router", workers(first_ports, second_ports))
    await_up(router, 2)
    with Load(router) as load:
        load.await_answers()
        first.send_signal(signal.SIGSTOP)
        await_up(router, 1)
        load.await_answers()
        first.send_signal(signal.SIGCONT)
        await_up(router, 2)
        load.await_answers()
    assert set(load.outcomes) <= {"answered", "StatusCode.UNAVAILABLE"}


def test_a_router_that_starts_first_waits_for_its_worker(start):
    worker, ports = start("worker")
    worker.terminate()
    assert worker.wait(PATIENCE) == 0
    _, router = start("router", workers(ports))
    assert not ready(router)
    x = np.ones((1, 2, 1, 8), np.float32)
    with grpc.insecure_channel(f"localhost:{router['grpc']}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert next(watch).status == NOT_SERVING
        with tritonclient.grpc.InferenceServerClient(f"localhost:{router['grpc']}") as client:
            assert client.is_server_live() and not client.is_server_ready()
            with pytest.raises(InferenceServerException) as caught:
                infer(client, "softmax_attention", {name: x for name in "qkv"})
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
            worker, _ = start("worker", f"--port={ports['grpc']}")
            assert next(watch).status == SERVING
            await_ready(router)
            assert infer(client, "softmax_attention", {name: x for name in "qkv"})["o"].shape == x.shape
            worker.kill()
            assert next(watch).status == NOT_SERVING


def total(ports, name):
    page = urllib.request.urlopen(f"http://localhost:{ports['metrics']}/metrics", timeout=PATIENCE).read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


def test_what_nobody_waits_for_ends_at_the_worker(start):
    _, worker = start("worker")
    _, router = start("router", workers(worker))
    await_ready(router)
    # The definition, token by token, for minutes; in float64 it has the only slot of its lane.
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((1, 1_000_000, 1, 2)) for _ in range(3))
    g = -np.abs(random.standard_normal(q.shape))
    with attnd.Client(f"localhost:{router['grpc']}") as client:
        with pytest.raises(attnd.DeadlineExceeded):
            client.gla(q, k, v, g, timeout=5)
        server.wait_until(lambda: total(worker, "attnd_launches_ended_early_total") == 1, PATIENCE)
        server.wait_until(lambda: total(router, "attnd_launches_ended_early_total") == 1, PATIENCE)
        few = client.gla(*(x[:, :10] for x in (q, k, v, g)), timeout=PATIENCE)
        assert few.kernel == "composed"


class Stranger(grpc.GenericRpcHandler):
    """What a worker of another build tells when a router attaches: its version, by hand, as nobody generates code for
    what is between router and worker."""

    def __init__(self):
        self.ended = threading.Event()

    def service(self, details):
        if details.method != "/attnd.v1.Worker/Attach":
            return None

        def attach(request, context):
            version = b"0.0.0-other"
            yield b"\x0a" + bytes([len(version)]) + version
            self.ended.wait(PATIENCE)

        return grpc.unary_stream_rpc_method_handler(attach)


def test_a_worker_of_another_build_is_refused(start, tmp_path):
    from concurrent import futures

    stranger = Stranger()
    other = grpc.server(futures.ThreadPoolExecutor(4), handlers=[stranger])
    port = other.add_insecure_port("localhost:0")
    other.start()
    try:
        _, right = start("worker")
        router, ports = start("router", f"{workers(right)},localhost:{port}")
        await_up(ports, 1)
        with Load(ports) as load:
            load.await_answers()
        assert set(load.outcomes) == {"answered"}
        assert up(ports) == 1
        router.terminate()
        assert router.wait(PATIENCE) == 0
    finally:
        stranger.ended.set()
        other.stop(None)
    told = [line for line in log(tmp_path / "router2/log") if line["message"] == "worker of another build"]
    assert told and told[0]["worker"] == f"localhost:{port}" and told[0]["version"] == "0.0.0-other"


def log(path):
    """The lines of a log: each is an event."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert list(line)[:3] == ["time", "level", "message"], line
        assert line["level"] in {"debug", "info", "warn", "error"}
    return lines


def test_a_taken_port_ends_the_process_with_a_reason(start, tmp_path):
    _, ports = start("worker")
    with pytest.raises(RuntimeError, match="is the port taken"):
        start("worker", f"--port={ports['grpc']}")
    # gRPC has something to say, too: as lines of the same log.
    assert log(tmp_path / "worker2/log")[-1]["level"] == "error"


def test_small_messages_carry_large_calls(start, monkeypatch):
    """Whatever the limit of a message, streams go through it, from the client and on to the worker."""
    limit = 64 << 10
    _, ports = start("worker", f"--max-message-bytes={limit}")
    _, router = start("router", workers(ports), f"--max-message-bytes={limit}")
    await_up(router, 1)
    x = np.random.default_rng(0).standard_normal((1, 1 << 16, 8), dtype=np.float32)  # 2 MiB.
    weight = np.array([[1.0]] * 8, np.float32)
    monkeypatch.setattr(_calls, "MAX_UNARY_BYTES", 0)
    monkeypatch.setattr(_calls, "CHUNK_BYTES", limit // 2)
    with attnd.Client(f"localhost:{router['grpc']}", timeout=PATIENCE) as client:
        np.testing.assert_array_equal(client.short_conv(x, weight, activation="none").o, x)
