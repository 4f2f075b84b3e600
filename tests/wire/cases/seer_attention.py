import numpy as np

from tests.wire.draw import case, packed, qkv

FLOAT32 = {"gate_cos", "gate_sin"}


def inputs(d, B=2, T=37, G=10, queries=1, keys=3):
    gates = {"gate_wq": d.normal(4, 16 * queries, G), "gate_wk": d.normal(2, 16 * keys, G)}
    return qkv(d, B=B, T=T, HV=2) | gates


def rotation(d, rows, half):
    angles = d.rng.uniform(0, 6, (rows, half))
    return {"gate_cos": np.cos(angles), "gate_sin": np.sin(angles)}


@case
def seer_attention__threshold(d):
    return inputs(d), {"block_size": 4, "threshold": 0.1, "return_gate": True}


@case
def seer_attention__defaults(d):
    return inputs(d, B=1, T=150), {"return_gate": True}


@case
def seer_attention__top_k_turned(d):
    attributes = {"block_size": 5, "method": "top_k", "top_k": 2, "last_block_dense": False, "return_gate": True}
    return inputs(d) | rotation(d, 9, 5), attributes


@case
def seer_attention__nz_ratio_of_other_queries(d):
    before = {"q_gate": d.normal(2, 37, 4, 16), "k_gate": d.normal(2, 37, 2, 16)}
    attributes = {"block_size": 3, "method": "nz_ratio", "nz_ratio": 0.4, "scale": 0.3, "return_gate": True}
    attributes |= {"q_pool": '["avg", "max"]', "k_pool": '["min"]'}
    return inputs(d, queries=2, keys=1) | before, attributes


@case
def seer_attention__queries_as_they_are(d):
    inputs = qkv(d, HV=2) | {"gate_wk": d.normal(2, 48, 16)}
    return inputs, {"block_size": 4, "method": "top_k", "top_k": 3, "q_pool": '["max"]', "return_gate": True}


@case
def seer_attention__projections_of_query_heads(d):
    inputs = qkv(d, HV=2) | {"gate_wk": d.normal(4, 48, 16)}
    return inputs, {"block_size": 4, "method": "top_k", "top_k": 1, "last_block_dense": False}


@case
def seer_attention__packed(d):
    attributes = {"block_size": 4, "method": "top_k", "top_k": 2, "last_block_dense": False, "return_gate": True}
    return inputs(d, B=1) | rotation(d, 7, 5) | {"cu_seqlens": packed()}, attributes
