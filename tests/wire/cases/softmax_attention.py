import numpy as np

from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"sinks"}


@case
def softmax_attention__plain(d):
    return qkv(d, S=29), {}


@case
def softmax_attention__causal_more_keys(d):
    return qkv(d, T=19, S=50), {"causal": True, "return_lse": True}


@case
def softmax_attention__causal_fewer_keys(d):
    return qkv(d, T=30, S=11), {"causal": True, "return_lse": True}


@case
def softmax_attention__windows(d):
    return qkv(d, S=41), {"window_left": 5, "window_right": 3, "softcap": 2.5, "scale": 0.7}


@case
def softmax_attention__mask_and_sinks(d):
    inputs = qkv(d, S=23)
    mask = d.mask(2, 37, 23)
    mask[0, 3] = False
    return inputs | {"mask": mask, "sinks": d.normal(4)}, {"return_lse": True}


@case
def softmax_attention__mask_of_all_rows(d):
    mask = d.mask(37, 37)
    mask[7] = False
    return qkv(d) | {"mask": mask}, {"causal": True, "return_lse": True}


@case
def softmax_attention__packed(d):
    return qkv(d, B=1) | {"cu_seqlens": packed()}, {"causal": True, "window_left": 6, "return_lse": True}


@case
def softmax_attention__dense_cache(d):
    inputs = qkv(d, T=7)
    past = {"initial_state_k": d.normal(2, 13, 2, 16), "initial_state_v": d.normal(2, 13, 4, 20)}
    return inputs | past, {"causal": True, "cache": "dense", "return_lse": True}


@case
def softmax_attention__dense_cache_with_mask(d):
    inputs = qkv(d, T=7)
    past = {"initial_state_k": d.normal(2, 13, 2, 16), "initial_state_v": d.normal(2, 13, 4, 20)}
    return inputs | past | {"mask": d.mask(7, 20)}, {"causal": True, "cache": "dense"}


@case
def softmax_attention__ring_cache(d):
    past = {
        "initial_state_k": d.normal(2, 9, 2, 16),
        "initial_state_v": d.normal(2, 9, 4, 20),
        "initial_state_pos": np.array([14, 23], np.int64),
    }
    return qkv(d, T=21) | past, {"causal": True, "cache": "ring", "window_left": 8}


@case
def softmax_attention__ring_from_nothing(d):
    return qkv(d, T=5), {"causal": True, "cache": "ring", "window_left": 8}


@case
def softmax_attention__large_logits(d):
    inputs = qkv(d)
    return inputs | {"q": 60.0 * inputs["q"]}, {}


PIECES = [{"causal": True, "cache": "dense"}, {"causal": True, "cache": "ring", "window_left": 6}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)
