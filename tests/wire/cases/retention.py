import numpy as np

from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"g", "initial_state", "initial_state_n", "initial_state_z"}


@case
def retention__plain(d):
    return qkv(d, T=70), {}


@case
def retention__own_decay(d):
    return qkv(d, T=70) | {"g": d.decay(4), "initial_state": d.normal(2, 4, 16, 20)}, {"scale": 0.3}


@case
def retention__rotary_half_decay(d):
    state = {
        "initial_state": d.normal(2, 4, 16, 20),
        "initial_state_n": np.abs(d.normal(2, 4)) * 3,
        "initial_state_pos": np.array([5, 1000], np.int64),
    }
    return qkv(d) | state, {"rotary": "half", "normalize": "decay", "rotary_base": 500.0}


@case
def retention__rotary_interleaved_row(d):
    state = {
        "initial_state": d.normal(2, 4, 16, 20),
        "initial_state_n": np.abs(d.normal(2, 4)) * 3,
        "initial_state_z": d.normal(2, 4, 16),
        "initial_state_pos": np.array([5, 77], np.int64),
    }
    return qkv(d) | state, {"rotary": "interleaved", "normalize": "row"}


@case
def retention__packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20), "initial_state_pos": np.array([3, 0, 9, 40], np.int64)}
    return qkv(d, B=1) | state | {"cu_seqlens": packed()}, {"rotary": "half"}


PIECES = [{"rotary": "interleaved", "normalize": "row"}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)
