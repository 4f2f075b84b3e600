"""Sessions over gRPC, and through the death of their server: a stream that a SIGKILL broke goes on from its next token."""

import contextlib
import importlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest
from grpc_tools import protoc

from tests import server

MODELS = server.ROOT / "models/testdata"
PATIENCE = 60


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    out = tmp_path_factory.mktemp("wire")
    proto = server.ROOT / "proto"
    names = ["sessions", "models"]
    # Under a package of their own, so that they are not the client package's.
    arguments = ["protoc", f"--proto_path={proto}", f"--python_out={out}", f"--grpc_python_out={out}"]
    assert protoc.main([*arguments, *(str(proto / f"attnd/v1/{name}.proto") for name in names)]) == 0
    for name in names:
        file = out / f"attnd/v1/{name}_pb2_grpc.py"
        file.write_text(file.read_text().replace("from attnd.v1 import", "import"))
    sys.path.insert(0, str(out / "attnd/v1"))
    return {name: (importlib.import_module(f"{name}_pb2"), importlib.import_module(f"{name}_pb2_grpc")) for name in names}


class Server:
    """An `attnd serve` on one state directory that can be killed and started again."""

    def __init__(self, wire, folder: pathlib.Path):
        self.wire, self.folder = wire, folder
        self.process = None
        self.start()

    def start(self):
        ports = self.folder / "ports.json"
        ports.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                server.binary(), "serve", "--device=cpu", "--port=0", "--metrics-port=-1", f"--port-file={ports}",
                f"--models={MODELS}", f"--state-dir={self.folder / 'state'}", "--drain-notice-ms=0",
            ],
            stderr=(self.folder / "log").open("ab"),
        )
        server.wait_until(lambda: ports.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, (self.folder / "log").read_text()
        self.channel = grpc.insecure_channel(f"localhost:{json.loads(ports.read_text())['grpc']}")
        self.sessions = self.wire["sessions"][1].SessionsStub(self.channel)
        self.models = self.wire["models"][1].ModelsStub(self.channel)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(PATIENCE)
        self.channel.close()


@pytest.fixture
def attnd(wire, tmp_path):
    one = Server(wire, tmp_path)
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


@pytest.mark.parametrize("durability", ["ASYNC", "SYNC"])
def test_a_killed_server_loses_doubles_and_changes_no_token(wire, attnd, durability):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    draw = random.Random(seed)
    prompt = [draw.randrange(96) for _ in range(100)]
    create(wire, attnd, "straight", prompt)
    expected = tokens(attnd.sessions.Decode(request(wire, "straight", 600)))
    assert len(expected) == 600

    create(wire, attnd, "killed", prompt, durability=durability)
    got, kills = [], 0
    while len(got) < 600:
        # Taken up where an event was seen: before that the decode may not have begun.
        stream = attnd.sessions.Decode(
            request(wire, "killed", 600, expected_position=100, **({"from_position": 100 + len(got)} if got else {})),
            wait_for_ready=True,
        )
        if kills < 8:
            # In the middle of a word, wherever that is by then.
            threading.Timer(draw.uniform(0, 0.02), attnd.process.send_signal, [signal.SIGKILL]).start()
        try:
            for event in stream:
                assert not event.tokens or event.position == 100 + len(got)
                got += tokens([event])
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error
        if kills < 8:
            attnd.process.wait(PATIENCE)
            kills += 1
            begin = time.monotonic()
            attnd.start()
            state = attnd.sessions.Get(wire["sessions"][0].GetSessionRequest(session="killed"), wait_for_ready=True)
            print(f"recovered in {time.monotonic() - begin:.2f} s at position {state.position}")
            assert state.position >= 100
    assert got == expected
    state = attnd.sessions.Get(wire["sessions"][0].GetSessionRequest(session="killed"))
    assert state.position == 700


def test_a_drained_server_hands_its_streams_on(wire, attnd):
    create(wire, attnd, "s", [1, 2, 3])
    stream = attnd.sessions.Decode(request(wire, "s", 20000, expected_position=3))
    got = tokens([next(stream) for _ in range(50)])
    attnd.process.terminate()
    with pytest.raises(grpc.RpcError) as ended:
        for event in stream:
            got += tokens([event])
    assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
    assert attnd.process.wait(PATIENCE) == 0
    attnd.start()
    again = attnd.sessions.Decode(request(wire, "s", 20000, expected_position=3), wait_for_ready=True)
    first = tokens([next(again) for _ in range(len(got))])
    again.cancel()
    assert first == got


def test_models_are_named_loaded_and_tokenized(wire, attnd):
    messages = wire["models"][0]
    names = [model.name for model in attnd.models.List(messages.ListModelsRequest(), wait_for_ready=True).models]
    assert names == sorted(path.name for path in MODELS.iterdir())
    model = attnd.models.Load(messages.LoadModelRequest(name="gated_deltanet"))
    assert (model.model_type, model.loaded, model.vocab_size, model.layers) == ("gated_deltanet", True, 96, 3)
    assert model.state_bytes_per_token == 0
    for name in ("../testdata", "", "no-such"):
        with pytest.raises(grpc.RpcError) as refused:
            attnd.models.Load(messages.LoadModelRequest(name=name))
        assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    text = attnd.models.Tokenize(messages.TokenizeRequest(model="gated_deltanet", tokens=[72, 33]))
    assert text.text == "H!"


def test_sessions_are_listed_and_deleted(wire, attnd):
    messages = wire["sessions"][0]
    for name in ("b", "a", "c"):
        create(wire, attnd, name, [1])
    attnd.stop()
    attnd.start()
    listed = attnd.sessions.List(messages.ListSessionsRequest(limit=2), wait_for_ready=True)
    assert [session.session for session in listed.sessions] == ["a", "b"]
    rest = attnd.sessions.List(messages.ListSessionsRequest(after=listed.next))
    assert [session.session for session in rest.sessions] == ["c"]
    attnd.sessions.Delete(messages.DeleteSessionRequest(session="b"))
    with pytest.raises(grpc.RpcError) as gone:
        attnd.sessions.Get(messages.GetSessionRequest(session="b"))
    assert gone.value.code() == grpc.StatusCode.NOT_FOUND
