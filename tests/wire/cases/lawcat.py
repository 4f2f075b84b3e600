import numpy as np

from tests.wire.cases.hedgehog import maps
from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"gate", "initial_state", "initial_state_z", "initial_state_conv_q", "initial_state_conv_k"}


def convolved(d, B=2, T=37, gates=2, size=16, taps=4, tied=False, **sizes):
    weights = {"conv_q": d.normal(4, 16, taps) * taps**-0.5, "conv_k": d.normal(4, 16, taps) * taps**-0.5}
    return qkv(d, B=B, T=T, **sizes) | maps(d, tied=tied) | weights | {"gate": d.normal(B, T, gates, size)}


@case
def lawcat__plain(d):
    return convolved(d, T=70, HV=2, tied=True), {}


@case
def lawcat__gate_by_head(d):
    return convolved(d, gates=4, size=1), {"gate_normalizer": 1.5, "scale": 3.0}


@case
def lawcat__one_tap_exp_dim_half(d):
    return convolved(d, taps=1, gates=1, size=8), {"activation": "exp_dim", "fullspace": False, "eps": 0.2}


@case
def lawcat__packed_with_state(d):
    state = {
        "initial_state": d.normal(4, 4, 16, 20), "initial_state_z": np.abs(d.normal(4, 4, 16)) * 3,
        "initial_state_conv_q": d.normal(4, 4, 16, 3), "initial_state_conv_k": d.normal(4, 4, 16, 3),
    }
    return convolved(d, B=1) | state | {"cu_seqlens": packed()}, {}


PIECES = [{}]


def pieces(d, tokens):
    weights = {"conv_q": d.normal(3, 16, 5) * 0.4, "conv_k": d.normal(3, 16, 5) * 0.4}
    return qkv_pieces(d, tokens)[0] | {"gate": d.normal(2, tokens, 3, 16)}, maps(d, heads=3) | weights
