"""A model that was saved here, served: the server's probabilities are those of the model in PyTorch."""

import pathlib
import random
import sys

import grpc
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(pathlib.Path(__file__).parent), str(ROOT)]
torch = pytest.importorskip("torch", reason="PyTorch, in which the models are trained, is not installed")

import model as models  # noqa: E402
from recall import MODELS  # noqa: E402
from tests import server  # noqa: E402

from attnd.v1 import sessions_pb2, sessions_pb2_grpc  # noqa: E402

NAMES = ("softmax", "linear-32", "gla-32", "delta_net-32", "gated_deltanet-32", "hybrid-3-1")
TOP = 20


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(torch.seed() % (1 << 32))
    torch.set_num_threads(1)
    for name in NAMES:
        # Weights as large as these make every layer matter.
        models.save(models.LanguageModel(MODELS[name] | {"initializer_range": 0.2}), folder / name)
    state = tmp_path_factory.mktemp("state")
    with server.running("--device=cpu", f"--models={folder}", f"--state-dir={state}") as address:
        with grpc.insecure_channel(address) as channel:
            yield folder, sessions_pb2_grpc.SessionsStub(channel)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_those_of_the_model(name, served):
    folder, sessions = served
    model = models.read(folder / name)
    tokens = [random.randrange(256) for _ in range(200)]
    print(tokens)
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]))[0].log_softmax(-1)
    session = sessions.Create(sessions_pb2.CreateSessionRequest(model=name)).session
    told = 0
    for count in (1, 63, 64, 65, 150, 200):
        sessions.Append(sessions_pb2.AppendRequest(session=session, tokens=tokens[told:count]))
        told = count
        sampling = sessions_pb2.Sampling(temperature=1, logprobs=True, top_logprobs=TOP)
        request = sessions_pb2.DecodeRequest(session=session, max_new_tokens=1, sampling=sampling)
        (sampled,) = (sampled for event in sessions.Decode(request) for sampled in event.tokens)
        sessions.Rewind(sessions_pb2.RewindRequest(session=session, position=count))
        values, indices = expected[count - 1].topk(TOP)
        got = {entry.token: entry.logprob for entry in sampled.top}
        assert len(got) == TOP and indices[0].item() in got
        for token, logprob in got.items():
            assert logprob == pytest.approx(expected[count - 1, token].item(), abs=2e-3)
        assert min(got.values()) == pytest.approx(values[-1].item(), abs=2e-3)
