"""A server with models and a state directory, for tests that kill it and start it again."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import threading

import grpc
import pytest

from attnd.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests import server

MODELS = server.ROOT / "models/testdata"
PATIENCE = 60


@pytest.fixture(scope="session")
def wire():
    """The wire types, by service."""
    return {"sessions": (sessions_pb2, sessions_pb2_grpc), "models": (models_pb2, models_pb2_grpc)}


class Server:
    """An `attnd serve` with models, on one state directory and one port, that can be killed and started again."""

    def __init__(self, folder: pathlib.Path, store: str = "", *options: str, **environment: str):
        self.folder = folder
        self.options = [store or f"--state-dir={folder / 'state'}", *options]
        self.port = 0
        self.start(**environment)

    def start(self, **environment: str):
        ports = self.folder / "ports.json"
        ports.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                server.binary(), "serve", "--device=cpu", f"--port={self.port}", "--metrics-port=-1", f"--port-file={ports}",
                f"--models={MODELS}", "--drain-notice-ms=0", *self.options,
            ],
            env={**os.environ, **environment},
            stderr=(self.folder / "log").open("ab"),
        )
        server.wait_until(lambda: ports.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, (self.folder / "log").read_text()
        self.port = json.loads(ports.read_text())["grpc"]
        self.address = f"localhost:{self.port}"
        self.channel = grpc.insecure_channel(self.address)
        self.sessions = sessions_pb2_grpc.SessionsStub(self.channel)
        self.models = models_pb2_grpc.ModelsStub(self.channel)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(PATIENCE)
        self.channel.close()

    def kill_and_start(self, seconds: float) -> threading.Timer:
        """After some time, on a thread to be joined."""

        def work():
            self.stop(signal.SIGKILL)
            self.start()

        timer = threading.Timer(seconds, work)
        timer.start()
        return timer


@pytest.fixture
def attnd(tmp_path):
    one = Server(tmp_path)
    yield one
    with contextlib.suppress(ProcessLookupError):
        one.stop()


def request(wire, session: str, count: int, **fields):
    messages = wire["sessions"][0]
    return messages.DecodeRequest(
        session=session,
        max_new_tokens=count,
        sampling=messages.Sampling(temperature=1, logprobs=True),
        stop=messages.Stop(ignore_eos=True),
        **fields,
    )


def tokens(events) -> list[int]:
    return [sampled.token for event in events for sampled in event.tokens]


def create(wire, attnd, session: str, prompt: list[int], **fields) -> None:
    messages = wire["sessions"][0]
    attnd.sessions.Create(messages.CreateSessionRequest(session=session, model="gated_deltanet", seed=5, **fields))
    attnd.sessions.Append(messages.AppendRequest(session=session, tokens=prompt, expected_position=0))
