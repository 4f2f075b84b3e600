"""A server of the test's own. ATTND_BINARY names the program, build/bin/attnd unless it is set; a missing program is an
error, never a skipped test. With ATTND_TEST_ADDRESS the tests use a server that runs already."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent


def binary() -> pathlib.Path:
    path = pathlib.Path(os.environ.get("ATTND_BINARY", ROOT / "build/bin/attnd"))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such program; build it, or name it by ATTND_BINARY")
    return path


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds} seconds"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, for programs that must be told theirs."""
    with contextlib.ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in opened:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in opened]


@contextlib.contextmanager
def spawned(folder: pathlib.Path, mode: str, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, int]]]:
    """A process `attnd <mode>` on free ports, once it listens, and these ("grpc", "metrics"); its log is `folder`/log.
    Killed at the end if it is still there."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = folder / "ports.json"
    log = folder / "log"
    free = [] if any(option.startswith("--port=") for option in options) else ["--port=0"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [binary(), mode, *free, "--metrics-port=0", f"--port-file={ports}", *options], stderr=stderr
        )
    try:
        limit = time.monotonic() + 60
        while not ports.exists():
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.02)
        yield process, json.loads(ports.read_text())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def started(mode: str, *options: str) -> Iterator[dict[str, int]]:
    """Starts `attnd <mode>` on free ports; gives them ("grpc", "metrics") and its "pid"; stops it by SIGTERM and checks
    that it ends in order."""
    with tempfile.TemporaryDirectory() as folder, spawned(pathlib.Path(folder), mode, *options) as (process, ports):
        yield ports
        process.terminate()
        assert process.wait(60) == 0, pathlib.Path(folder, "log").read_text()


@contextlib.contextmanager
def running(*options: str) -> Iterator[str]:
    """"localhost:port" of an `attnd serve` of the test's own, or of the server that ATTND_TEST_ADDRESS names."""
    address = os.environ.get("ATTND_TEST_ADDRESS")
    if address:
        yield address
        return
    with started("serve", *options) as ports:
        yield f"localhost:{ports['grpc']}"
