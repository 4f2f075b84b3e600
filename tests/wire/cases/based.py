import numpy as np

from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"initial_state", "initial_state_z"}


@case
def based__plain(d):
    return qkv(d, T=70, K=8), {}


@case
def based__numerator(d):
    return qkv(d, T=70, K=5, H=4, HK=4, HV=2), {"normalize": False, "scale": 0.8}


@case
def based__whole(d):
    return qkv(d, T=70, K=5), {"causal": False, "eps": 1e-3}


@case
def based__from_a_state(d):
    keys = d.normal(2, 4, 9, 5)
    pairs = np.einsum("bhni,bhnj->bhnij", keys, keys).reshape(2, 4, 9, 25) / np.sqrt(2.0)
    z = np.concatenate([np.ones((2, 4, 9, 1)), keys, pairs], axis=-1).sum(2)
    return qkv(d, K=5) | {"initial_state": d.normal(2, 4, 31, 20), "initial_state_z": z}, {}


@case
def based__packed(d):
    return qkv(d, B=1, K=5) | {"cu_seqlens": packed()}, {}


@case
def based__packed_wholes(d):
    return qkv(d, B=1, K=5) | {"cu_seqlens": packed()}, {"causal": False}


PIECES = [{}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens, K=6)
