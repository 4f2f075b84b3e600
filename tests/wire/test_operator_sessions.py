"""Sessions on operators over gRPC, and through the death of their server."""

import random
import signal
import threading

import grpc
import numpy as np
import pytest

from attnd.v1 import operators_pb2, operators_pb2_grpc, tensor_pb2
from tests import server
from tests.wire.session_server import PATIENCE, Server, attnd, wire  # noqa: F401


def tensor(array):
    return tensor_pb2.Tensor(dtype=tensor_pb2.FLOAT32, shape=array.shape, data=array.astype(np.float32).tobytes())


def gla_inputs(draw, length, heads=2, size=16):
    shape = (1, length, heads, size)
    arrays = {name: draw.standard_normal(shape, dtype=np.float32) for name in "qkv"}
    return {name: tensor(array) for name, array in {**arrays, "g": -np.abs(draw.standard_normal(shape)) / 10}.items()}


def by_hand(attnd, op, appends):
    """The outputs of calls one after another, the state handed on by the client."""
    stub = operators_pb2_grpc.OperatorsStub(attnd.channel)
    state, out = None, []
    for inputs in appends:
        request = operators_pb2.EvaluateRequest(op=op, inputs=inputs)
        if state is not None:
            request.inputs["initial_state"].CopyFrom(state)
        answer = stub.Evaluate(request, wait_for_ready=True)
        state = answer.outputs["final_state"]
        out.append(answer.outputs["o"].data)
    return out


def append(wire, session, inputs, **fields):
    return wire["sessions"][0].AppendRequest(session=session, inputs=inputs, **fields)


def create(wire, attnd, session, op="gla", **fields):
    return attnd.sessions.Create(wire["sessions"][0].CreateSessionRequest(session=session, op=op, **fields))


@pytest.mark.parametrize("durability", ["ASYNC", "SYNC"])
def test_a_killed_server_loses_doubles_and_changes_nothing(wire, attnd, durability):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    appends = [gla_inputs(numbers, draw.choice([1, 1, 1, 7, 64, 400]), size=48) for _ in range(60)]
    lengths = [inputs["q"].shape[1] for inputs in appends]
    expected = by_hand(attnd, "gla", appends)
    create(wire, attnd, "s", durability=durability)
    got, kills, position, timers = [], 0, 0, []
    while len(got) < len(appends):
        if kills < 8 and not timers:
            timers.append(threading.Timer(draw.uniform(0, 0.15), attnd.process.send_signal, [signal.SIGKILL]))
            timers[0].start()
        try:
            # Not wait_for_ready: between two calls the server may die too, and it is this call that is to see it.
            answer = attnd.sessions.Append(
                append(wire, "s", appends[len(got)], expected_position=position), timeout=PATIENCE
            )
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error
            attnd.process.wait(PATIENCE)
            timers.clear()
            kills += 1
            attnd.start()
            continue
        assert answer.position == position + lengths[len(got)]
        got.append(answer.outputs["o"].data)
        position = answer.position
    for timer in timers:
        timer.cancel()
    print("kills", kills)
    assert got == expected
    attnd.stop(signal.SIGKILL)
    attnd.start()
    session = attnd.sessions.Get(wire["sessions"][0].GetSessionRequest(session="s"), wait_for_ready=True)
    assert (session.op, session.position) == ("gla", sum(lengths))
    # Whatever was appended can be asked for again.
    for i in draw.sample(range(len(appends)), 5):
        again = attnd.sessions.Append(append(wire, "s", appends[i], expected_position=sum(lengths[:i])))
        assert again.repeated_request and again.outputs["o"].data == expected[i]


def test_forks_rewinds_snapshots_and_files(wire, attnd):
    messages = wire["sessions"][0]
    numbers = np.random.default_rng(3)
    appends = [gla_inputs(numbers, length) for length in (5, 3, 2)]
    more = gla_inputs(numbers, 4)
    expected = by_hand(attnd, "gla", appends[:2] + [more])[2]
    create(wire, attnd, "s", labels={"a": "b"})
    for inputs in appends:
        attnd.sessions.Append(append(wire, "s", inputs))
    attnd.sessions.Snapshot(messages.SnapshotRequest(session="s", snapshot="eight", position=8))
    fork = attnd.sessions.Fork(messages.ForkRequest(session="s", new_session="f", position=8))
    assert (fork.position, fork.oldest_position, fork.parent) == (8, 8, "s")
    assert attnd.sessions.Append(append(wire, "f", more)).outputs["o"].data == expected
    with pytest.raises(grpc.RpcError) as refused:
        attnd.sessions.Rewind(messages.RewindRequest(session="s", position=7))
    assert refused.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert "the nearest are 5 and 8" in refused.value.details()
    attnd.sessions.Rewind(messages.RewindRequest(session="s", position=0))
    attnd.sessions.Append(append(wire, "s", more))
    assert attnd.sessions.Restore(messages.RestoreRequest(session="s", snapshot="eight")).position == 8
    assert attnd.sessions.Append(append(wire, "s", more)).outputs["o"].data == expected

    attnd.sessions.Rewind(messages.RewindRequest(session="s", position=8))
    chunks = list(attnd.sessions.Export(messages.ExportRequest(session="s")))
    attnd.stop()
    attnd.start()
    parts = [messages.ImportChunk(header=messages.ImportHeader(session="copy"))]
    parts += [messages.ImportChunk(chunk=chunk) for chunk in chunks]
    copy = attnd.sessions.Import(iter(parts), wait_for_ready=True)
    assert (copy.op, copy.position, copy.labels["a"]) == ("gla", 8, "b")
    assert attnd.sessions.Append(append(wire, "copy", more)).outputs["o"].data == expected
    assert {session.session for session in attnd.sessions.List(messages.ListSessionsRequest()).sessions} == {"s", "f", "copy"}
    attnd.sessions.Delete(messages.DeleteSessionRequest(session="copy"))
    with pytest.raises(grpc.RpcError) as gone:
        attnd.sessions.Append(append(wire, "copy", more))
    assert gone.value.code() == grpc.StatusCode.NOT_FOUND


def test_states_beyond_the_memory_limit_go_to_the_store(wire, tmp_path):
    one = Server(tmp_path, "", "--max-session-bytes=1MiB")
    try:
        numbers = np.random.default_rng(4)
        appends = [gla_inputs(numbers, 3, heads=8, size=256) for _ in range(4)]
        expected = by_hand(one, "gla", appends)
        create(wire, one, "s")
        got = []
        for inputs in appends:
            got.append(one.sessions.Append(append(wire, "s", inputs)).outputs["o"].data)
            listed = wire["sessions"][0].ListSessionsRequest()
            server.wait_until(lambda: one.sessions.List(listed).sessions[0].tier == "store")
        assert got == expected
    finally:
        one.stop()


@pytest.mark.parametrize(
    "fields, code, text",
    [
        ({"op": "block_sparse_attention"}, grpc.StatusCode.INVALID_ARGUMENT, "hands no state on, expected one of"),
        ({"op": "galore"}, grpc.StatusCode.NOT_FOUND, "gla"),
        ({"op": "gla", "model": "gla"}, grpc.StatusCode.INVALID_ARGUMENT, "model: given beside op"),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "model: given nothing"),
        (
            {"op": "gla", "attributes": {"heat": tensor_pb2.AttributeValue(int_value=1)}},
            grpc.StatusCode.INVALID_ARGUMENT,
            "gla: heat: given as an attribute, expected one of scale",
        ),
    ],
)
def test_what_is_wrong_with_a_session_is_named(wire, attnd, fields, code, text):
    with pytest.raises(grpc.RpcError) as refused:
        attnd.sessions.Create(wire["sessions"][0].CreateSessionRequest(session="s", **fields))
    assert refused.value.code() == code and text in refused.value.details()
