"""Sessions over gRPC, and through the death of their server: a stream that a SIGKILL broke goes on from its next token."""

import random
import signal
import threading
import time

import grpc
import pytest

from tests.wire.session_server import MODELS, PATIENCE, attnd, create, request, tokens, wire  # noqa: F401


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
