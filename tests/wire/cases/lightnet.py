import numpy as np

from tests.wire.draw import CASES, case, packed

FLOAT32 = {"theta", "initial_state", "initial_state_z"}


def means(d, B=2, T=37, H=3, K=10, V=20):
    return {"q": d.normal(B, T, H, K), "k": 2.0 * d.normal(B, T, H, K), "v": d.normal(B, T, H, V)}


def lrpe_case(lrpe, causal):
    def draw(d):
        return means(d), {"lrpe": lrpe, "causal": causal}

    return draw


CASES["lightnet"] = {
    f"{lrpe}{'' if causal else '_global'}": lrpe_case(lrpe, causal)
    for lrpe in ("none", "rotate", "cosine")
    for causal in (True, False)
}


@case
def lightnet__plain_queries(d):
    return means(d, T=70, K=7), {"q_silu": False, "scale": 0.9}


@case
def lightnet__image(d):
    return means(d, T=35) | {"theta": d.normal(1, 4)}, {"causal": False, "lrpe": "rotate", "height": 5, "width": 7}


@case
def lightnet__volume(d):
    attributes = {"causal": False, "lrpe": "cosine", "depth": 2, "height": 3, "width": 4}
    return means(d, T=24) | {"theta": d.normal(3, 4)}, attributes


@case
def lightnet__packed_with_state(d):
    state = {"initial_state": d.normal(4, 3, 20, 20), "initial_state_z": 3.0 * d.normal(4, 3, 10)}
    state["initial_state_z"][1] = -np.inf
    state["initial_state_pos"] = np.array([5, 0, 2, 9])
    return means(d, B=1) | state | {"theta": d.normal(3, 6), "cu_seqlens": packed()}, {"lrpe": "cosine"}


PIECES = [{}, {"lrpe": "cosine"}, {"lrpe": "rotate"}]


def pieces(d, tokens):
    return means(d, T=tokens), {}
