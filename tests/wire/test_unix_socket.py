"""Servers on a Unix socket: clients on the same machine, and a router whose worker is there."""

import contextlib
import os
import pathlib
import re
import signal
import tempfile
import threading
import time
import urllib.error
import urllib.request

import attnd
import grpc
import numpy as np
import pytest

from tests import server

PATIENCE = 120  # Seconds; a bound on what must happen at all, not on how soon.


@pytest.fixture
def start(tmp_path):
    """start(mode, *options): a process and its ports; all end with the test."""
    with contextlib.ExitStack() as processes:
        count = 0

        def start(mode, *options):
            nonlocal count
            count += 1
            return processes.enter_context(server.spawned(tmp_path / f"{mode}{count}", mode, *options))

        yield start


@pytest.fixture
def socket():
    # The kernel takes 107 bytes, and tmp_path may be longer.
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder, "attnd.sock")


def await_ready(ports, expected=True):
    def ready():
        try:
            return urllib.request.urlopen(f"http://localhost:{ports['metrics']}/readyz", timeout=PATIENCE).status == 200
        except urllib.error.HTTPError as error:
            assert error.code == 503
            return False

    limit = time.monotonic() + PATIENCE
    while ready() != expected:
        assert time.monotonic() < limit
        time.sleep(0.02)


def launches(ports):
    """How many the router's workers have in their hands."""
    page = urllib.request.urlopen(f"http://localhost:{ports['metrics']}/metrics", timeout=PATIENCE).read().decode()
    return sum(float(count) for count in re.findall(r"^attnd_worker_launches{.*} (\S+)$", page, re.MULTILINE))


def images(tokens):
    return np.random.default_rng(0).standard_normal((1, tokens, 512), dtype=np.float32)


WEIGHT = np.ones((512, 1), np.float32)
# One frame between router and worker, and many.
SIZES = [16, 1 << 14]


def test_clients_and_ports_side_by_side(start, socket):
    process, ports = start("serve", "--device=cpu", f"--socket={socket}")
    for address in (f"unix:{socket}", f"localhost:{ports['grpc']}"):
        with attnd.Client(address, timeout=PATIENCE) as client:
            for tokens in SIZES:
                x = images(tokens)
                np.testing.assert_array_equal(client.short_conv(x, WEIGHT, activation="none").o, x)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert not socket.exists()


def test_a_socket_in_use_is_refused(start, socket):
    start("worker", "--device=cpu", f"--socket={socket}")
    with pytest.raises(RuntimeError, match="attnd.sock"):
        start("worker", "--device=cpu", f"--socket={socket}")


@pytest.mark.parametrize("tokens", SIZES)
def test_a_worker_dies_under_load_and_comes_back(start, socket, tokens):
    worker, _ = start("worker", "--device=cpu", f"--socket={socket}")
    _, router = start("router", f"--workers=unix:{socket}")
    await_ready(router)
    x = images(tokens)
    answered, failed, slowest = 0, [], 0.0
    end = threading.Event()

    def call():
        nonlocal answered, slowest
        begin = time.monotonic()
        try:
            np.testing.assert_array_equal(client.short_conv(x, WEIGHT, activation="none").o, x)
            answered += 1
        except attnd.Error as error:
            failed.append(error)
            slowest = max(slowest, time.monotonic() - begin)

    def call_on():
        while not end.is_set():
            call()

    with attnd.Client(f"localhost:{router['grpc']}", timeout=PATIENCE, retry=attnd.Retry(attempts=1)) as client:
        for _ in range(5):
            call()
        assert answered == 5
        # Whatever is called now is in the hands of a worker that stands still when it dies.
        worker.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED)
        caller = threading.Thread(target=call_on)
        caller.start()
        try:
            server.wait_until(lambda: launches(router) > 0, PATIENCE)
            worker.kill()
            await_ready(router, False)
            start("worker", "--device=cpu", f"--socket={socket}")
            await_ready(router)
            server.wait_until(lambda: answered >= 10, PATIENCE)
        finally:
            end.set()
            caller.join(PATIENCE)
    assert failed and {error.code for error in failed} == {grpc.StatusCode.UNAVAILABLE}
    assert slowest < 10
