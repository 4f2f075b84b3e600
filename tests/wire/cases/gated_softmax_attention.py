import numpy as np

from tests.wire.draw import case, packed, qkv

FLOAT32 = {"sinks"}


def rotation(d, *shape):
    angles = d.rng.uniform(0, 6, shape)
    return {"cos": np.cos(angles), "sin": np.sin(angles)}


@case
def gated_softmax_attention__output_of_each_channel(d):
    return qkv(d) | {"gate": d.normal(2, 37, 4, 20)}, {"causal": True, "return_lse": True}


@case
def gated_softmax_attention__output_of_each_head(d):
    return qkv(d, T=19, S=33) | {"gate": d.normal(2, 19, 4, 1)}, {"activation": "silu"}


@case
def gated_softmax_attention__output_one_gate_added(d):
    return qkv(d) | {"gate": d.normal(2, 37, 1, 1)}, {"mode": "additive", "activation": "ns_sigmoid"}


@case
def gated_softmax_attention__values(d):
    return qkv(d, T=19, S=33) | {"gate": d.normal(2, 33, 4, 20)}, {"position": "g2", "activation": "silu"}


@case
def gated_softmax_attention__keys_turned(d):
    inputs = qkv(d) | {"gate": d.normal(2, 37, 2, 1)} | rotation(d, 37, 16)
    return inputs, {"position": "g3", "causal": True, "return_lse": True}


@case
def gated_softmax_attention__queries_turned(d):
    inputs = qkv(d) | {"gate": d.normal(2, 37, 1, 16)} | rotation(d, 2, 37, 16)
    return inputs, {"position": "g4", "mode": "additive", "activation": "identity", "window_left": 9}


@case
def gated_softmax_attention__projection(d):
    inputs = qkv(d) | {"gate": d.normal(2, 37, 11), "w_o": 0.2 * d.normal(11, 80)}
    return inputs, {"position": "g5", "causal": True, "return_lse": True}


@case
def gated_softmax_attention__projection_gated_before(d):
    inputs = qkv(d) | {"gate": d.normal(2, 37, 4, 20), "w_o": 0.2 * d.normal(11, 80)}
    return inputs, {"causal": True, "softcap": 3.0}


@case
def gated_softmax_attention__projection_one_gate(d):
    inputs = qkv(d) | {"gate": d.normal(2, 37, 1), "w_o": 0.2 * d.normal(11, 80), "sinks": d.normal(4)}
    return inputs | {"mask": d.mask(2, 37, 37)}, {"position": "g5"}


@case
def gated_softmax_attention__packed(d):
    inputs = qkv(d, B=1) | {"gate": d.normal(1, 37, 2, 16)} | rotation(d, 37, 16)
    return inputs | {"cu_seqlens": packed()}, {"position": "g3", "causal": True, "return_lse": True}


@case
def gated_softmax_attention__dense_cache(d):
    inputs = qkv(d, T=7) | {"gate": d.normal(2, 7, 4, 20)}
    past = {"initial_state_k": d.normal(2, 13, 2, 16), "initial_state_v": d.normal(2, 13, 4, 20)}
    return inputs | past, {"causal": True, "cache": "dense", "position": "g2"}


PIECES = [
    {"causal": True, "cache": "dense", "position": "g1"},
    {"causal": True, "cache": "ring", "window_left": 6, "position": "g2"},
]


def pieces(d, tokens):
    inputs = qkv(d, T=tokens, H=3, HK=3, HV=3, unit=True) | {"gate": d.normal(2, tokens, 3, 1)}
    return inputs | rotation(d, 2, tokens, 16), {}
