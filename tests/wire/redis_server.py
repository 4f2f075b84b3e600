"""A redis-server of a test's own, that can be killed and started again on what it wrote."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import server
from tests.wire.session_server import PATIENCE

MISSING = "SKIPPED: redis-server is not installed, nothing of it is tested (deploy/packages-test.txt)"


def skip_without_redis():
    if shutil.which("redis-server") is None:
        print(MISSING, file=sys.stderr)
        pytest.skip(MISSING)


class RedisServer:
    """On a socket in its folder, and on a port too if one is given; every write is in its file before it is answered."""

    def __init__(self, folder: pathlib.Path, port: int = 0, *settings: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "redis.sock"
        self.command = [
            "redis-server", "--port", str(port), "--unixsocket", self.socket, "--dir", folder, "--save", "", "--appendonly", "yes",
            "--appendfsync", "always", "--logfile", folder / "redis.log", *settings,
        ]
        self.start()

    @property
    def url(self) -> str:
        return f"redis+unix://{self.socket}"

    @property
    def flag(self) -> str:
        return f"--state-url={self.url}"

    def start(self):
        self.process = subprocess.Popen(self.command)
        server.wait_until(lambda: self.ask("ping") == "PONG")

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE)

    def ask(self, *words: str) -> str:
        return subprocess.run(["redis-cli", "-s", self.socket, *words], capture_output=True, text=True).stdout.strip()
