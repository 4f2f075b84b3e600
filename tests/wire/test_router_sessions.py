"""Sessions behind a router: found where they are, alone in trouble with their worker."""

import contextlib
import json
import pathlib
import signal
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from attnd.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests import server
from tests.wire.session_server import MODELS, PATIENCE, request, tokens, wire  # noqa: F401
from tests.wire.test_language_models import MODEL, sampled, step
from tests.wire.test_operator_sessions import append, gla_inputs
from tests.wire.test_sessions_in_redis import redis  # noqa: F401

PROMPT = [7 * i % 96 for i in range(60)]


class Process:
    """An attnd that keeps its port through its deaths."""

    def __init__(self, folder: pathlib.Path, mode: str, *options: str):
        folder.mkdir()
        self.folder, self.mode, self.options, self.port = folder, mode, options, 0
        self.start()

    def start(self):
        ports = self.folder / "ports.json"
        ports.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                server.binary(), self.mode, f"--port={self.port}", "--metrics-port=-1", f"--port-file={ports}",
                "--drain-notice-ms=0", *self.options,
            ],
            stderr=(self.folder / "log").open("ab"),
        )
        server.wait_until(lambda: ports.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, (self.folder / "log").read_text()
        self.port = json.loads(ports.read_text())["grpc"]
        self.channel = grpc.insecure_channel(f"localhost:{self.port}", [("grpc.initial_reconnect_backoff_ms", 100)])
        self.sessions = sessions_pb2_grpc.SessionsStub(self.channel)
        self.models = models_pb2_grpc.ModelsStub(self.channel)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(PATIENCE)
        self.channel.close()


class Cluster:
    def __init__(self, folder: pathlib.Path, count: int, store: str = ""):
        self.workers = [
            Process(
                folder / f"worker{i}", "worker", "--device=cpu", f"--models={MODELS}",
                store or f"--state-dir={folder / f'state{i}'}",
            )
            for i in range(count)
        ]
        targets = ",".join(f"localhost:{worker.port}" for worker in self.workers)
        self.router = Process(folder / "router", "router", f"--workers={targets}")

    @property
    def sessions(self):
        return self.router.sessions

    def owner(self, session: str) -> Process:
        """The one worker that has it."""
        owners = []
        for worker in self.workers:
            with contextlib.suppress(grpc.RpcError):
                worker.sessions.Get(sessions_pb2.GetSessionRequest(session=session), timeout=PATIENCE)
                owners.append(worker)
        assert len(owners) == 1, [worker.folder for worker in owners]
        return owners[0]

    def close(self):
        for process in [self.router, *self.workers]:
            with contextlib.suppress(ProcessLookupError):
                if process.process.poll() is None:
                    process.stop()


@pytest.fixture
def cluster(tmp_path):
    one = Cluster(tmp_path, 3)
    yield one
    one.close()


def made(cluster, count, prompt=PROMPT):
    names = [f"s{i}" for i in range(count)]
    for name in names:
        cluster.sessions.Create(
            sessions_pb2.CreateSessionRequest(session=name, model="gated_deltanet", seed=5), timeout=PATIENCE
        )
        cluster.sessions.Append(sessions_pb2.AppendRequest(session=name, tokens=prompt, expected_position=0))
    return names


def code_of(call):
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), refused.value.details()


def position(cluster, name):
    return cluster.sessions.Get(sessions_pb2.GetSessionRequest(session=name), timeout=PATIENCE).position


def test_sessions_spread_and_are_found_again(wire, cluster):
    names = made(cluster, 12)
    owners = {name: cluster.owner(name).folder.name for name in names}
    assert len(set(owners.values())) == 3, owners
    listed, after = [], ""
    while True:
        page = cluster.sessions.List(sessions_pb2.ListSessionsRequest(limit=5, after=after))
        listed += [session.session for session in page.sessions]
        assert len(page.sessions) <= 5
        if not (after := page.next):
            break
    assert listed == sorted(names)
    expected = tokens(cluster.sessions.Decode(request(wire, "s0", 40)))
    for name in names[1:]:
        assert tokens(cluster.sessions.Decode(request(wire, name, 40))) == expected
    cluster.router.stop(signal.SIGKILL)
    cluster.router.start()
    for name in names:
        assert position(cluster, name) == 100
        assert cluster.owner(name).folder.name == owners[name]
    code, text = code_of(lambda: cluster.sessions.Create(sessions_pb2.CreateSessionRequest(session="s3", model="gla")))
    assert code == grpc.StatusCode.ALREADY_EXISTS
    assert code_of(lambda: position(cluster, "nobody")) == (
        grpc.StatusCode.NOT_FOUND, "session nobody: no such session",
    )
    cluster.sessions.Delete(sessions_pb2.DeleteSessionRequest(session="s3"))
    cluster.sessions.Delete(sessions_pb2.DeleteSessionRequest(session="s3"))
    assert code_of(lambda: position(cluster, "s3"))[0] == grpc.StatusCode.NOT_FOUND


def test_a_dead_worker_takes_its_own_sessions_down_alone(wire, cluster):
    names = made(cluster, 9)
    owners = {name: cluster.owner(name) for name in names}
    dead = owners["s0"]
    dead.stop(signal.SIGKILL)
    alive = [name for name in names if owners[name] is not dead]
    assert alive
    for _ in range(2):
        for name in names:
            if owners[name] is dead:
                code, text = code_of(lambda name=name: position(cluster, name))
                assert code == grpc.StatusCode.UNAVAILABLE and f":{dead.port}" in text
            else:
                assert position(cluster, name) >= 60
                assert len(tokens(cluster.sessions.Decode(request(wire, name, 5)))) == 5
        # Nothing known is needed for that.
        cluster.router.stop(signal.SIGKILL)
        cluster.router.start()
        server.wait_until(lambda: _lives(cluster, alive[0]))
    assert code_of(lambda: cluster.sessions.List(sessions_pb2.ListSessionsRequest()))[0] == grpc.StatusCode.UNAVAILABLE
    # Names that the server draws are of workers that live.
    for _ in range(6):
        session = cluster.sessions.Create(sessions_pb2.CreateSessionRequest(model="gla"))
        assert position(cluster, session.session) == 0
    stream = cluster.router.models.Generate(
        models_pb2.GenerateRequest(model="gla", tokens=[1], max_new_tokens=3, stop=sessions_pb2.Stop(ignore_eos=True))
    )
    assert len(tokens(stream)) == 3
    dead.start()
    server.wait_until(lambda: _lives(cluster, "s0"))
    assert len(tokens(cluster.sessions.Decode(request(wire, "s0", 5)))) == 5


def _lives(cluster, name):
    try:
        return position(cluster, name) >= 60
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        return False


def test_a_stream_through_the_death_of_its_worker(wire, cluster):
    made(cluster, 2)
    expected = tokens(cluster.sessions.Decode(request(wire, "s0", 600)))
    got = []
    owner = cluster.owner("s1")
    deaths = 0
    while len(got) < 600:
        seen = {"from_position": 60 + len(got)} if got else {}
        stream = cluster.sessions.Decode(request(wire, "s1", 600, expected_position=60, **seen))
        try:
            for event in stream:
                got += tokens([event])
                if deaths < 3 and len(got) > 100 * (deaths + 1):
                    owner.stop(signal.SIGKILL)
                    owner.start()
                    deaths += 1
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            time.sleep(0.1)
    assert got == expected and deaths == 3


def test_workers_with_one_store_take_the_sessions_of_a_dead_one(wire, tmp_path, redis):  # noqa: F811
    cluster = Cluster(tmp_path, 2, redis.flag)
    try:
        names = made(cluster, 8)
        count = 2000  # More than goes out before anybody reads: streams are open when their worker dies.
        expected = tokens(cluster.sessions.Decode(request(wire, "s0", count)))
        streams = [cluster.sessions.Decode(request(wire, name, count, expected_position=60)) for name in names[1:]]
        got = [tokens([next(stream) for _ in range(20)]) for stream in streams]
        cluster.workers[0].stop(signal.SIGKILL)
        moved = 0
        for name, stream, own in zip(names[1:], streams, got):
            limit = time.monotonic() + PATIENCE
            while len(own) < count:
                assert time.monotonic() < limit
                try:
                    own += tokens(event for event in stream)
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                    moved += 1
                    stream = cluster.sessions.Decode(
                        request(wire, name, count, expected_position=60, from_position=60 + len(own))
                    )
            assert own == expected, name
        assert moved > 0
        assert len(cluster.workers[1].sessions.List(sessions_pb2.ListSessionsRequest()).sessions) == 8
    finally:
        cluster.close()


def test_a_client_that_leaves_ends_its_decode_at_the_worker(wire, cluster):
    made(cluster, 1)
    stream = cluster.sessions.Decode(request(wire, "s0", 100000))
    got = tokens([next(stream) for _ in range(10)])
    stream.cancel()
    # The session is free again, long before the decode's end.
    after = cluster.sessions.Append(sessions_pb2.AppendRequest(session="s0", tokens=[1]), timeout=20)
    assert 60 + len(got) < after.position < 100000
    late = cluster.sessions.Decode(request(wire, "s0", 100000), timeout=0.5)
    with pytest.raises(grpc.RpcError) as ended:
        list(late)
    assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    cluster.sessions.Append(sessions_pb2.AppendRequest(session="s0", tokens=[1]), timeout=20)


def test_a_reader_that_is_slow_makes_its_decode_wait(wire, cluster):
    made(cluster, 1)
    owner = cluster.owner("s0")
    stream = cluster.sessions.Decode(request(wire, "s0", 200000))
    next(stream)

    def standing():
        listed = owner.sessions.List(sessions_pb2.ListSessionsRequest(prefix="s0"))
        return listed.sessions[0].position

    # What is on its way is bounded: the decode comes to rest.
    before, rest = -1, 0
    limit = time.monotonic() + 120
    while rest < 3:
        assert time.monotonic() < limit, "it never rests"
        now = standing()
        rest = rest + 1 if now == before else 0
        before = now
        time.sleep(0.5)
    assert before < 200000
    for _ in range(100):
        next(stream)
    stream.cancel()


def test_conversations_and_files_and_forks(wire, cluster):
    made(cluster, 2)
    expected = tokens(cluster.sessions.Decode(request(wire, "s0", 10)))
    commands = [
        sessions_pb2.ConverseRequest(decode=request(wire, "s1", 5)),
        sessions_pb2.ConverseRequest(decode=request(wire, "", 5)),
    ]
    events = list(cluster.sessions.Converse(iter(commands), timeout=PATIENCE))
    assert tokens([event.decoded for event in events]) == expected
    # Errors end an open conversation, while the client still could ask.
    more = threading.Event()

    def asks():
        yield sessions_pb2.ConverseRequest(append=sessions_pb2.AppendRequest(session="s1", tokens=[1], expected_position=3))
        more.wait(PATIENCE)

    code, text = code_of(lambda: list(cluster.sessions.Converse(asks(), timeout=PATIENCE)))
    more.set()
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "given 3" in text

    chunks = list(cluster.sessions.Export(sessions_pb2.ExportRequest(session="s0")))
    names = []
    for i in range(6):
        parts = [sessions_pb2.ImportChunk(header=sessions_pb2.ImportHeader(session=f"copy{i}" if i else ""))]
        parts += [sessions_pb2.ImportChunk(chunk=chunk) for chunk in chunks]
        names.append(cluster.sessions.Import(iter(parts), timeout=PATIENCE).session)
    assert code_of(lambda: cluster.sessions.Import(iter([sessions_pb2.ImportChunk()])))[0] == grpc.StatusCode.INVALID_ARGUMENT
    for i in range(6):
        fork = sessions_pb2.ForkRequest(session="s1", new_session=f"fork{i}", idempotency_key="once")
        for _ in range(2):
            names.append(cluster.sessions.Fork(fork).session)
        assert cluster.owner(f"fork{i}") is cluster.owner("s1")
    # Forks are found where they are, by a router that knows nothing.
    cluster.router.stop(signal.SIGKILL)
    cluster.router.start()
    server.wait_until(lambda: _lives(cluster, "s1"))
    following = {tuple(tokens(cluster.sessions.Decode(request(wire, name, 8)))) for name in set(names)}
    assert len(following) == 1
    code, _ = code_of(lambda: cluster.sessions.Fork(sessions_pb2.ForkRequest(session="s1", new_session="s0")))
    assert code == grpc.StatusCode.ALREADY_EXISTS


def test_models_and_operators_sessions(wire, cluster):
    models = cluster.router.models
    names = [model.name for model in models.List(models_pb2.ListModelsRequest()).models]
    assert names == sorted(path.name for path in MODELS.iterdir())
    assert models.Load(models_pb2.LoadModelRequest(name="gla")).loaded
    for worker in cluster.workers:
        listed = worker.models.List(models_pb2.ListModelsRequest()).models
        assert [model.name for model in listed if model.loaded] == ["gla"]
    assert models.Tokenize(models_pb2.TokenizeRequest(model="gla", text="H!")).tokens == [72, 33]
    assert models.Score(models_pb2.ScoreRequest(model="gla", tokens=[1, 2, 3])).scored == 2
    models.Unload(models_pb2.UnloadModelRequest(name="gla"))
    code, text = code_of(lambda: models.Load(models_pb2.LoadModelRequest(name="none")))
    assert code == grpc.StatusCode.NOT_FOUND and "known are" in text

    inputs = gla_inputs(np.random.default_rng(1), 4)
    outputs = set()
    for i in range(4):
        cluster.sessions.Create(sessions_pb2.CreateSessionRequest(session=f"op{i}", op="gla"))
        outputs.add(cluster.sessions.Append(append(wire, f"op{i}", inputs)).outputs["o"].data)
    assert len(outputs) == 1


# ---- Language models through the Open Inference Protocol.


@pytest.fixture
def pair(tmp_path):
    one = Cluster(tmp_path, 2)
    yield one
    one.close()


def inference(cluster):
    return triton.InferenceServerClient(f"localhost:{cluster.router.port}")


def test_language_models_of_workers_are_the_routers(wire, pair):
    with inference(pair) as client:
        server.wait_until(client.is_server_ready)
        index = {model["name"]: model.get("state") for model in client.get_model_repository_index(as_json=True)["models"]}
        assert index[MODEL] == "UNAVAILABLE" and index["gla"] == "READY"
        assert not client.is_model_ready(MODEL) and not client.is_model_ready("lm.none")
        client.load_model(MODEL)
        assert client.is_model_ready(MODEL)
        assert [port.name for port in client.get_model_metadata(MODEL).outputs] == ["tokens", "text", "logprobs", "logits"]
        assert client.get_model_config(MODEL).config.sequence_batching.max_sequence_idle_microseconds == 600 * 1000000
        # In turn at both, the same.
        answers = [step(client, PROMPT, parameters=sampled(8))[0]["tokens"].tolist() for _ in range(4)]
        assert len(answers[0]) == 8 and answers.count(answers[0]) == 4
        counted = []
        for worker in pair.workers:
            with triton.InferenceServerClient(f"localhost:{worker.port}") as own:
                counted.append(own.get_inference_statistics(MODEL).model_stats[0].inference_count)
        assert counted == [2, 2]
        assert client.get_inference_statistics(MODEL).model_stats[0].inference_count == 4
        statistics = {entry.name: entry for entry in client.get_inference_statistics().model_stats}
        assert statistics[MODEL].inference_stats.success.count == 4 and "gla" in statistics
        client.unload_model(MODEL)
        assert not client.is_model_ready(MODEL)
        for call in (client.get_model_metadata, client.get_model_config, client.load_model):
            with pytest.raises(InferenceServerException, match="known are: .*gated_deltanet"):
                call("lm.none")
        with pytest.raises(InferenceServerException, match="lm.gated_deltanet: temperature: given"):
            step(client, PROMPT, parameters={"temperature": "hot"})
    assert {model.device for model in pair.router.models.List(models_pb2.ListModelsRequest()).models} == {"cpu"}


def test_a_sequence_stays_at_its_worker_and_one_is_killed(wire, pair):
    with inference(pair) as client:
        expected = step(client, PROMPT, parameters=sampled(30))[0]["tokens"].tolist()
        owners, heard = {}, {}
        for i in range(1, 13):
            out, told = step(client, PROMPT, sequence_id=i, sequence_start=True, parameters=sampled(10))
            assert told["attnd_position"] == len(PROMPT) + 10
            heard[i] = out["tokens"].tolist()
            owners[i] = pair.owner(f"seq.n{i}.gated_deltanet")
        assert len(set(map(id, owners.values()))) == 2
        # By another router, which knows nothing, and in streams.
        targets = ",".join(f"localhost:{worker.port}" for worker in pair.workers)
        other = Process(pair.router.folder.parent / "other", "router", f"--workers={targets}")
        answers: list = []
        with triton.InferenceServerClient(f"localhost:{other.port}") as second:
            second.start_stream(lambda result, error: answers.append((result, error)))
            for i in owners:
                # Asked at once: each sequence's in its order.
                for count in (4, 6):
                    second.async_stream_infer(
                        MODEL, [], sequence_id=i, request_id=str(i), parameters=sampled(count)
                    )
            server.wait_until(lambda: len(answers) == 2 * len(owners))
            second.stop_stream()
        other.stop()
        for result, error in answers:
            assert error is None, error
            response = result.get_response()
            assert response.parameters["triton_final_response"].bool_param
            heard[int(response.id)] += result.as_numpy("tokens").tolist()
        assert all(tokens == expected[:20] for tokens in heard.values())

        victim = owners[1]
        victim.stop(signal.SIGKILL)
        more = {"sequence_id": 1, "parameters": sampled(10, attnd_expected_position=len(PROMPT) + 20)}
        with pytest.raises(InferenceServerException) as lost:
            step(client, None, **more)
        assert lost.value.status() == "StatusCode.UNAVAILABLE" and f"localhost:{victim.port}" in lost.value.message()
        # Those of the other go on, and what is no sequence's goes there.
        for i in [i for i, owner in owners.items() if owner is not victim]:
            out, _ = step(client, None, sequence_id=i, sequence_end=True, parameters=sampled(10))
            assert heard[i] + out["tokens"].tolist() == expected
            # It ended, which the worker that is gone cannot confirm.
            with pytest.raises(InferenceServerException, match="which may have it, cannot be reached"):
                step(client, None, sequence_id=i, parameters=sampled(1))
        for _ in range(4):
            assert step(client, PROMPT, parameters=sampled(30))[0]["tokens"].tolist() == expected
        assert client.is_model_ready(MODEL)
        victim.start()

        def answered():
            try:
                return step(client, None, **more)
            except InferenceServerException as error:
                assert error.status() == "StatusCode.UNAVAILABLE", error
                return None

        server.wait_until(answered)
        first, second = answered(), answered()
        assert heard[1] + first[0]["tokens"].tolist() == expected, "once, however often it is sent"
        assert first[0]["tokens"].tolist() == second[0]["tokens"].tolist() and first[1] == second[1]
        assert first[1]["attnd_position"] == len(PROMPT) + 30
