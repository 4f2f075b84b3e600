"""Conversations, snapshots, files of sessions, and models without sessions, over gRPC."""

import hashlib
import itertools
import random
import signal
import threading

import grpc
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tests import server
from tests.wire.session_server import PATIENCE, attnd, create, request, tokens, wire  # noqa: F401


def prompt_of(count: int) -> list[int]:
    return [random.randrange(96) for _ in range(count)]


def straight(wire, attnd, prompt: list[int], count: int) -> list[int]:
    """What a session that had only this prompt samples."""
    name = f"straight{random.randrange(1 << 60)}"
    create(wire, attnd, name, prompt)
    return tokens(attnd.sessions.Decode(request(wire, name, count)))


class Conversation:
    """A Converse stream whose commands are sent when the test says so."""

    def __init__(self, wire, attnd):
        self.messages = wire["sessions"][0]
        self.waiting: list = []
        self.wake = threading.Condition()
        self.open = True
        self.events = attnd.sessions.Converse(self._commands())

    def _commands(self):
        while True:
            with self.wake:
                self.wake.wait_for(lambda: self.waiting or not self.open)
                if not self.waiting:
                    return
                command = self.waiting.pop(0)
            yield command

    def send(self, **command):
        with self.wake:
            self.waiting.append(self.messages.ConverseRequest(**command))
            self.wake.notify()

    def close(self):
        with self.wake:
            self.open = False
            self.wake.notify()

    def decoded(self, command: int):
        """(tokens, how it ended) of a decode."""
        got = []
        for event in self.events:
            assert event.command == command and event.HasField("decoded"), event
            got += tokens([event.decoded])
            if event.decoded.finish:
                return got, event.decoded.finish
        raise AssertionError("the stream ended")


def test_a_conversation_keeps_its_order(wire, attnd):
    messages = wire["sessions"][0]
    first, second = prompt_of(50), prompt_of(9)
    create(wire, attnd, "s", first)
    talk = Conversation(wire, attnd)
    # All at once: each waits for those before it.
    talk.send(decode=request(wire, "s", 20, expected_position=50))
    talk.send(append=messages.AppendRequest(tokens=second, expected_position=70))
    talk.send(decode=request(wire, "", 20, expected_position=79))
    talk.close()
    got, finish = talk.decoded(0)
    assert (len(got), finish) == (20, messages.LENGTH)
    appended = next(talk.events)
    assert (appended.command, appended.appended.position) == (1, 79)
    assert talk.decoded(2)[0] == straight(wire, attnd, first + got + second, 20)
    assert list(talk.events) == []


def test_a_decode_is_cancelled_by_a_message(wire, attnd):
    messages = wire["sessions"][0]
    prompt = prompt_of(20)
    create(wire, attnd, "s", prompt)
    talk = Conversation(wire, attnd)
    talk.send(decode=request(wire, "s", 1000000))
    got = list(itertools.islice(talk.events, 5))
    talk.send(decode=request(wire, "", 1000000))  # Waits, and is cancelled with it.
    talk.send(cancel=messages.CancelDecode())
    more, finish = talk.decoded(0)
    assert finish == messages.CANCELLED_BY_CLIENT
    sampled = tokens(event.decoded for event in got) + more
    none, finish = talk.decoded(1)
    assert (none, finish) == ([], messages.CANCELLED_BY_CLIENT)
    # The session stands where the client saw it, and the stream goes on.
    talk.send(decode=request(wire, "", 15, expected_position=20 + len(sampled)))
    assert talk.decoded(3)[0] == straight(wire, attnd, prompt + sampled, 15)
    talk.send(cancel=messages.CancelDecode())  # Of nothing.
    talk.close()
    assert list(talk.events) == []


def test_a_command_that_fails_ends_its_conversation(wire, attnd):
    messages = wire["sessions"][0]
    create(wire, attnd, "s", [1, 2, 3])
    for wrong, text in (
        ({"append": messages.AppendRequest(session="s", tokens=[1], expected_position=9)}, "given 9"),
        ({"append": messages.AppendRequest(session="other", tokens=[1])}, 'given "other" on the stream of "s"'),
        ({}, "given none, expected append, decode or cancel"),
    ):
        position = attnd.sessions.Get(messages.GetSessionRequest(session="s")).position
        talk = Conversation(wire, attnd)
        talk.send(append=messages.AppendRequest(session="s", tokens=[5]))
        talk.send(**wrong)
        talk.send(append=messages.AppendRequest(tokens=[6]))
        talk.close()
        assert next(talk.events).appended.position == position + 1
        with pytest.raises(grpc.RpcError, match=text):
            list(talk.events)
        assert attnd.sessions.Get(messages.GetSessionRequest(session="s")).position == position + 1


def test_a_client_that_vanishes_leaves_its_decode_to_be_taken_up(wire, attnd):
    create(wire, attnd, "s", [1, 2, 3])
    talk = Conversation(wire, attnd)
    talk.send(decode=request(wire, "s", 300, expected_position=3))
    got = [event.decoded for event in itertools.islice(talk.events, 10)]
    talk.events.cancel()
    talk.close()
    rest = attnd.sessions.Decode(request(wire, "s", 300, expected_position=3, from_position=13))
    assert tokens(got) + tokens(rest) == straight(wire, attnd, [1, 2, 3], 300)


def test_snapshots_outlive_a_killed_server(wire, attnd):
    messages = wire["sessions"][0]
    prompt = prompt_of(200)
    create(wire, attnd, "s", prompt)
    made = attnd.sessions.Snapshot(messages.SnapshotRequest(session="s", snapshot="here"))
    attnd.sessions.Rewind(messages.RewindRequest(session="s", position=60))
    attnd.sessions.Append(messages.AppendRequest(session="s", tokens=prompt_of(170)))
    attnd.stop(signal.SIGKILL)
    attnd.start()
    listed = attnd.sessions.ListSnapshots(messages.ListSnapshotsRequest(session="s"), wait_for_ready=True).snapshots
    assert [(info.snapshot, info.position, info.chain_hash) for info in listed] == [("here", 200, made.chain_hash)]
    restored = attnd.sessions.Restore(messages.RestoreRequest(session="s", snapshot="here"))
    assert restored.position == 200
    assert tokens(attnd.sessions.Decode(request(wire, "s", 40))) == straight(wire, attnd, prompt, 40)
    attnd.sessions.DeleteSnapshot(messages.DeleteSnapshotRequest(session="s", snapshot="here"))
    with pytest.raises(grpc.RpcError) as gone:
        attnd.sessions.Restore(messages.RestoreRequest(session="s", snapshot="here"))
    assert gone.value.code() == grpc.StatusCode.NOT_FOUND


def exported(wire, attnd, session: str) -> bytes:
    data = b""
    for chunk in attnd.sessions.Export(wire["sessions"][0].ExportRequest(session=session)):
        assert chunk.offset == len(data)
        data += chunk.data
    assert chunk.sha256 == hashlib.sha256(data).digest()
    return data


def imported(wire, attnd, file: bytes, sha256: bytes = b"", size: int = 10000, **header):
    messages = wire["sessions"][0]
    parts = [messages.ImportChunk(header=messages.ImportHeader(**header))]
    parts += [
        messages.ImportChunk(chunk=messages.FileChunk(offset=at, data=file[at : at + size]))
        for at in range(0, len(file), size)
    ]
    if sha256:
        parts[-1].chunk.sha256 = sha256
    return attnd.sessions.Import(iter(parts))


def test_a_session_travels_as_a_file_that_any_tool_opens(wire, attnd, tmp_path):
    prompt = prompt_of(150)
    create(wire, attnd, "s", prompt)
    sampled = tokens(attnd.sessions.Decode(request(wire, "s", 30)))
    file = exported(wire, attnd, "s")
    path = tmp_path / "s.safetensors"
    path.write_bytes(file)
    tensors = load_file(path)
    assert tensors["tokens"].tolist() == prompt + sampled
    assert tensors["state.0.fixed"].dtype == np.float32 and tensors["state.0.fixed"].any()
    with safe_open(path, "numpy") as opened:
        metadata = opened.metadata()
    assert (metadata["model"], metadata["position"], metadata["seed"]) == ("gated_deltanet", "180", "5")

    expected = tokens(attnd.sessions.Decode(request(wire, "s", 60)))
    made = imported(wire, attnd, file, hashlib.sha256(file).digest(), session="t", labels={"from": "file"})
    assert (made.position, dict(made.labels)) == (180, {"from": "file"})
    attnd.stop(signal.SIGKILL)
    attnd.start()
    attnd.sessions.Get(wire["sessions"][0].GetSessionRequest(session="t"), wait_for_ready=True)
    assert tokens(attnd.sessions.Decode(request(wire, "t", 60))) == expected


def test_files_that_are_wrong_are_refused(wire, attnd):
    messages = wire["sessions"][0]
    create(wire, attnd, "s", prompt_of(80))
    file = exported(wire, attnd, "s")
    flipped = bytearray(file)
    flipped[-5] ^= 1
    codes = grpc.StatusCode

    def refused(code, text, *arguments, **options):
        with pytest.raises(grpc.RpcError) as error:
            imported(wire, attnd, *arguments, **options)
        assert (error.value.code(), text in error.value.details()) == (code, True), error.value

    refused(codes.DATA_LOSS, "damaged", bytes(flipped))
    refused(codes.DATA_LOSS, "on its way", file, b"x" * 32)
    refused(codes.FAILED_PRECONDITION, "weights_hash", file, model="gla")
    refused(codes.NOT_FOUND, "known are", file, model="nope")
    refused(codes.INVALID_ARGUMENT, "session file", b"hello")
    refused(codes.ALREADY_EXISTS, "exists already", file, session="s")
    for parts in (
        [],
        [messages.ImportChunk(chunk=messages.FileChunk(data=b"x"))],
        [messages.ImportChunk(header=messages.ImportHeader())] * 2,
        [
            messages.ImportChunk(header=messages.ImportHeader()),
            messages.ImportChunk(chunk=messages.FileChunk(offset=5, data=b"x")),
        ],
    ):
        with pytest.raises(grpc.RpcError) as error:
            attnd.sessions.Import(iter(parts))
        assert error.value.code() == codes.INVALID_ARGUMENT, error.value


def generate(wire, prompt, count, **fields):
    decode = request(wire, "", count)
    return wire["models"][0].GenerateRequest(
        model="gated_deltanet", seed=5, tokens=prompt, max_new_tokens=count, sampling=decode.sampling, stop=decode.stop,
        **fields,
    )


def test_generated_is_what_a_session_would_sample(wire, attnd):
    prompt = prompt_of(70)
    assert tokens(attnd.models.Generate(generate(wire, prompt, 40), wait_for_ready=True)) == straight(
        wire, attnd, prompt, 40
    )
    messages = wire["models"][0]
    greedy = messages.GenerateRequest(model="gated_deltanet", text="HELLO", max_new_tokens=300)
    *_, last = attnd.models.Generate(greedy)
    assert last.finish and last.position <= 305


def test_a_model_is_free_when_its_clients_have_vanished(wire, attnd):
    messages = wire["models"][0]
    streams = [attnd.models.Generate(generate(wire, [1], 1000000), wait_for_ready=True) for _ in range(3)]
    for stream in streams:
        next(stream)
    unload = messages.UnloadModelRequest(name="gated_deltanet")
    with pytest.raises(grpc.RpcError, match="calls run on it") as used:
        attnd.models.Unload(unload)
    assert used.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    for stream in streams:
        stream.cancel()

    def unloaded():
        try:
            attnd.models.Unload(unload)
            return True
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
            return False

    server.wait_until(unloaded)
    loaded = {model.name: model.loaded for model in attnd.models.List(messages.ListModelsRequest()).models}
    assert not loaded["gated_deltanet"]
    create(wire, attnd, "s", [1, 2])  # Loads it again.


def test_scores_sum_up(wire, attnd):
    messages = wire["models"][0]
    create(wire, attnd, "s", [7, 8, 9])
    sampled = [t for event in attnd.sessions.Decode(request(wire, "s", 50)) for t in event.tokens]
    scored = attnd.models.Score(
        messages.ScoreRequest(
            model="gated_deltanet", context_tokens=[7, 8, 9], tokens=[t.token for t in sampled], top_logprobs=2
        )
    )
    assert [t.logprob for t in scored.tokens] == [t.logprob for t in sampled]
    assert scored.scored == 50
    assert scored.total_logprob == pytest.approx(sum(t.logprob for t in sampled))
    assert scored.perplexity == pytest.approx(np.exp(-scored.total_logprob / 50))
    text = attnd.models.Score(messages.ScoreRequest(model="gated_deltanet", text="HI!"))
    assert [t.HasField("logprob") for t in text.tokens] == [False, True, True]
    with pytest.raises(grpc.RpcError, match="text: given token 105, expected") as refused:
        attnd.models.Score(messages.ScoreRequest(model="gated_deltanet", text="Hi!"))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_commands_may_come_one_by_one_for_long(wire, attnd):
    messages = wire["sessions"][0]
    create(wire, attnd, "s", [1])
    commands = [messages.ConverseRequest(append=messages.AppendRequest(session="s", tokens=[2])) for _ in range(200)]
    positions = [event.appended.position for event in attnd.sessions.Converse(iter(commands), timeout=PATIENCE)]
    assert positions == list(itertools.islice(itertools.count(2), 200))
