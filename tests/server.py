"""A server of the test's own. ATTND_BINARY names the program, build/bin/attnd unless it is set; a missing program is an
error, never a skipped test. With ATTND_TEST_ADDRESS the tests use a server that runs already."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent


def binary() -> pathlib.Path:
    path = pathlib.Path(os.environ.get("ATTND_BINARY", ROOT / "build/bin/attnd"))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such program; build it, or name it by ATTND_BINARY")
    return path


@contextlib.contextmanager
def running(*options: str) -> Iterator[str]:
    """Starts `attnd serve`; gives "localhost:port"; stops it by SIGTERM and checks that it ends in order."""
    address = os.environ.get("ATTND_TEST_ADDRESS")
    if address:
        yield address
        return
    with tempfile.TemporaryDirectory() as folder:
        ports = pathlib.Path(folder, "ports.json")
        log = pathlib.Path(folder, "log")
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [binary(), "serve", "--port=0", "--metrics-port=0", f"--port-file={ports}", *options], stderr=stderr
            )
        try:
            limit = time.monotonic() + 60
            while not ports.exists():
                if process.poll() is not None or time.monotonic() > limit:
                    raise RuntimeError(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield f"localhost:{json.loads(ports.read_text())['grpc']}"
            process.terminate()
            assert process.wait(60) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
