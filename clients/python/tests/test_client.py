"""The package against a real server."""

import inspect
import threading
import time

import grpc
import numpy as np
import pytest

import attnd
from attnd import _calls


@pytest.fixture
def random():
    return np.random.default_rng(7)


def qkv(random, tokens=24, heads=2, size=8, dtype=np.float32):
    return [random.standard_normal((1, tokens, heads, size)).astype(dtype) for _ in range(3)]


def softmax(q, k, v):
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    s = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(q.shape[-1])
    p = np.exp(s - s.max(-1, keepdims=True))
    return np.einsum("bhts,bshv->bthv", p / p.sum(-1, keepdims=True), v)


def relative(out, expected):
    out = out.astype(np.float64)
    return np.linalg.norm(out - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    "dtype, tolerance",
    [(np.float32, 1e-5), (np.float16, 2e-3), (attnd.bfloat16, 1e-2), (np.float64, 1e-9)],
    ids=["float32", "float16", "bfloat16", "float64"],
)
def test_every_floating_type(client, random, dtype, tolerance):
    q, k, v = qkv(random, dtype=dtype)
    result = client.softmax_attention(q, k, v)
    assert result.o.dtype == np.dtype(dtype)
    assert relative(result.o, softmax(q, k, v)) < tolerance
    assert result.lse is None
    assert result.kernel and result.device and result.batch_size >= 1
    assert result.timing.total_us >= result.timing.compute_us


def test_typed_method_equals_evaluate(client, random):
    q, k, v = qkv(random)
    typed = client.softmax_attention(q, k, v, causal=True, window_left=4, return_lse=True)
    plain = client.evaluate(
        "softmax_attention",
        {"q": q, "k": k, "v": v},
        {"causal": True, "window_left": 4, "return_lse": True},
    )
    assert isinstance(typed, attnd.Result)
    assert set(typed) == set(plain) == {"o", "lse"}
    np.testing.assert_array_equal(typed.o, plain["o"])
    np.testing.assert_array_equal(typed.lse, plain["lse"])


def test_state_is_handed_on(client, random):
    q, k, v = qkv(random, tokens=40)
    g = -np.abs(random.standard_normal((1, 40, 2))).astype(np.float32)
    whole = client.gla(q, k, v, g)
    first = client.gla(q[:, :17], k[:, :17], v[:, :17], g[:, :17])
    second = client.gla(q[:, 17:], k[:, 17:], v[:, 17:], g[:, 17:], initial_state=first.final_state)
    assert relative(np.concatenate([first.o, second.o], axis=1), whole.o) < 1e-5
    assert relative(second.final_state, whole.final_state) < 1e-5


def test_views_scalars_and_lists_are_taken(client, random):
    q, k, v = qkv(random, tokens=25)
    strided = np.repeat(q, 2, axis=-1)[..., ::2]
    reference = client.neighborhood_attention(q, k, v, height=5, width=5, window=[3, 5], scale=0.5)
    mixed = client.neighborhood_attention(q, k, v, height=5, width=5, window=(np.int32(3), np.int64(5)), scale=0.5)
    np.testing.assert_array_equal(reference.o, mixed.o)
    same = client.neighborhood_attention(
        strided, k, v.astype(">f4"), height=np.int64(5), width=5, window=np.array([3, 5]), scale=np.float32(0.5)
    )
    np.testing.assert_array_equal(reference.o, same.o)


def test_empty_calls(client):
    q = np.zeros((1, 0, 2, 8), np.float32)
    result = client.softmax_attention(q, q, q)
    assert result.o.shape == (1, 0, 2, 8)


def test_large_tensors_are_streamed(client, random, monkeypatch):
    q, k, v = qkv(random, tokens=64)
    whole = client.softmax_attention(q, k, v, causal=True)
    monkeypatch.setattr(_calls, "MAX_UNARY_BYTES", 0)
    monkeypatch.setattr(_calls, "CHUNK_BYTES", 1000)
    streamed = client.softmax_attention(q, k, v, causal=True)
    np.testing.assert_array_equal(whole.o, streamed.o)
    assert type(streamed) is type(whole)


def test_more_than_a_message_holds(client, random):
    x = random.standard_normal((1, 9 << 20, 2), dtype=np.float32)  # 72 MiB
    weight = np.array([[0, 0, 0, 1], [0, 0, 1, 0]], np.float32)
    result = client.short_conv(x, weight, activation="none")
    np.testing.assert_array_equal(result.o[0, :, 0], x[0, :, 0])
    np.testing.assert_array_equal(result.o[0, 1:, 1], x[0, :-1, 1])


def states(batch):
    """A call whose answer is far larger than its inputs: 40 MiB of state for each entry of the batch."""
    q = np.ones((batch, 1, 10, 1024), np.float32)
    return {"q": q, "k": q, "v": q, "g": np.zeros(q.shape[:3], np.float32)}


def test_answers_larger_than_a_message(client):
    result = client.gla(**states(2))
    assert result.final_state.nbytes > 64 << 20
    np.testing.assert_array_equal(result.final_state, 1)
    # What else fails for want of room is told, not repeated on a stream.
    assert client.gla(**states(1)).final_state.nbytes < 64 << 20


def test_batches_of_any_sizes(client, random):
    x = random.standard_normal((1, 9 << 20, 2), dtype=np.float32)  # 72 MiB
    large = attnd.Call("short_conv", {"x": x, "weight": np.ones((2, 1), np.float32)}, {"activation": "none"})
    small = attnd.Call("softmax_attention", dict(zip("qkv", qkv(random))))
    answers = list(client.evaluate_batch([large, small, attnd.Call("gla", states(2)), small]))
    np.testing.assert_array_equal(answers[0]["o"], x)
    np.testing.assert_array_equal(answers[2]["final_state"], 1)
    np.testing.assert_array_equal(answers[1]["o"], answers[3]["o"])


def test_batches_whose_calls_cannot_be_read(client, random):
    def calls():
        yield attnd.Call("softmax_attention", dict(zip("qkv", qkv(random))))
        yield attnd.Call("softmax_attention", {"q": np.zeros(3, np.complex64)})

    answers = client.evaluate_batch(calls())
    assert isinstance(next(answers), attnd.Result)
    with pytest.raises(TypeError, match="softmax_attention: q: .*complex64"):
        next(answers)


@pytest.mark.parametrize("streamed", [False, True])
def test_errors_carry_the_servers_text(client, random, monkeypatch, streamed):
    if streamed:
        monkeypatch.setattr(_calls, "MAX_UNARY_BYTES", 0)
    q, k, v = qkv(random)
    with pytest.raises(attnd.InvalidArgument, match="gla: .*g") as caught:
        client.gla(q, k, v, np.zeros((1, 23, 2), np.float32))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(caught.value, ValueError)
    with pytest.raises(attnd.NotFound, match="gla"):
        client.evaluate("glaa", {"q": q})


def test_forced_kernels(client, random):
    q, k, v = qkv(random)
    assert client.softmax_attention(q, k, v, kernel="composed").kernel == "composed"
    with pytest.raises(attnd.InvalidArgument, match="no_such_kernel"):
        client.softmax_attention(q, k, v, kernel="no_such_kernel")


def test_arguments_that_no_message_can_hold():
    with attnd.Client("localhost:1") as client:
        with pytest.raises(TypeError, match="softmax_attention: q: .*complex64"):
            client.softmax_attention(np.zeros((1, 1, 1, 1), np.complex64), [0], [0])
        with pytest.raises(TypeError, match="attribute scale: given object"):
            client.softmax_attention([0.0], [0.0], [0.0], scale=object())
        with pytest.raises(ValueError, match="softmax_attention: attribute window_left: .*out of range"):
            client.softmax_attention([0.0], [0.0], [0.0], window_left=2**63)
        with pytest.raises(ValueError, match="priority: given -1"):
            client.evaluate("softmax_attention", {}, priority=-1)
        with pytest.raises(TypeError, match="attribute window: a list"):
            client.neighborhood_attention([0.0], [0.0], [0.0], window=[1, "a"])


def test_wanted_outputs(client, random):
    q, k, v = qkv(random)
    result = client.evaluate("gla", {"q": q, "k": k, "v": v, "g": np.zeros((1, 24, 2), np.float32)}, outputs=["o"])
    assert set(result) == {"o"}


def test_batches_keep_order_and_go_on_after_errors(client, random):
    inputs = [dict(zip("qkv", qkv(random, tokens=n))) for n in (3, 5, 8)]
    calls = [attnd.Call("softmax_attention", x, {"causal": True}) for x in inputs]
    calls.insert(1, attnd.Call("softmax_attention", inputs[0], {"nonsense": 1}))
    answers = list(client.evaluate_batch(calls))
    assert [type(answer) for answer in answers] == [attnd.Result, attnd.InvalidArgument, attnd.Result, attnd.Result]
    for x, answer in zip(inputs, [answers[0], answers[2], answers[3]]):
        np.testing.assert_array_equal(answer["o"], client.softmax_attention(**x, causal=True).o)


def test_results_do_not_depend_on_company(client, random):
    calls = [dict(zip("qkv", qkv(random, tokens=n))) for n in range(1, 40)]
    alone = [client.softmax_attention(**x, causal=True).o for x in calls]
    together = client.evaluate_batch([attnd.Call("softmax_attention", x, {"causal": True}) for x in calls])
    for x, y in zip(alone, together):
        np.testing.assert_array_equal(x, y["o"])


def test_compare(client, random):
    q, k, v = qkv(random, dtype=attnd.bfloat16)
    report = client.compare("softmax_attention", {"q": q, "k": k, "v": v}, {"causal": True})
    assert report.within_tolerance and report.bitwise_repeatable
    assert [output.output for output in report.outputs] == ["o"]
    assert 0 < report.outputs[0].relative < report.tolerance
    drawn = client.compare("gla", random=attnd.Random(seed=3, dims={"T": 33}), kernel="composed")
    assert drawn.kernel == "composed" and drawn.within_tolerance
    with pytest.raises(ValueError, match="exactly one"):
        client.compare("gla")


def test_catalogue_and_methods_agree(client):
    operators = client.list()
    assert [op.id for op in operators] == sorted(op.id for op in operators)
    assert {"gla", "kda", "softmax_attention"} <= {op.id for op in operators}
    named = [op.id for op in client.list("softmax")]
    assert "softmax_attention" in named and all("softmax" in op for op in named)
    for op in operators:
        described = client.describe(op.id)
        method = inspect.signature(getattr(client, op.id))
        for entry in [*described.inputs, *described.attributes]:
            assert entry.name in method.parameters, f"{op.id}: {entry.name}"
        required = [name for name, p in method.parameters.items() if p.default is p.empty]
        assert set(required) == {p.name for p in described.inputs if not p.optional and not p.condition} | {
            a.name for a in described.attributes if a.required
        }
        assert all(p.name in inspect.getdoc(getattr(client, op.id)) for p in described.outputs)


def test_health(client):
    assert client.healthy()


def test_deadlines(client, random):
    # Token by token, this takes much longer than it is given.
    q, k, v = qkv(random, tokens=8192, heads=4, size=64)
    g = np.zeros(q.shape[:3], np.float32)
    with pytest.raises(attnd.DeadlineExceeded):
        client.gla(q, k, v, g, kernel="composed", timeout=0.02)


def test_nobody_there():
    with attnd.Client("localhost:1", retry=attnd.Retry(attempts=2, initial_backoff=0.01)) as client:
        begin = time.monotonic()
        with pytest.raises(attnd.Unavailable):
            client.list()
        assert time.monotonic() - begin < 10


def test_threads_share_a_client(client, random):
    q, k, v = qkv(random)
    expected = client.softmax_attention(q, k, v).o
    failures = []

    def work():
        for _ in range(5):
            if not np.array_equal(client.softmax_attention(q, k, v).o, expected):
                failures.append("differs")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
