import numpy as np

from tests.wire.cases.hedgehog import maps
from tests.wire.cases.liger import ring
from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"window_factor", "initial_state", "initial_state_z"}


def factored(d, B=2, T=37, tied=False, **sizes):
    return qkv(d, B=B, T=T, **sizes) | maps(d, tied=tied) | {"window_factor": d.normal(4) - 1.0}


@case
def lolcats__sliding(d):
    return factored(d, T=90, HV=2), {"window": 20}


@case
def lolcats__terraced(d):
    return factored(d, T=50, HV=1), {"window": 8, "window_kind": "terraced"}


@case
def lolcats__default_window_tied_with_bias(d):
    return factored(d, T=80, tied=True) | {"b_q": d.normal(4, 8)}, {"affine_factors": True}


@case
def lolcats__window_of_one(d):
    biases = {"b_q": d.normal(4, 8), "b_k": d.normal(4, 8)}
    return factored(d, T=20) | biases, {"window": 1, "activation": "exp_dim", "fullspace": False, "scale": 0.7}


@case
def lolcats__terraces_of_one(d):
    return factored(d, T=20), {"window": 1, "window_kind": "terraced", "activation": "softmax_joint"}


def with_state(d, slots):
    state = {"initial_state": d.normal(4, 4, 16, 20), "initial_state_z": np.abs(d.normal(4, 4, 16)) * 3}
    return factored(d, B=1, HV=2) | state | ring(d, 4, slots) | {"cu_seqlens": packed()}


@case
def lolcats__packed_with_state(d):
    return with_state(d, 6), {"window": 6}


@case
def lolcats__terraced_packed_with_state(d):
    return with_state(d, 8), {"window": 4, "window_kind": "terraced"}


PIECES = [{"window": 7}, {"window": 4, "window_kind": "terraced"}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)[0], maps(d, heads=3) | {"window_factor": d.normal(3)}
