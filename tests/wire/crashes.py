"""Sessions whose server dies, at every named fault point and at random times, against the same session undisturbed.

    python -m tests.wire.crashes [--store redis] --runs 500 --report bench/results/<date>-crash.txt

A run does one script: create, append, decode, fork, snapshot, rewind, restore, give a decode up, converse, export, import, delete; and the like with an
operator. Its server ends at a point
(ATTND_TEST_FAULT_POINT, service/session/fault_point.h) or by a SIGKILL at a random time, is started again, and the client goes on as
clients do: it repeats what was not answered, and takes a stream up behind its last event. Every event and answer must then be the one that the
undisturbed run gave, in every bit.

With --store redis sessions live in a redis-server, which is killed too, at random times: calls are UNAVAILABLE until it is back, and go on."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import pathlib
import random
import re
import signal
import subprocess
import tempfile
import threading
import time

import grpc
import numpy as np

from attnd.v1 import sessions_pb2 as messages
from attnd.v1 import tensor_pb2
from tests import server
from tests.wire.redis_server import RedisServer
from tests.wire.session_server import PATIENCE, Server

PROMPT = [7 * i % 96 for i in range(100)]


def fault_points(store: str = "rocksdb") -> list[str]:
    """All names, as the sources have them, but those of other stores; each once."""
    names = [
        name
        for path in sorted((server.ROOT / "service").rglob("*"))
        if path.suffix in (".h", ".cc")
        for name in re.findall(r'FaultPoint\("([^"]+)"\)', path.read_text())
    ]
    assert len(names) == len(set(names)), "a name is written twice"
    return [name for name in names if name.partition(".")[0] not in {"rocksdb", "redis"} - {store}]


@dataclasses.dataclass
class Plan:
    name: str  # Of its sessions.
    point: str = ""  # Empty: a random time.
    passage: int = 1
    kill_after: list[float] = dataclasses.field(default_factory=list)
    durability: str = "ASYNC"
    redis_away: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # After so long, for so long.

    @property
    def evicts(self) -> bool:
        return self.point.startswith(("evict.", "restore."))

    @property
    def restarts(self) -> bool:
        """Whether the point is one that only a server with sessions in its store comes to."""
        return self.point.startswith(("recover.", "restore_state.", "rocksdb.opened", "rocksdb.read_log", "redis.opened", "redis.read_log"))

    def __str__(self) -> str:
        if self.point:
            return f"{self.point}:{self.passage}"
        return f"killed after {self.kill_after}" + (f", redis-server after {self.redis_away}" if self.redis_away else "")


class Client:
    """One that goes on where its server died."""

    def __init__(self, plan: Plan, folder: pathlib.Path, redis: RedisServer | None):
        self.plan, self.redis = plan, redis
        self.kills, self.recoveries, self.timers = 0, [], []
        self.outages = 0  # Answers that the store could not be reached.
        self.environment = {"ATTND_TEST_FAULT_POINT": f"{plan.point}:{plan.passage}"} if plan.point else {}
        # So little that the script's longest operator session forgets its first inputs, and no other.
        options = ["--max-session-log-bytes=2MiB"] + (["--max-session-bytes=1MiB"] if plan.evicts else [])
        store = redis.flag if redis else ""
        self.server = Server(folder, store, *options, **({} if plan.restarts else self.environment))
        self.arm()
        self.outage = threading.Thread(target=self.lose_redis)
        self.outage.start()

    def lose_redis(self):
        for after, seconds in self.plan.redis_away:
            time.sleep(after)
            self.redis.kill()
            time.sleep(seconds)
            self.redis.start()

    def arm(self):
        if self.plan.kill_after:
            process = self.server.process
            timer = threading.Timer(self.plan.kill_after.pop(), process.send_signal, [signal.SIGKILL])
            timer.start()
            self.timers.append(timer)

    def close(self):
        self.outage.join()
        for timer in self.timers:
            timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            self.server.stop(signal.SIGKILL)

    def id(self, session: str) -> str:
        return f"{self.plan.name}.{session}"

    def survive(self, call):
        """The answer of a call that is repeated until a server answers."""
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                return call(self.server.sessions)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise
                if self.plan.redis_away and "repeat the call" in error.details():
                    assert time.monotonic() < limit, error
                    self.outages += 1
                    time.sleep(0.05)
                    continue
                try:
                    self.server.process.wait(10)
                except subprocess.TimeoutExpired:
                    raise AssertionError(f"a server that lives says {error.code().name}: {error.details()}") from error
                assert self.server.process.returncode == -signal.SIGKILL
                self.kills += 1
                self.recover()

    def recover(self, **environment: str):
        self.server.channel.close()
        begin = time.monotonic()
        while True:
            try:
                self.server.start(**environment)
                break
            except AssertionError:  # Dead before it listened, or without its store.
                if self.server.process.returncode == -signal.SIGKILL:
                    self.kills += 1
                else:
                    assert self.redis and self.redis.process.poll() is not None or self.outage.is_alive(), "did not start"
                begin = time.monotonic()
                environment = {}
        self.arm()

        def first_answer(stub):
            try:
                stub.Get(messages.GetSessionRequest(session=self.id("s")), timeout=PATIENCE)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise

        self.survive(first_answer)
        self.recoveries.append(time.monotonic() - begin)

    def restart(self):
        """A death between calls; the next server may die at its point too."""
        self.outage.join()
        if self.plan.redis_away:
            self.redis.kill()
            self.redis.start()
        self.server.stop(signal.SIGKILL)
        self.recover(**({} if self.kills else self.environment))

    def decode(self, session: str, count: int, position: int, take: int = 0) -> list[bytes]:
        """The events, as bytes; `take`: of the first tokens, then the client leaves."""
        events: list[bytes] = []
        ended: list[bytes] = []

        def attempt(stub):
            # Taken up where an event was seen: before that the decode may not have begun.
            seen = {"from_position": position + len(events)} if events else {}
            stream = stub.Decode(
                messages.DecodeRequest(
                    session=self.id(session), max_new_tokens=count, expected_position=position,
                    sampling=messages.Sampling(temperature=1, logprobs=True, top_logprobs=2),
                    stop=messages.Stop(ignore_eos=True), **seen,
                ),
                timeout=PATIENCE,
            )
            for event in stream:
                event.durable_position = 0
                if event.tokens:
                    assert event.position == position + len(events), (event.position, position, len(events))
                    events.append(event.SerializeToString(deterministic=True))
                else:
                    ended[:] = [event.SerializeToString(deterministic=True)]
                if take and len(events) == take:
                    stream.cancel()
                    return

        self.survive(attempt)
        return events + ended

    def converse(self, session: str, tokens: list[int], count: int, position: int) -> list[bytes]:
        """Appends and decodes on one stream: the events of the decode."""
        events: list[bytes] = []
        ended: list[bytes] = []
        start = position + len(tokens)

        def attempt(stub):
            seen = {"from_position": start + len(events)} if events else {}
            commands = [
                messages.ConverseRequest(
                    append=messages.AppendRequest(session=self.id(session), tokens=tokens, expected_position=position)
                ),
                messages.ConverseRequest(
                    decode=messages.DecodeRequest(
                        max_new_tokens=count, expected_position=start, sampling=messages.Sampling(temperature=1),
                        stop=messages.Stop(ignore_eos=True), **seen,
                    )
                ),
            ]
            for event in stub.Converse(iter(commands), timeout=PATIENCE):
                if event.command == 0:
                    assert event.appended.position == start
                    continue
                event.decoded.durable_position = 0
                if event.decoded.tokens:
                    assert event.decoded.position == start + len(events), (event, start, len(events))
                    events.append(event.SerializeToString(deterministic=True))
                else:
                    ended[:] = [event.SerializeToString(deterministic=True)]

        self.survive(attempt)
        return events + ended

    def export(self, session: str) -> bytes:
        request = messages.ExportRequest(session=self.id(session))
        return self.survive(lambda stub: b"".join(chunk.data for chunk in stub.Export(request, timeout=PATIENCE)))

    def import_as(self, session: str, file: bytes):
        header = messages.ImportHeader(session=self.id(session), idempotency_key="import", durability=self.plan.durability)
        chunk = messages.FileChunk(data=file, sha256=hashlib.sha256(file).digest())
        parts = [messages.ImportChunk(header=header), messages.ImportChunk(chunk=chunk)]
        return self.survive(lambda stub: stub.Import(iter(parts), timeout=PATIENCE)).position

    def append(self, session: str, tokens: list[int], position: int):
        request = messages.AppendRequest(session=self.id(session), tokens=tokens, expected_position=position)
        answer = self.survive(lambda stub: stub.Append(request, timeout=PATIENCE))
        return answer.position, list(answer.tokens)

    def feed(self, session: str, length: int, position: int):
        """An append of inputs that are a function of their place."""
        draw = np.random.default_rng([length, position])
        arrays = {name: draw.standard_normal((1, length, 1, 64), dtype=np.float32) for name in "qkv"}
        arrays["g"] = -np.abs(draw.standard_normal((1, length, 1, 64), dtype=np.float32)) / 10
        inputs = {
            name: tensor_pb2.Tensor(dtype=tensor_pb2.FLOAT32, shape=array.shape, data=array.tobytes())
            for name, array in arrays.items()
        }
        request = messages.AppendRequest(session=self.id(session), inputs=inputs, expected_position=position)
        try:
            answer = self.survive(lambda stub: stub.Append(request, timeout=PATIENCE))
        except grpc.RpcError as error:
            return error.code()
        return answer.position, hash(answer.outputs["o"].data)

    def standing(self, session: str):
        answer = self.survive(lambda stub: stub.Get(messages.GetSessionRequest(session=self.id(session)), timeout=PATIENCE))
        return answer.position, answer.seed, answer.forked_at, answer.weights_hash


def script(client: Client) -> list:
    """What a client does; what it is told, but for what differs by time."""
    call, name = client.survive, client.id
    out = []

    def create(session: str, out: list):
        request = messages.CreateSessionRequest(
            session=name(session), model="gated_deltanet", seed=5, durability=client.plan.durability, idempotency_key="create"
        )
        out.append(call(lambda stub: stub.Create(request)).seed)
        out.append(client.append(session, PROMPT, 0))

    create("s", out)
    out.append(client.decode("s", 90, 100))
    out.append(client.append("s", [1, 2, 3], 190))
    out.append(client.append("s", [1, 2, 3], 190))  # Once all the same.
    fork = messages.ForkRequest(session=name("s"), new_session=name("f"), position=150, seed=9, idempotency_key="fork")
    out.append(call(lambda stub: stub.Fork(fork)).forked_at)
    out.append(client.decode("f", 40, 150))
    operator = messages.CreateSessionRequest(
        session=name("o"), op="gla", durability=client.plan.durability, idempotency_key="create"
    )
    out.append(call(lambda stub: stub.Create(operator)).op)
    # More than what is behind the last state in the store may be.
    out += [client.feed("o", *at) for at in ((5, 0), (1200, 5), (1, 1205), (1, 1206))]
    snapshot = messages.SnapshotRequest(session=name("s"), snapshot="here", expected_position=193, idempotency_key="snap")
    out.append(call(lambda stub: stub.Snapshot(snapshot)).position)
    rewind = messages.RewindRequest(session=name("s"), position=120, expected_position=193, idempotency_key="rewind")
    out.append(call(lambda stub: stub.Rewind(rewind)) and None)
    out.append(client.append("s", [4] * 10, 120))
    out.append(client.decode("s", 400, 130))
    if client.plan.evicts:
        for i in range(30):
            create(f"more{i}", [])
        # Asked of the list, which does not use the session.
        request = messages.ListSessionsRequest(prefix=name("s"))
        server.wait_until(lambda: call(lambda stub: stub.List(request)).sessions[0].tier != "host", 20)
    elif client.plan.restarts:
        client.restart()
    out.append(client.standing("s"))
    out.append(client.feed("o", 3, 1207))
    rewind_operator = messages.RewindRequest(session=name("o"), position=1206, expected_position=1210, idempotency_key="rewind")
    out.append(call(lambda stub: stub.Rewind(rewind_operator)) and None)
    out.append(client.feed("o", 2, 1206))
    out.append(client.feed("o", 5, 0))  # Again.
    long = messages.CreateSessionRequest(session=name("t"), op="gla", durability=client.plan.durability, idempotency_key="create")
    out.append(call(lambda stub: stub.Create(long)).op)
    out += [client.feed("t", 700, 700 * i) for i in range(3)]
    keep = messages.SnapshotRequest(session=name("t"), snapshot="here", expected_position=2100, idempotency_key="snap")
    out.append(call(lambda stub: stub.Snapshot(keep)).position)
    out += [client.feed("t", 700, 700 * i) for i in range(3, 10)]
    # What is known of it does not depend on deaths: the last append, and nothing of the first.
    out += [client.feed("t", 700, 6300), client.feed("t", 700, 0)]
    call(lambda stub: stub.Restore(messages.RestoreRequest(session=name("t"), snapshot="here", expected_position=7000, idempotency_key="back")))
    out.append(client.feed("t", 3, 2100))
    out.append(client.standing("t"))
    restore = messages.RestoreRequest(session=name("s"), snapshot="here", expected_position=530, idempotency_key="restore")
    out.append(call(lambda stub: stub.Restore(restore)) and None)
    out.append(client.decode("s", 30, 193))

    def give_up(_):
        # As one, since a decode that was not told to the end may have lost its last tokens.
        given_up = client.decode("s", 20000, 223, take=10)
        request = messages.AppendRequest(session=name("s"), tokens=[7], expected_position=228)
        return given_up, client.server.sessions.Append(request, timeout=PATIENCE).position

    out.append(call(give_up))
    out.append(client.decode("s", 20, 229))
    out.append(client.converse("s", [8, 9], 20, 249))
    file = client.export("s")
    out.append(hashlib.sha256(file).hexdigest())
    out.append(client.import_as("i", file))
    out.append(client.decode("i", 20, 271))
    out.append(client.standing("s"))
    out.append(client.standing("f"))
    call(lambda stub: stub.Delete(messages.DeleteSessionRequest(session=name("f"))))
    try:
        client.standing("f")
        out.append("there")
    except grpc.RpcError as error:
        out.append(error.code())
    return out


@dataclasses.dataclass
class Outcome:
    plan: Plan
    kills: int = 0
    outages: int = 0
    reached: bool = False
    recoveries: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0
    difference: str = ""


def run(
    plan: Plan, folder: pathlib.Path, expected: list | None, redis: RedisServer | None = None
) -> tuple[Outcome, list]:
    begin = time.monotonic()
    text = str(plan)
    client = Client(plan, folder, redis)
    told = []
    try:
        told = script(client)
        reached = client.kills > 0
        seconds = time.monotonic() - begin
        # The last death comes to all that got so far: what was told is there.
        client.plan.kill_after.clear()
        if expected is not None:
            client.restart()
            if client.standing("s") != told[-3]:
                told.append("another standing after the last death")
        difference = ""
        if expected is not None and told != expected:
            first = next((i for i, (a, b) in enumerate(zip(told, expected)) if a != b), len(expected))
            difference = f"{text}: answer {first}: {told[first:first + 1]!r:.300} for {expected[first:first + 1]!r:.300}"
        return Outcome(plan, client.kills, client.outages, reached, client.recoveries, seconds, difference), told
    except Exception as error:  # noqa: BLE001: whatever it was, it is the run's outcome.
        return Outcome(plan, client.kills, client.outages, False, client.recoveries, 0, f"{text}: {error!r:.500}"), told
    finally:
        client.close()


def plans(count: int, draw: random.Random, seconds: float, store: str) -> list[Plan]:
    """Three of four at points, the rest at random times; every point once before one comes again. Of a Redis store's two
    of four at points; in every fourth redis-server is killed, in half of these attnd too."""
    names: list[str] = []
    rounds = 0
    made = []
    for i in range(count):
        plan = Plan(f"r{i}", durability=draw.choice(["ASYNC", "SYNC"]))
        if store == "redis" and i % 4 == 2:
            plan.redis_away = [(draw.uniform(0, seconds / 2), draw.uniform(0, 1)) for _ in range(draw.randint(1, 3))]
        if i % 4 == 3 or (plan.redis_away and i % 8 == 6):
            plan.kill_after = [draw.uniform(0, seconds) for _ in range(draw.randint(1, 3))]
        elif plan.redis_away:
            pass
        else:
            if not names:
                rounds += 1
                names = draw.sample(fault_points(store), len(fault_points(store)))
            plan.point = names.pop()
            plan.passage = 1 if rounds == 1 else draw.choice([1, 2, 3, 5])
            if plan.point == "redis.sent":  # The first ones before it listens.
                plan.passage = draw.randint(10, 100)
        made.append(plan)
    return made


def crash(count: int, seed: int, parallel: int = 1, store: str = "rocksdb") -> tuple[list[Outcome], float]:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = pathlib.Path(folder)

        def redis(own: pathlib.Path) -> RedisServer | None:
            if store != "redis":
                return None
            one = RedisServer(own / "redis")
            stack.callback(one.kill)
            return one

        (root / "straight").mkdir()
        undisturbed, expected = run(Plan("straight"), root / "straight", None, redis(root / "straight"))
        assert not undisturbed.difference and undisturbed.kills == 0, undisturbed
        todo = plans(count, draw, undisturbed.seconds, store)

        # Runs of one worker share a state directory: stores that have seen many deaths.
        def work(worker: int) -> list[Outcome]:
            own = root / f"worker{worker}"
            own.mkdir()
            its_redis = redis(own)
            return [run(plan, own, expected, its_redis)[0] for plan in todo[worker::parallel]]

        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            outcomes = [outcome for some in pool.map(work, range(parallel)) for outcome in some]
    return outcomes, undisturbed.seconds


def summary(outcomes: list[Outcome], seed: int, seconds: float) -> str:
    recoveries = sorted(value for outcome in outcomes for value in outcome.recoveries)
    at = lambda q: recoveries[min(len(recoveries) - 1, int(q * len(recoveries)))]  # noqa: E731
    points = {outcome.plan.point for outcome in outcomes if outcome.plan.point}
    reached = {outcome.plan.point for outcome in outcomes if outcome.plan.point and outcome.reached}
    different = [outcome for outcome in outcomes if outcome.difference]
    lines = [
        f"runs {len(outcomes)} (seed {seed}), the script undisturbed {seconds:.2f} s",
        f"fault points: {len(points)} armed, {len(reached)} reached"
        + (f"; not: {', '.join(sorted(points - reached))}" if points - reached else ""),
        f"deaths: {sum(len(outcome.recoveries) for outcome in outcomes)}, "
        f"of these {sum(outcome.kills for outcome in outcomes)} in the middle of the script",
        *(
            [f"runs without redis-server for a while: {sum(bool(o.plan.redis_away) for o in outcomes)}, "
             f"calls that were told so: {sum(o.outages for o in outcomes)}"]
            if any(o.plan.redis_away for o in outcomes) else []
        ),
        f"runs with a token, answer or state lost, doubled or different: {len(different)}",
        f"recovery (start of the process to the session's first answer): p50 {at(0.5):.3f} s, p99 {at(0.99):.3f} s, "
        f"most {recoveries[-1]:.3f} s",
    ]
    return "\n".join(lines + [f"  {outcome.difference}" for outcome in different]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--store", choices=["rocksdb", "redis"], default="rocksdb")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--report", type=pathlib.Path)
    arguments = parser.parse_args()
    outcomes, seconds = crash(arguments.runs, arguments.seed, arguments.parallel, arguments.store)
    text = summary(outcomes, arguments.seed, seconds)
    print(text)
    if arguments.report:
        arguments.report.write_text(text)
    raise SystemExit(any(outcome.difference for outcome in outcomes))
