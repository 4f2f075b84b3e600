import numpy as np

from tests.wire.cases.hedgehog import maps
from tests.wire.cases.liger import ring
from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"gate", "alpha", "meta", "initial_state", "initial_state_z"}


def gated(d, B=2, T=37, gates=1, weights=1, **sizes):
    return qkv(d, B=B, T=T, **sizes) | maps(d) | {"gate": 2.0 + d.normal(B, T, gates), "alpha": d.normal(weights)}


@case
def lizard__plain(d):
    return gated(d, T=90, HV=2) | {"meta": d.normal(4)}, {"window": 20}


@case
def lizard__default_window_by_head(d):
    return gated(d, T=140, gates=4, weights=4) | {"meta": d.normal(4, 3)}, {}


@case
def lizard__linear_mass(d):
    return gated(d, HV=1) | {"meta": np.abs(d.normal(4, 4))}, {"meta_space": "linear", "window": 6, "scale": 0.2}


@case
def lizard__exp_half_rotated_no_sinks(d):
    rotated = {"q_rope": d.normal(2, 37, 4, 16), "k_rope": d.normal(2, 37, 2, 16), "meta": np.zeros((0,))}
    return gated(d) | rotated, {"activation": "exp_dim", "fullspace": False, "window": 1, "eps": 0.1}


@case
def lizard__packed_with_state(d):
    state = {"initial_state": d.normal(4, 4, 16, 20), "initial_state_z": np.abs(d.normal(4, 4, 16)) * 3}
    return gated(d, B=1, HV=2) | state | ring(d, 4, 6) | {"cu_seqlens": packed()}, {"window": 6}


PIECES = [{"window": 5}]


def pieces(d, tokens):
    along = qkv_pieces(d, tokens)[0] | {"gate": 2.0 + d.normal(2, tokens, 3)}
    return along, maps(d, heads=3) | {"alpha": d.normal(3), "meta": d.normal(4)}
