"""The training forms against what they stand for: recurrences token by token, and the library's own logits."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
torch = pytest.importorskip("torch", reason="PyTorch, in which the models are trained, is not installed")
from safetensors.torch import load_file  # noqa: E402

import model as models  # noqa: E402
import recurrence  # noqa: E402
from recall import MODELS  # noqa: E402

TESTDATA = pathlib.Path(__file__).parent.parent / "testdata"
# Classes that are served, but not trained here.
ELSEWHERE = ("based", "hgrn2", "kda", "lightning_attn", "mamba2", "mla", "retnet")


@pytest.fixture(autouse=True)
def seed():
    seed = torch.seed() % (1 << 32)
    print("seed", seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    return seed


def relative(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


def token_by_token(q, k, v, g, beta):
    """S = exp(g) S, then k's row of it moves to v by beta (all of v is added where beta is none): [B,H,T,V]."""
    state, rows = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=q.dtype), []
    for t in range(q.shape[2]):
        state = state * g[:, :, t, :, None].exp()
        key, value = k[:, :, t], v[:, :, t]
        if beta is not None:
            value = beta[:, :, t, None] * (value - (key.unsqueeze(-2) @ state).squeeze(-2))
        state = state + key.unsqueeze(-1) * value.unsqueeze(-2)
        rows.append((q[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(rows, 2)


@pytest.mark.parametrize("kind", ["linear", "gated", "delta", "gated_delta"])
def test_chunks_are_the_recurrence(kind):
    shape = (2, 3, 4 * recurrence.CHUNK)
    q, k, v = (torch.randn(*shape, size, dtype=torch.float64) for size in (16, 16, 8))
    vector, scalar = -torch.rand(*shape, 16, dtype=torch.float64), -torch.rand(*shape, dtype=torch.float64)
    beta, none = 2 * torch.rand(shape, dtype=torch.float64), torch.zeros(*shape, 16, dtype=torch.float64)
    k = k / k.norm(dim=-1, keepdim=True) if "delta" in kind else k
    if kind == "linear":
        ones = torch.ones_like(v[..., :1])
        got = torch.cat(recurrence.linear(q, k, v), -1)
        expected = token_by_token(q, k, torch.cat((v, ones), -1), none, None)
    elif kind == "gated":
        got, expected = recurrence.gated(q, k, v, vector), token_by_token(q, k, v, vector, None)
    elif kind == "delta":
        got, expected = recurrence.delta(q, k, v, beta), token_by_token(q, k, v, none, beta)
    else:
        got = recurrence.delta(q, k, v, beta, scalar)
        expected = token_by_token(q, k, v, scalar.unsqueeze(-1).expand_as(k), beta)
    assert relative(got, expected) < 1e-9


@pytest.mark.parametrize("name", sorted(path.name for path in TESTDATA.iterdir()))
def test_logits_are_those_of_the_library(name):
    if name.startswith(ELSEWHERE):
        pytest.skip("a class that is not trained here")
    model = models.read(TESTDATA / name)
    golden = load_file(TESTDATA / name / "golden.safetensors")
    with torch.inference_mode():
        logits = model(golden["tokens"].long()[None])[0]
    assert relative(logits, golden["logits_float32"]) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_what_is_read(name, tmp_path):
    model = models.LanguageModel(MODELS[name])
    models.save(model, tmp_path)
    state, again = models.rounded(model), models.rounded(models.read(tmp_path))
    assert state.keys() == again.keys() and all(torch.equal(state[key], again[key]) for key in state)
