"""Language models through the Open Inference Protocol, as the stock client calls them; a sequence is a session."""

import json
import signal
import threading

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.wire.inference import tensor
from tests.wire.session_server import attnd, create, request, tokens, wire  # noqa: F401

MODEL = "lm.gated_deltanet"
PROMPT = [7 * i % 96 for i in range(70)]


@pytest.fixture
def client(attnd):
    with triton.InferenceServerClient(attnd.address) as client:
        yield client


def step(client, prompt=None, model=MODEL, outputs=None, parameters=None, **options):
    """The outputs of one call, by name, and its answer's parameters."""
    if isinstance(prompt, str):
        inputs = [triton.InferInput("text", [1], "BYTES")]
        inputs[0].set_data_from_numpy(np.array([prompt.encode()], np.object_))
    else:
        inputs = [] if prompt is None else [tensor("tokens", np.array(prompt, np.int32))]
    wanted = outputs and [triton.InferRequestedOutput(name) for name in outputs]
    result = client.infer(model, inputs, outputs=wanted, parameters=parameters or {}, **options)
    response = result.get_response()
    told = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()}
    return {output.name: result.as_numpy(output.name) for output in response.outputs}, told


def refused(client, code, *arguments, **options):
    with pytest.raises(InferenceServerException) as caught:
        step(client, *arguments, **options)
    assert caught.value.status() == f"StatusCode.{code}", caught.value.message()
    return caught.value.message()


def sampled(count, **more):
    return {"max_new_tokens": count, "temperature": 1.0, "seed": 5, "ignore_eos": True, **more}


def test_a_language_model_is_a_model(wire, attnd, client):
    index = {model["name"]: model.get("state") for model in client.get_model_repository_index(as_json=True)["models"]}
    assert index[MODEL] == "UNAVAILABLE" and index["gla"] == "READY" and index["lm.gla"] == "UNAVAILABLE"
    assert not client.is_model_ready(MODEL)
    client.load_model(MODEL)
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("lm.none")
    metadata = client.get_model_metadata(MODEL)
    assert [(port.name, port.datatype, list(port.shape)) for port in metadata.inputs] == [
        ("tokens", "INT32", [-1]), ("text", "BYTES", [1]),
    ]
    assert [(port.name, port.datatype, list(port.shape)) for port in metadata.outputs] == [
        ("tokens", "INT32", [-1]), ("text", "BYTES", [1]), ("logprobs", "FP32", [-1]), ("logits", "FP32", [96]),
    ]
    config = client.get_model_config(MODEL).config
    assert config.sequence_batching.max_sequence_idle_microseconds == 600 * 1000000
    assert all(port.optional for port in config.input)
    step(client, PROMPT, parameters=sampled(3))
    statistics = client.get_inference_statistics(MODEL).model_stats[0]
    assert (statistics.name, statistics.inference_count, statistics.inference_stats.success.count) == (MODEL, 1, 1)
    assert MODEL in [entry.name for entry in client.get_inference_statistics().model_stats]
    client.unload_model(MODEL)
    assert not client.is_model_ready(MODEL)
    for call in (client.get_model_metadata, client.get_model_config, client.load_model):
        with pytest.raises(InferenceServerException, match="known are: .*gated_deltanet"):
            call("lm.none")


def test_a_sequence_samples_what_a_session_samples(wire, attnd, client):
    create(wire, attnd, "session", PROMPT)
    expected = tokens(attnd.sessions.Decode(request(wire, "session", 60)))

    whole, told = step(client, PROMPT, parameters=sampled(60))
    assert whole["tokens"].tolist() == expected
    assert whole["logprobs"].shape == (60,) and (whole["logprobs"] < 0).all()
    assert whole["text"].shape == (1,) and whole["text"][0].decode(errors="replace")
    assert told["attnd_position"] == 130 and told["attnd_finish"] == "length"

    first, told = step(client, PROMPT[:40], sequence_id=7, sequence_start=True, parameters=sampled(0))
    assert first["tokens"].size == 0 and told["attnd_position"] == 40
    second, told = step(client, PROMPT[40:], sequence_id=7, parameters=sampled(20))
    third, told = step(client, None, sequence_id=7, sequence_end=True, parameters=sampled(40))
    assert [*second["tokens"], *third["tokens"]] == expected
    assert told["attnd_position"] == 130
    message = refused(client, "INVALID_ARGUMENT", [1], sequence_id=7)
    assert "seq.n7.gated_deltanet" in message and "sequence_start" in message


def test_a_sequence_is_a_session(wire, attnd, client):
    messages = wire["sessions"][0]
    step(client, PROMPT, sequence_id="user/1", sequence_start=True, parameters=sampled(5))
    session = attnd.sessions.Get(messages.GetSessionRequest(session="seq.tuser_2f1.gated_deltanet"))
    assert (session.model, session.position, session.seed) == ("gated_deltanet", 75, 5)
    fork = attnd.sessions.Fork(messages.ForkRequest(session=session.session, new_session="fork"))
    mine, _ = step(client, [1], sequence_id="user/1", parameters=sampled(8))
    attnd.sessions.Append(messages.AppendRequest(session=fork.session, tokens=[1]))
    assert tokens(attnd.sessions.Decode(request(wire, "fork", 8))) == mine["tokens"].tolist()
    # Begun anew.
    _, told = step(client, [1], sequence_id="user/1", sequence_start=True, parameters=sampled(0))
    assert told["attnd_position"] == 1


def test_logits_are_of_the_token_to_come(attnd, client):
    out, _ = step(client, PROMPT, outputs=["logits", "tokens", "logprobs"], parameters={"max_new_tokens": 1})
    logits = out["logits"].astype(np.float64)
    assert logits.shape == (96,)
    assert out["tokens"].tolist() == [int(logits.argmax())]
    logprob = logits.max() - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    np.testing.assert_allclose(out["logprobs"], [logprob], rtol=1e-5)
    # A client that samples by itself.
    got, prompt, start = [], PROMPT, True
    for _ in range(5):
        out, _ = step(
            client, prompt, outputs=["logits"], parameters={"max_new_tokens": 0}, sequence_id="own", sequence_start=start
        )
        prompt, start = [int(out["logits"].argmax())], False
        got += prompt
    assert got == step(client, PROMPT, parameters={"max_new_tokens": 5, "ignore_eos": True})[0]["tokens"].tolist()
    assert "logits" not in step(client, PROMPT)[0], "only where it is asked for"


def test_text_in_and_out(attnd, client):
    out, _ = step(client, "AB", parameters={"max_new_tokens": 4, "ignore_eos": True})
    by_tokens, _ = step(client, [65, 66], parameters={"max_new_tokens": 4, "ignore_eos": True})
    assert out["tokens"].tolist() == by_tokens["tokens"].tolist()
    stops = json.dumps([out["text"][0].decode()[1:2]])
    stopped, told = step(client, "AB", parameters={"max_new_tokens": 4, "ignore_eos": True, "stop": stops})
    assert told["attnd_finish"] == "stop_sequence" and stopped["tokens"].size < 4


def test_a_call_sent_again_happens_once(attnd, client):
    step(client, PROMPT, sequence_id=1, sequence_start=True, parameters=sampled(0))
    again = {"sequence_id": 1, "outputs": ["tokens", "logits"], "parameters": sampled(9, attnd_expected_position=70)}
    first, told = step(client, [3, 4], **again)
    second, told_again = step(client, [3, 4], **again)
    assert first["tokens"].tolist() == second["tokens"].tolist() and told == told_again
    assert first["logits"].tobytes() == second["logits"].tobytes()
    assert told["attnd_position"] == 81
    message = refused(client, "FAILED_PRECONDITION", [5], sequence_id=1, parameters=sampled(9, attnd_expected_position=75))
    assert "given 75, the session stands at 81" in message


def test_sequences_outlive_their_server(attnd):
    with triton.InferenceServerClient(attnd.address) as client:
        expected, _ = step(client, PROMPT, parameters=sampled(40))
        before, _ = step(client, PROMPT, sequence_id=3, sequence_start=True, parameters=sampled(15))
    attnd.stop(signal.SIGKILL)
    attnd.start()
    with triton.InferenceServerClient(attnd.address) as client:
        after, _ = step(client, None, sequence_id=3, parameters=sampled(25))
    assert [*before["tokens"], *after["tokens"]] == expected["tokens"].tolist()


def test_calls_of_a_sequence_come_one_after_another(attnd, client):
    expected, _ = step(client, PROMPT, parameters=sampled(30))
    step(client, PROMPT, sequence_id=2, sequence_start=True, parameters=sampled(0))
    got, errors, arrived = [], [], threading.Semaphore(0)

    def answered(result, error):
        errors.extend([error] if error else [])
        if result:
            got.extend(result.as_numpy("tokens").tolist())
        arrived.release()

    client.start_stream(answered)
    for _ in range(10):
        client.async_stream_infer(MODEL, [], sequence_id=2, parameters=sampled(3))
    for _ in range(10):
        assert arrived.acquire(timeout=60)
    client.stop_stream()
    assert not errors and got == expected["tokens"].tolist()


@pytest.mark.parametrize(
    "wrong, options",
    [
        ("tokens: given 96, expected [0, 96)", {"prompt": [96]}),
        ("tokens: given -1 at 1, expected ids of", {"prompt": [1, -1]}),
        ("parameters: given 'heat', expected max_new_tokens, temperature", {"parameters": {"heat": 1.0}}),
        ("temperature: given 'hot', expected a number", {"parameters": {"temperature": "hot"}}),
        ("max_new_tokens: given -1, expected an integer of at least 0", {"parameters": {"max_new_tokens": -1}}),
        ("top_p", {"parameters": {"top_p": 7.0}}),
        ("stop: given '[1]', expected a text, or a list", {"parameters": {"stop": "[1]"}}),
        ("outputs: given 'o', expected tokens, text, logprobs, logits", {"outputs": ["o"]}),
        ("kernel: given composed, expected none", {"parameters": {"attnd_kernel": "composed"}}),
        ("attnd_durability: given 'paper', expected 'none', 'async' or 'sync'", {"parameters": {"attnd_durability": "paper"}}),
        ("attnd_expected_position: given without sequence_id", {"parameters": {"attnd_expected_position": 0}}),
    ],
)
def test_what_is_wrong_is_named(attnd, client, wrong, options):
    assert wrong in refused(client, "INVALID_ARGUMENT", **{"prompt": [1], **options})


def test_a_refused_call_leaves_the_sequence_as_it_was(attnd, client):
    step(client, PROMPT, sequence_id=9, sequence_start=True, parameters=sampled(0))
    refused(client, "INVALID_ARGUMENT", [1, 2], sequence_id=9, parameters=sampled(2, top_p=7.0))
    refused(client, "UNAVAILABLE", [1, 2], sequence_id=9, parameters=sampled(100000), timeout=20000)
    out, told = step(client, None, sequence_id=9, parameters=sampled(30))
    assert told["attnd_position"] == 100
    assert out["tokens"].tolist() == step(client, PROMPT, parameters=sampled(30))[0]["tokens"].tolist()
    assert "holds no token" in refused(client, "FAILED_PRECONDITION", None, sequence_id=10, sequence_start=True)
    assert "sequence under way" in refused(client, "INVALID_ARGUMENT", [1], sequence_id=10)
