"""Sessions whose store is a Redis server: they outlive both, and nothing is answered that the store does not have."""

import contextlib
import pathlib
import shutil
import signal
import subprocess
import time

import grpc
import pytest

from tests import server
from tests.wire.session_server import PATIENCE, Server, create, request, tokens, wire  # noqa: F401


@contextlib.contextmanager
def redis(folder: pathlib.Path):
    """The flag for a redis-server of the test's own, and what kills and starts it again."""
    if shutil.which("redis-server") is None:
        pytest.skip("SKIPPED: redis-server is not installed (deploy/packages-test.txt)")
    path = folder / "redis.sock"
    processes = []

    def start():
        processes.append(subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", "--appendonly", "yes",
             "--appendfsync", "always", "--logfile", folder / "redis.log"]
        ))
        server.wait_until(lambda: subprocess.run(["redis-cli", "-s", path, "ping"], capture_output=True).stdout == b"PONG\n")

    def kill():
        processes[-1].kill()
        processes[-1].wait(PATIENCE)

    start()
    try:
        yield f"--state-url=redis+unix://{path}", kill, start
    finally:
        kill()


def test_sessions_live_in_redis_and_wait_for_it(wire, tmp_path):
    with redis(tmp_path) as (store, kill, start):
        attnd = Server(tmp_path, store)
        try:
            create(wire, attnd, "straight", [1, 2, 3], durability="SYNC")
            expected = tokens(attnd.sessions.Decode(request(wire, "straight", 200)))
            create(wire, attnd, "s", [1, 2, 3], durability="SYNC")
            stream = attnd.sessions.Decode(request(wire, "s", 200, expected_position=3))
            got = tokens([next(stream) for _ in range(70)])
            attnd.stop(signal.SIGKILL)
            kill()
            start()
            attnd.start()
            again = attnd.sessions.Decode(
                request(wire, "s", 200, expected_position=3, from_position=3 + len(got)), wait_for_ready=True
            )
            got += tokens(again)
            assert got == expected
            # Without its store a server answers what it can say for sure: repeat it.
            kill()
            more = wire["sessions"][0].AppendRequest(session="s", tokens=[4], expected_position=203)
            for _ in range(2):
                with pytest.raises(grpc.RpcError) as lost:
                    attnd.sessions.Append(more)
                assert lost.value.code() == grpc.StatusCode.UNAVAILABLE
            start()
            time.sleep(0.2)
            assert attnd.sessions.Append(more).position == 204
        finally:
            attnd.stop()
