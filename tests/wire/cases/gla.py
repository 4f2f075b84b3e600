import numpy as np

from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"g", "g_v", "initial_state"}


@case
def gla__vector_gate(d):
    return qkv(d, T=70) | {"g": d.decay(2, 70, 4, 16)}, {}


@case
def gla__scalar_gate(d):
    return qkv(d, T=70) | {"g": d.decay(2, 70, 2), "initial_state": d.normal(2, 4, 16, 20)}, {"scale": 0.2}


@case
def gla__gate_of_values(d):
    return qkv(d, T=70) | {"g": d.decay(2, 70, 4, 16), "g_v": d.decay(2, 70, 2, 20)}, {}


@case
def gla__strong_and_total_forgetting(d):
    g = 12.0 * d.decay(2, 70, 4, 16)
    g[:, 33] = -np.inf
    return qkv(d, T=70) | {"g": g}, {}


@case
def gla__packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20)}
    return qkv(d, B=1) | {"g": d.decay(1, 37, 4, 16), "cu_seqlens": packed()} | state, {}


PIECES = [{}]


def pieces(d, tokens):
    along, fixed = qkv_pieces(d, tokens)
    return along | {"g": d.decay(2, tokens, 3, 16)}, fixed
