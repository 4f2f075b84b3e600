import numpy as np

from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"initial_state"}


def ring(d, sequences, slots, key_heads=2, value_heads=2, key=16, value=20):
    """A ring that has come round, one that has not, and fresh ones."""
    pos = np.array([slots * 2 + 3, max(slots // 2, 1), 0, 0][:sequences])
    k, v = d.normal(sequences, slots, key_heads, key), d.normal(sequences, slots, value_heads, value)
    for m, seen in enumerate(pos):
        k[m, seen:], v[m, seen:] = 0, 0
    return {"initial_state_k": k, "initial_state_v": v, "initial_state_pos": pos}


@case
def liger__plain(d):
    return qkv(d, T=90, HV=2), {}


@case
def liger__hgrn2(d):
    return qkv(d, T=70, HV=1), {"variant": "hgrn2", "window_left": 7}


@case
def liger__rotated_and_weighed(d):
    rotated = {"q_rope": d.normal(2, 37, 4, 16), "k_rope": d.normal(2, 37, 2, 16)}
    return qkv(d) | rotated, {"window_left": 3, "window_weight": 0.2, "linear_weight": 1.5, "gate_normalizer": 2.0}


@case
def liger__window_of_one(d):
    return qkv(d, HK=1), {"window_left": 0, "scale": 0.1}


@case
def liger__packed_with_state(d):
    inputs = qkv(d, B=1, HV=2) | {"initial_state": d.normal(4, 4, 16, 20), "cu_seqlens": packed()}
    return inputs | ring(d, 4, 6), {"window_left": 5}


PIECES = [{"window_left": 5}, {"variant": "hgrn2"}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)
