"""The Open Inference Protocol as stock clients speak it: tritonclient, and its messages by hand where the client would not
send what is tested."""

import queue

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.wire.inference import arrays, infer, tensor


@pytest.fixture
def random():
    return np.random.default_rng(11)


@pytest.fixture
def stub(address):
    with grpc.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def qkv(random, tokens=6):
    return {name: random.standard_normal((1, tokens, 2, 8), dtype=np.float32) for name in "qkv"}


def wire(inputs):
    return [tensor(name, array) for name, array in inputs.items()]


def message(inputs, model="softmax_attention", typed=False):
    """A request built by hand."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        part = request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        if typed:
            part.contents.fp32_contents.extend(array.ravel().tolist())
        else:
            request.raw_input_contents.append(array.tobytes())
    return request


def refused(call, code="INVALID_ARGUMENT"):
    """The text of a call's refusal."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    assert caught.value.status() == f"StatusCode.{code}", caught.value.message()
    return caught.value.message()


def refused_message(stub, request, code=grpc.StatusCode.INVALID_ARGUMENT):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code() == code, caught.value.details()
    return caught.value.details()


# What the server says of itself ---------------------------------------------------------------------------------------


def test_server(triton):
    assert triton.is_server_live() and triton.is_server_ready()
    metadata = triton.get_server_metadata()
    assert metadata.name == "attnd" and metadata.version
    assert {"sequence", "statistics", "parameters"} <= set(metadata.extensions)


def test_models(triton):
    index = triton.get_model_repository_index().models
    names = [model.name for model in index]
    assert "gla" in names and len(names) == len(set(names))
    assert all(model.state == "READY" for model in index)
    for name in names:
        assert triton.is_model_ready(name) and triton.is_model_ready(name, "1")
    assert not triton.is_model_ready("nonsense")
    assert not triton.is_model_ready("gla", "2")


def test_metadata_and_configuration(triton):
    metadata = triton.get_model_metadata("gla")
    assert metadata.name == "gla" and list(metadata.versions) == ["1"]
    inputs = {port.name: port for port in metadata.inputs}
    assert {"q", "k", "v", "g", "initial_state", "cu_seqlens"} <= set(inputs)
    assert inputs["cu_seqlens"].datatype == "INT32" and list(inputs["q"].shape) == [-1] * 4
    assert [port.name for port in metadata.outputs] == ["o", "final_state"]
    config = triton.get_model_config("gla").config
    assert config.name == "gla" and config.max_batch_size == 0
    optional = {port.name: port.optional for port in config.input}
    assert not optional["q"] and optional["initial_state"]
    assert config.HasField("sequence_batching")
    assert not triton.get_model_config("mala").config.HasField("sequence_batching")
    # A count that may come in either type is announced in the type in which it comes back.
    flow = triton.get_model_metadata("flow_attention")
    counts = {port.name: port.datatype for port in [*flow.inputs, *flow.outputs] if port.name.endswith("_count")}
    assert counts == {"initial_state_count": "INT64", "final_state_count": "INT64"}


def test_unknown_models(triton, random):
    for call in (
        lambda: triton.get_model_metadata("glaa"),
        lambda: triton.get_model_config("glaa"),
        lambda: triton.get_inference_statistics("glaa"),
        lambda: triton.infer("glaa", wire(qkv(random))),
    ):
        assert "gla" in refused(call, "NOT_FOUND")
    assert "version" in refused(lambda: triton.infer("gla", wire(qkv(random)), model_version="7"), "NOT_FOUND")


def test_statistics_count_calls(triton, random):
    def count():
        (model,) = triton.get_inference_statistics("retention").model_stats
        return model.inference_stats.success.count, model.inference_stats.fail.count

    successes, failures = count()
    for _ in range(3):
        infer(triton, "retention", qkv(random))
    refused(lambda: infer(triton, "retention", qkv(random), {"scale": "wide"}))
    assert count()[0] == successes + 3
    assert count()[1] == failures + 1
    (model,) = triton.get_inference_statistics("retention").model_stats
    assert sum(batch.batch_size * batch.compute_infer.count for batch in model.batch_stats) == model.inference_count
    assert sum(batch.compute_infer.count for batch in model.batch_stats) == model.execution_count
    assert sum(batch.batch_size * batch.compute_infer.ns for batch in model.batch_stats) == (
        model.inference_stats.compute_infer.ns
    )


def test_shared_memory_is_not_offered(triton):
    for call in (
        lambda: triton.register_system_shared_memory("region", "/key", 64),
        lambda: triton.get_system_shared_memory_status(),
        lambda: triton.unregister_system_shared_memory(),
        lambda: triton.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 64),
        lambda: triton.get_cuda_shared_memory_status(),
    ):
        refused(call, "UNIMPLEMENTED")


# Calls ----------------------------------------------------------------------------------------------------------------


def test_answers_name_their_call(triton, random):
    result = triton.infer("softmax_attention", wire(qkv(random)), request_id="seven")
    response = result.get_response()
    assert response.id == "seven"
    assert response.model_name == "softmax_attention" and response.model_version == "1"
    assert result.as_numpy("o").shape == (1, 6, 2, 8)
    assert response.outputs[0].datatype == "FP32"


def test_wanted_outputs(triton, random):
    inputs = qkv(random) | {"g": -np.ones((1, 6, 2), np.float32)}
    wanted = [triton_grpc.InferRequestedOutput("final_state")]
    assert set(arrays(triton.infer("gla", wire(inputs), outputs=wanted))) == {"final_state"}
    wanted = [triton_grpc.InferRequestedOutput("p")]
    assert "p" in refused(lambda: triton.infer("gla", wire(inputs), outputs=wanted))


def test_every_output_of_the_metadata_may_be_wanted(triton, random):
    """As load generators do; those that a call does not have are left out."""
    listed = [port.name for port in triton.get_model_metadata("softmax_attention").outputs]
    assert {"o", "lse"} <= set(listed)
    wanted = [triton_grpc.InferRequestedOutput(name) for name in listed]
    assert set(infer(triton, "softmax_attention", qkv(random), outputs=wanted)) == {"o"}
    assert set(infer(triton, "softmax_attention", qkv(random), {"return_lse": True}, outputs=wanted)) == {"o", "lse"}


def test_typed_contents_equal_raw_ones(stub, random):
    inputs = qkv(random)
    raw = stub.ModelInfer(message(inputs))
    typed = stub.ModelInfer(message(inputs, typed=True))
    assert raw.raw_output_contents == typed.raw_output_contents
    assert len(raw.raw_output_contents) == 1


def test_every_datatype(triton, random):
    """Floating types share a call; integers and bools go beside them."""
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
        inputs = {name: x.astype(dtype) for name, x in qkv(random).items()}
        outputs = infer(triton, "softmax_attention", inputs | {"mask": np.tri(6, dtype=bool)})
        assert outputs["o"].dtype == dtype
    indices = np.zeros((1, 1, 1, 1))
    for dtype in (np.int32, np.int64):
        outputs = infer(triton, "block_sparse_attention", qkv(random) | {"block_indices": indices.astype(dtype)})
        assert outputs["o"].shape == (1, 6, 2, 8)


def test_attributes_are_parameters(triton, random):
    inputs = qkv(random, tokens=12)
    whole = infer(triton, "neighborhood_attention", inputs, {"window": [3, 4], "height": 3, "width": 4})
    full = infer(triton, "softmax_attention", inputs)
    np.testing.assert_allclose(whole["o"], full["o"], rtol=1e-5, atol=1e-6)
    causal = infer(triton, "softmax_attention", inputs, {"causal": True, "scale": 0.25, "return_lse": True})
    assert set(causal) == {"o", "lse"}
    for attributes, text in (
        ({"scale": "wide"}, "scale"),
        ({"casual": True}, "casual"),
        ({"causal": 3}, "causal"),
        ({"scale": float("nan")}, "scale"),
    ):
        assert text in refused(lambda: infer(triton, "softmax_attention", inputs, attributes))
    for window in ("[3, ", "[[3, 4]]", '["a", 4]', "{}"):
        assert "window" in refused(
            lambda: infer(triton, "neighborhood_attention", inputs, {"window": window, "height": 3, "width": 4})
        )


def test_malformed_requests_name_what_is_wrong(stub, random):
    def changed(change):
        request = message(qkv(random))
        change(request)
        return refused_message(stub, request)

    def shorten(request):
        request.raw_input_contents[0] = request.raw_input_contents[0][:-4]

    def drop_contents(request):
        del request.raw_input_contents[2]

    def both(request):
        request.inputs[0].contents.fp32_contents.append(1.0)

    def negative(request):
        request.inputs[1].shape[0] = -1

    def huge(request):
        request.inputs[1].shape[:] = [1 << 62, 1 << 62]

    def rename(request):
        request.inputs[0].name = "query"

    def twice(request):
        request.inputs[1].name = "q"

    def retype(request):
        request.inputs[0].datatype = "FP99"

    def strings(request):
        request.inputs[0].datatype = "BYTES"

    for change, text in (
        (shorten, "q"),
        (drop_contents, "raw_input_contents"),
        (both, "contents"),
        (negative, "k"),
        (huge, "k"),
        (rename, "query"),
        (twice, "q"),
        (retype, "FP99"),
        (strings, "BYTES"),
    ):
        details = changed(change)
        assert text in details, f"{change.__name__}: {details}"
    # The server has not suffered.
    assert stub.ModelInfer(message(qkv(random))).outputs


def test_deadlines(triton, random):
    # float64 runs the definition: far more than a millisecond.
    inputs = {name: random.standard_normal((1, 1000, 4, 64)) for name in "qkv"}
    refused(lambda: triton.infer("softmax_attention", wire(inputs), client_timeout=0.001), "DEADLINE_EXCEEDED")


def test_asynchronous_calls(triton, random):
    done = queue.Queue()
    inputs = [qkv(random, tokens=n) for n in range(1, 33)]
    for index, call in enumerate(inputs):
        triton.async_infer(
            "softmax_attention", wire(call), callback=lambda result, error: done.put((result, error)),
            request_id=str(index),
        )
    answers = [done.get(timeout=60) for _ in inputs]
    assert all(error is None for _, error in answers)
    results = {int(result.get_response().id): result.as_numpy("o") for result, _ in answers}
    for index, call in enumerate(inputs):
        np.testing.assert_array_equal(results[index], infer(triton, "softmax_attention", call)["o"])


# Streams and sequences --------------------------------------------------------------------------------------------------


@pytest.fixture
def answers(triton):
    """A stream; answers arrive in this queue."""
    received = queue.Queue()
    triton.start_stream(callback=lambda result, error: received.put((result, error)))
    yield received
    triton.stop_stream()


def test_streams_answer_every_request_and_survive_errors(triton, answers, random):
    inputs = qkv(random)
    for index, model in enumerate(["softmax_attention", "nonsense", "softmax_attention"]):
        triton.async_stream_infer(model, wire(inputs), request_id=str(index))
    good, bad = {}, []
    for _ in range(3):
        result, error = answers.get(timeout=60)
        if error is None:
            good[result.get_response().id] = result.as_numpy("o")
        else:
            bad.append(error.message())
    assert set(good) == {"0", "2"}
    assert len(bad) == 1 and "nonsense" in bad[0]
    np.testing.assert_array_equal(good["0"], infer(triton, "softmax_attention", inputs)["o"])


def test_streams_survive_answers_that_no_message_can_hold(triton, answers):
    q = np.ones((2, 1, 10, 1024), np.float32)  # 80 MiB of states
    large = {"q": q, "k": q, "v": q, "g": np.zeros(q.shape[:3], np.float32)}
    for index, outputs in enumerate([None, [triton_grpc.InferRequestedOutput("o")]]):
        triton.async_stream_infer("gla", wire(large), request_id=str(index), outputs=outputs)
    result, error = answers.get(timeout=60)
    assert result is None and "fewer outputs" in error.message()
    result, error = answers.get(timeout=60)
    assert error is None and result.as_numpy("o").shape == q.shape


def gated(random, tokens):
    return qkv(random, tokens) | {"g": -np.abs(random.standard_normal((1, tokens, 2), dtype=np.float32))}


def cut(inputs, begin, end):
    return {name: x[:, begin:end] for name, x in inputs.items()}


def test_sequences_on_a_stream(triton, answers, random):
    """Two sequences interleaved, named by a number and by a text; each keeps its own state."""
    inputs = {5: gated(random, 20), "five": gated(random, 20)}
    for begin in range(0, 20, 5):
        for sequence, whole in inputs.items():
            triton.async_stream_infer(
                "gla", wire(cut(whole, begin, begin + 5)), request_id=f"{sequence}/{begin}", sequence_id=sequence,
                sequence_start=begin == 0, sequence_end=begin == 15,
            )
    outputs = {}
    for _ in range(8):
        result, error = answers.get(timeout=60)
        assert error is None, error
        outputs[result.get_response().id] = result.as_numpy("o")
    for sequence, whole in inputs.items():
        pieces = np.concatenate([outputs[f"{sequence}/{begin}"] for begin in range(0, 20, 5)], axis=1)
        np.testing.assert_allclose(pieces, infer(triton, "gla", whole)["o"], rtol=2e-5, atol=1e-5)


def test_sequences_must_begin(triton, random):
    inputs = gated(random, 4)
    assert "sequence" in refused(lambda: infer(triton, "gla", inputs, sequence_id=987654321))
    # A sequence that has ended is no more.
    infer(triton, "gla", inputs, sequence_id=987654321, sequence_start=True, sequence_end=True)
    refused(lambda: infer(triton, "gla", inputs, sequence_id=987654321))


def test_sequences_that_start_again_forget(triton, random):
    inputs = gated(random, 4)
    fresh = infer(triton, "gla", inputs)["o"]
    for _ in range(2):
        again = infer(triton, "gla", inputs, sequence_id=42, sequence_start=True)["o"]
        np.testing.assert_array_equal(again, fresh)
    infer(triton, "gla", inputs, sequence_id=42, sequence_end=True)


def test_sequences_need_a_state(triton, random):
    assert "sequence" in refused(
        lambda: infer(triton, "neighborhood_attention", qkv(random), {"window": 3}, sequence_id=4, sequence_start=True)
    )


def test_failed_steps_leave_the_state_as_it_was(triton, random):
    inputs = gated(random, 12)
    options = {"sequence_id": 4321}
    first = infer(triton, "gla", cut(inputs, 0, 6), sequence_start=True, **options)["o"]
    refused(lambda: infer(triton, "gla", cut(inputs, 6, 12) | {"g": np.zeros((1, 5, 2), np.float32)}, **options))
    second = infer(triton, "gla", cut(inputs, 6, 12), sequence_end=True, **options)["o"]
    whole = infer(triton, "gla", inputs)["o"]
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, rtol=2e-5, atol=1e-5)
