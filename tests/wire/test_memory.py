"""What clients can make a server hold: answers that nobody reads count in --memory-limit, and end there."""

import pathlib
import re
import urllib.request

import attnd
import grpc
import numpy as np
from attnd import _calls
from attnd.v1 import operators_pb2_grpc

from tests import server

MIB = 1 << 20
READERS = 24
PATIENCE = 120  # Seconds; a bound on what must happen at all, not on how soon.


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def sample(metrics_port, name):
    page = urllib.request.urlopen(f"http://localhost:{metrics_port}/metrics", timeout=PATIENCE).read().decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)[1])


def large_answer():
    """A call of 1 MiB whose answer has 128, more than connections have room for: every query attends to one key."""
    random = np.random.default_rng(0)
    q = random.standard_normal((1, 65536, 1, 4), dtype=np.float32)
    k = random.standard_normal((1, 1, 1, 4), dtype=np.float32)
    v = random.standard_normal((1, 1, 1, 512), dtype=np.float32)
    return _calls.Evaluation("softmax_attention", {"q": q, "k": k, "v": v}, {}, "")


def test_answers_that_nobody_reads_are_bounded():
    limit = 512 * MIB
    with server.started("serve", "--device=cpu", f"--memory-limit={limit}") as ports:
        address = f"localhost:{ports['grpc']}"
        before = resident(ports["pid"])
        with grpc.insecure_channel(address) as channel:
            stub = operators_pb2_grpc.OperatorsStub(channel)
            # The first message of each is read, the rest is not.
            slow, refused = [], []
            for _ in range(READERS):
                stream = stub.EvaluateStream(large_answer().chunks(), timeout=PATIENCE)
                try:
                    next(stream)
                    slow.append(stream)
                except grpc.RpcError as error:
                    refused.append(error)
            assert 1 <= len(slow) <= limit // (128 * MIB)
            for error in refused:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "--memory-limit" in error.details()
            assert sample(ports["metrics"], "attnd_answer_bytes") == len(slow) * 128 * MIB
            assert resident(ports["pid"]) - before < 2 * limit
            for stream in slow:
                stream.cancel()
        server.wait_until(lambda: sample(ports["metrics"], "attnd_answer_bytes") == 0)
        with attnd.Client(address) as client:
            ones = np.ones((1, 64, 1, 4), dtype=np.float32)
            assert client.softmax_attention(ones, ones, ones).o.shape == ones.shape
