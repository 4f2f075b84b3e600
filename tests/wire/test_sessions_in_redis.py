"""Sessions whose store is a Redis server: they outlive both, and nothing is answered that the store does not have."""

import contextlib
import signal
import time

import grpc
import pytest

from tests import server
from tests.wire.redis_server import RedisServer, skip_without_redis
from tests.wire.session_server import Server, create, request, tokens, wire  # noqa: F401


@pytest.fixture
def redis(tmp_path):
    skip_without_redis()
    one = RedisServer(tmp_path / "redis")
    yield one
    one.kill()


def test_sessions_live_in_redis_and_wait_for_it(wire, tmp_path, redis):
    attnd = Server(tmp_path, redis.flag)
    try:
        create(wire, attnd, "straight", [1, 2, 3], durability="SYNC")
        expected = tokens(attnd.sessions.Decode(request(wire, "straight", 200)))
        create(wire, attnd, "s", [1, 2, 3], durability="SYNC")
        stream = attnd.sessions.Decode(request(wire, "s", 200, expected_position=3))
        got = tokens([next(stream) for _ in range(70)])
        attnd.stop(signal.SIGKILL)
        redis.kill()
        redis.start()
        attnd.start()
        again = attnd.sessions.Decode(
            request(wire, "s", 200, expected_position=3, from_position=3 + len(got)), wait_for_ready=True
        )
        got += tokens(again)
        assert got == expected
        # Without its store a server answers what it can say for sure: repeat it.
        redis.kill()
        more = wire["sessions"][0].AppendRequest(session="s", tokens=[4], expected_position=203)
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as lost:
                attnd.sessions.Append(more)
            assert lost.value.code() == grpc.StatusCode.UNAVAILABLE
        redis.start()
        time.sleep(0.2)
        assert attnd.sessions.Append(more).position == 204
    finally:
        attnd.stop()


@pytest.fixture
def replicated(tmp_path):
    """A primary and its replica."""
    skip_without_redis()
    with contextlib.ExitStack() as stack:
        (port,) = server.free_ports(1)
        primary = RedisServer(tmp_path / "primary", port)
        stack.callback(primary.kill)
        replica = RedisServer(tmp_path / "replica", 0, "--replicaof", "127.0.0.1", str(port))
        stack.callback(replica.kill)
        linked(replica)
        yield primary, replica


def linked(replica: RedisServer):
    server.wait_until(lambda: "master_link_status:up" in replica.ask("info", "replication"))


def refused(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value


def test_sync_waits_for_a_replica(wire, tmp_path, replicated):
    primary, replica = replicated
    messages = wire["sessions"][0]
    attnd = Server(tmp_path, f"{primary.flag}?replicas=1")

    def append(session: str, tokens: list[int], position: int):
        return attnd.sessions.Append(messages.AppendRequest(session=session, tokens=tokens, expected_position=position)).position

    def records(redis: RedisServer, session: str) -> int:
        return int(redis.ask("llen", f"attnd:log:{session}"))

    try:
        create(wire, attnd, "s", [1, 2, 3], durability="SYNC")
        create(wire, attnd, "a", [1, 2, 3], durability="ASYNC")
        # What was answered is there.
        assert append("s", [4], 3) == 4
        assert records(replica, "s") == records(primary, "s") == 3

        replica.kill()
        begin = time.monotonic()
        error = refused(lambda: append("s", [5], 4))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "0 of 1 replicas have the write: repeat the call later" in error.details()
        assert 1.5 < time.monotonic() - begin < 5, "as long as a replica is waited for"
        # Sessions that do not ask for it go on, and soon: nobody waits as long again.
        begin = time.monotonic()
        assert append("a", [5], 3) == 4
        for _ in range(5):
            # The primary has it, and that alone is not what was asked for.
            assert refused(lambda: append("s", [5], 4)).code() == grpc.StatusCode.UNAVAILABLE
            assert refused(lambda: create(wire, attnd, "late", [1], durability="SYNC")).code() == grpc.StatusCode.UNAVAILABLE
        assert append("a", [6], 4) == 5
        assert time.monotonic() - begin < 3
        # Another process does not take the primary's word either.
        attnd.stop(signal.SIGKILL)
        attnd.start()
        assert refused(lambda: append("s", [5], 4)).code() == grpc.StatusCode.UNAVAILABLE
        assert append("a", [7], 5) == 6

        replica.start()
        linked(replica)

        def appended() -> bool:
            # Until the primary has heard from it.
            try:
                return append("s", [5], 4) == 5
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                return False

        server.wait_until(appended, 10)
        assert append("s", [5], 4) == 5, "again: the same answer"
        assert append("s", [6], 5) == 6
        assert records(replica, "s") == records(primary, "s") == 5, "each once"
        create(wire, attnd, "late", [1], durability="SYNC")
        assert records(replica, "late") == 2

        # All that was promised is at the replica: another server on it, and another attnd, have it.
        expected = tokens(attnd.sessions.Decode(request(wire, "s", 50, expected_position=6)))
        attnd.stop(signal.SIGKILL)
        primary.kill()
        assert replica.ask("replicaof", "no", "one") == "OK"
        attnd.options[0] = replica.flag
        attnd.start()
        assert tokens(attnd.sessions.Decode(request(wire, "s", 50, expected_position=6))) == expected
        assert append("s", [7], 56) == 57
    finally:
        attnd.stop()
