import numpy as np

from tests.wire.draw import CASES, case, packed, qkv, qkv_pieces

FLOAT32 = {"initial_state", "initial_state_z"}
# Features amplify the rounding of q and k.
AMPLIFIES = True


def maps(d, heads=4, key=16, features=8, tied=False):
    weights = {"w_q": d.normal(heads, key, features) * key**-0.5}
    return weights if tied else weights | {"w_k": d.normal(heads, key, features) * key**-0.5}


def activation_case(activation, **attributes):
    def draw(d):
        return qkv(d, HV=2) | maps(d), {"activation": activation, **attributes}

    return draw


CASES["hedgehog"] = {
    f"{activation}{'' if fullspace else '_half'}{'' if causal else '_global'}":
        activation_case(activation, fullspace=fullspace, causal=causal)
    for activation in ("softmax_dim", "exp_dim", "exp", "softmax_joint")
    for fullspace in (True, False)
    for causal in (True, False)
}


@case
def hedgehog__tied_with_bias(d):
    return qkv(d) | maps(d, tied=True) | {"b_q": d.normal(4, 8)}, {"feature_eps": 0.05, "eps": 0.1}


@case
def hedgehog__biases_other_lengths(d):
    return qkv(d, T=19, S=31) | maps(d) | {"b_q": d.normal(4, 8), "b_k": d.normal(4, 8)}, {"causal": False}


@case
def hedgehog__packed_with_state(d):
    state = {"initial_state": d.normal(4, 4, 16, 20), "initial_state_z": np.abs(d.normal(4, 4, 16)) * 3}
    return qkv(d, B=1) | maps(d) | state | {"cu_seqlens": packed()}, {}


PIECES = [{}, {"activation": "exp", "fullspace": False}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)[0], maps(d, heads=3)
