"""The table of docs/operations.md is what servers export: every family with its type and labels, and no other."""

import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

import attnd
from attnd.v1 import sessions_pb2 as pb
from attnd.v1 import sessions_pb2_grpc
from tests import server
from tests.docs.pages import table_after
from tests.wire.inference import infer


def documented():
    """{family: (type, labels, where it is missing)}."""
    rows = table_after("docs/operations.md", "## Metrics")
    assert len({row[0] for row in rows}) == len(rows)
    return {
        family: (kind, frozenset(labels.replace(" ", "").split(",")) - {""}, meaning.rpartition(";")[2].strip())
        for family, kind, labels, meaning in rows
    }


def scrape(metrics_port):
    page = urllib.request.urlopen(f"http://localhost:{metrics_port}/metrics", timeout=60).read().decode()
    return list(text_string_to_metric_families(page))


def exported(metrics_port):
    """{family: (type, labels)}."""
    families = {}
    for family in scrape(metrics_port):
        # The parser names a counter without what its samples end in.
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        assert len(labels) == 1, f"{name}: samples with different labels: {labels}"
        families[name] = (family.type, labels.pop())
    return families


def call_everything(address):
    """Calls of each kind: every RPC, an operator whose kernel declines, calls that fail, a kept state."""
    random = np.random.default_rng()
    q, k, v, g = (random.standard_normal((1, 20, 2, 16), dtype=np.float32) for _ in range(4))
    with attnd.Client(address) as client:
        server.wait_until(client.healthy)
        client.list()
        client.describe("gla")
        first = client.gla(q, k, v, -abs(g))
        client.gla(q, k, v, -abs(g), initial_state=first.final_state)
        # No chunk form is for heads as wide as this.
        wide = random.standard_normal((1, 4, 1, 1100), dtype=np.float32)
        assert client.gla(wide, wide, wide, -abs(wide)).kernel == "composed"
        long = np.zeros((1, 1 << 16, 2, 16), np.float32)
        client.linear_attention(long, long, long)
        call = attnd.Call("gla", {"q": q, "k": k, "v": v, "g": -abs(g)})
        assert len(list(client.evaluate_batch([call, call]))) == 2
        client.compare("gla", random=attnd.Random())
        with pytest.raises(attnd.InvalidArgument):
            client.gla(q, k[:, :5], v, -abs(g))
    with tritonclient.grpc.InferenceServerClient(address) as client:
        inputs = {"q": q, "k": k, "v": v, "g": -abs(g)}
        infer(client, "gla", inputs, sequence_id=7, sequence_start=True)
        client.get_inference_statistics()
    with grpc.insecure_channel(address) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


def call_sessions(address):
    """A decode that is asked for again, a fork, a rewind; 10 tokens sampled, 12 of a prompt."""
    with grpc.insecure_channel(address) as channel:
        sessions = sessions_pb2_grpc.SessionsStub(channel)
        sessions.Create(pb.CreateSessionRequest(session="s", model="gla"))
        sessions.Append(pb.AppendRequest(session="s", tokens=[1] * 13))
        decode = pb.DecodeRequest(
            session="s", expected_position=13, max_new_tokens=10, stop=pb.Stop(ignore_eos=True)
        )
        for _ in range(2):
            assert sum(len(event.tokens) for event in sessions.Decode(decode)) == 10
        sessions.Fork(pb.ForkRequest(session="s"))
        sessions.Rewind(pb.RewindRequest(session="s", position=5))


def on_a_gpu(address):
    with attnd.Client(address) as client:
        return client.short_conv(np.zeros((1, 4, 3), np.float32), np.zeros((3, 2), np.float32)).device.startswith("cuda")


def check(page, missing):
    """The page has every family of the table but those that are missing for one of these reasons."""
    table = documented()
    expected = {family: (kind, labels) for family, (kind, labels, where) in table.items() if where not in missing}
    assert page == expected


def test_serve():
    with server.started("serve", f"--models={server.ROOT / 'models/testdata'}") as ports:
        address = f"localhost:{ports['grpc']}"
        call_everything(address)
        call_sessions(address)
        check(exported(ports["metrics"]), {"only once one failed"} | (set() if on_a_gpu(address) else {"only with a GPU"}))
        values = {sample.name: sample.value for family in scrape(ports["metrics"]) for sample in family.samples}
        # The state [1,2,16,16] that one sequence keeps.
        assert values["attnd_sequences"] == 1 and values["attnd_sequence_bytes"] == 4 * 2 * 16 * 16
        assert values["attnd_sequences_expired_total"] == 0
        assert values["attnd_tokens_generated_total"] == 10
        assert values["attnd_time_to_first_token_seconds_count"] == 1 and values["attnd_inter_token_seconds_count"] == 9
        assert values["attnd_tokens_prefilled_total"] == 12 and values["attnd_session_replayed_tokens_total"] == 0
        assert values["attnd_session_forks_total"] == values["attnd_session_rewinds_total"] == 1
        assert values["attnd_store_corruptions_total"] == values["attnd_session_fenced_total"] == 0
        assert values["attnd_store_foreign_states_total"] == 0
        labelled = {(s.name, *sorted(s.labels.values())): s.value for f in scrape(ports["metrics"]) for s in f.samples}
        assert labelled["attnd_session_resume_total", "complete"] == 1
        assert labelled["attnd_store_write_bytes_total", "log"] > 0


def test_router_and_worker():
    with server.started("worker", "--device=cpu") as worker:
        with server.started("router", f"--workers=localhost:{worker['grpc']}") as router:
            address = f"localhost:{router['grpc']}"
            call_everything(address)
            check(
                exported(router["metrics"]),
                {"only with a GPU", "not in a router", "only once one failed"},
            )
            page = exported(worker["metrics"])
        table = {family: (kind, labels) for family, (kind, labels, _) in documented().items()}
        # Reports, refusals and fallbacks are counted where the calls come in.
        assert page.items() <= table.items()
        assert {"attnd_op_evaluations_total", "attnd_cpu_memory_bytes", "attnd_sessions", "process_threads"} <= page.keys()
        assert "attnd_sequences" not in page
