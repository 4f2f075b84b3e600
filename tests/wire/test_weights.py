"""The weights that ship, served: they recall as their cards say, and write English."""

import importlib.util
import math
import random
import re

import grpc
import pytest

import attnd
from attnd.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests import server

WEIGHTS = server.ROOT / "models/weights"
RECALL = sorted(path.name for path in WEIGHTS.glob("attnd-recall-*"))
TEXT = "attnd-text-small"
PAIRS, EXAMPLES = 64, 3


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("recall_example", server.ROOT / "clients/python/examples/recall.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    options = (f"--models={WEIGHTS}", f"--state-dir={tmp_path_factory.mktemp('state')}")
    with server.running("--device=cpu", *options) as address:
        yield address


@pytest.fixture(scope="module")
def channel(address):
    with grpc.insecure_channel(address) as channel:
        yield channel


@pytest.fixture(scope="module")
def client(address):
    with attnd.Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def sessions(channel):
    return sessions_pb2_grpc.SessionsStub(channel)


def test_every_model_loads_and_has_a_card(channel):
    stub = models_pb2_grpc.ModelsStub(channel)
    names = [model.name for model in stub.List(models_pb2.ListModelsRequest()).models]
    assert names == sorted(path.name for path in WEIGHTS.iterdir() if path.is_dir())
    for name in names:
        assert stub.Load(models_pb2.LoadModelRequest(name=name)).card.startswith(f"# {name}\n")


def test_the_comparison_has_every_kind():
    kinds = {re.sub(r"-\d+$", "", name.removeprefix("attnd-recall-")) for name in RECALL if "hybrid" not in name}
    assert kinds == {"softmax", "linear", "gla", "delta_net", "gated_deltanet"}
    assert {"attnd-recall-hybrid-3-1", "attnd-recall-hybrid-7-1"} <= set(RECALL)


@pytest.mark.parametrize("name", RECALL)
def test_recall_is_what_the_card_says(name, client, example):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    card = (WEIGHTS / name / "README.md").read_text()
    table = {int(pairs): float(score) for pairs, score in re.findall(r"^\| (\d+) \| ([\d.]+) \|$", card, re.MULTILINE)}
    stated = table[PAIRS]
    got, _ = example.recall(client, name, PAIRS, EXAMPLES, seed)
    # Five times what chance alone makes of it, were answers independent; they are not quite.
    spread = math.sqrt(max(stated * (1 - stated), 0.01) / (PAIRS * EXAMPLES))
    assert abs(got - stated) < 5 * spread
    if "softmax" in name or "hybrid" in name:
        got, _ = example.recall(client, name, 32, EXAMPLES, seed)
        assert got > 0.93 and table[32] > 0.95


def say(sessions, prompts, count, **sampling):
    session = sessions.Create(sessions_pb2.CreateSessionRequest(model=TEXT, seed=7)).session
    for prompt in prompts:
        sessions.Append(sessions_pb2.AppendRequest(session=session, text=prompt))
    request = sessions_pb2.DecodeRequest(
        session=session, max_new_tokens=count, sampling=sessions_pb2.Sampling(**sampling)
    )
    return "".join(event.text for event in sessions.Decode(request))


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8}])
def test_a_prompt_is_continued_the_same_way_every_time(sessions, sampling):
    prompt = "It was a dark and stormy night, and "
    cut = random.randrange(1, len(prompt))
    text = say(sessions, [prompt], 200, **sampling)
    assert say(sessions, [prompt[:cut], prompt[cut:]], 200, **sampling) == text
    words = re.findall(r"[a-z]+", text)
    assert len(text) == 200 and len(words) > 20
    assert {"the", "and", "to", "of", "a", "he", "she", "it", "was", "in", "that", "his", "her", "had"} & set(words)


def test_english_is_expected(sessions):
    """Below two nats a byte, where letters by their frequency alone cost nearly three."""
    text = b"The children ran down the road to the village, and the old woman looked after them."
    session = sessions.Create(sessions_pb2.CreateSessionRequest(model=TEXT)).session
    sampling = sessions_pb2.Sampling(top_logprobs=64)
    nats = 0.0
    for at in range(1, len(text)):
        sessions.Append(sessions_pb2.AppendRequest(session=session, tokens=text[at - 1 : at]))
        request = sessions_pb2.DecodeRequest(session=session, max_new_tokens=1, sampling=sampling)
        (sampled,) = (sampled for event in sessions.Decode(request) for sampled in event.tokens)
        sessions.Rewind(sessions_pb2.RewindRequest(session=session, position=at))
        logprobs = {entry.token: entry.logprob for entry in sampled.top}
        # What is not among them is less probable than all of them.
        nats -= logprobs.get(text[at], min(logprobs.values()))
    assert nats / (len(text) - 1) < 2
