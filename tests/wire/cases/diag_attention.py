import numpy as np

from tests.wire.draw import CASES, case, packed, qkv, qkv_pieces

FLOAT32 = {"initial_state_k", "initial_state_v"}


def blocks_case(activation, causal):
    def draw(d):
        return qkv(d, T=70), {"activation": activation, "causal": causal, "block_size": 9}

    return draw


CASES["diag_attention"] = {
    f"{activation}{'' if causal else '_global'}": blocks_case(activation, causal)
    for activation in ("softmax", "relu", "relu2")
    for causal in (True, False)
}


@case
def diag_attention__default_block_gated_norm(d):
    weights = {"norm_weight": d.normal(80), "norm_bias": d.normal(80), "norm_gate": d.normal(80)}
    return qkv(d, T=100) | weights, {"norm": "gated_rms", "activation": "relu"}


@case
def diag_attention__layer_norm_of_heads(d):
    weights = {"norm_weight": d.normal(20), "norm_bias": d.normal(20)}
    return qkv(d) | weights, {"norm": "layer", "norm_scope": "head", "block_size": 5, "scale": 0.6}


@case
def diag_attention__blocks_of_one(d):
    return qkv(d, H=2, HV=6), {"block_size": 1}


def open_blocks(d, positions, block):
    k, v = d.normal(len(positions), block, 4, 16), d.normal(len(positions), block, 4, 20)
    for m, seen in enumerate(positions):
        k[m, seen % block:], v[m, seen % block:] = 0, 0
    return {"initial_state_k": k, "initial_state_v": v, "initial_state_pos": np.array(positions)}


@case
def diag_attention__from_open_blocks(d):
    return qkv(d) | open_blocks(d, [11, 6], 6), {"block_size": 6}


@case
def diag_attention__packed_from_open_blocks(d):
    inputs = qkv(d, B=1) | open_blocks(d, [3, 8, 0, 14], 6) | {"cu_seqlens": packed()}
    return inputs, {"block_size": 6, "activation": "relu2"}


PIECES = [{"block_size": 7}, {"block_size": 5, "activation": "relu", "norm": "rms"}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)
