import numpy as np

from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"g", "dt", "a", "eta", "d", "initial_state"}


def steps(d, *shape):
    return d.rng.uniform(0.1, 1.0, shape)


@case
def dsf__no_decay_divided_and_skipped(d):
    return qkv(d, T=70) | {"eta": steps(d, 2, 70, 2), "d": d.normal(4)}, {"scale": 0.3}


@case
def dsf__decay_by_head(d):
    return qkv(d) | {"g": d.decay(2, 37, 2), "d": d.normal(4, 20)}, {}


@case
def dsf__decay_by_key_channel(d):
    return qkv(d, HV=1) | {"g": d.decay(2, 37, 1, 16), "initial_state": d.normal(2, 4, 16, 20)}, {}


@case
def dsf__decay_by_entry(d):
    return qkv(d) | {"g": d.decay(2, 37, 2, 16, 20), "initial_state": d.normal(2, 4, 16, 20)}, {}


@case
def dsf__steps_by_head(d):
    return qkv(d) | {"dt": steps(d, 2, 37, 4), "a": -steps(d, 2, 16, 20)}, {}


@case
def dsf__selective_scan(d):
    inputs = qkv(d, H=1, HK=1, HV=1, K=7, V=30) | {"dt": steps(d, 2, 37, 1, 30), "a": -steps(d, 1, 7, 30)}
    return inputs | {"d": d.normal(1, 30)}, {}


@case
def dsf__packed_entries_with_state(d):
    inputs = qkv(d, B=1) | {"dt": steps(d, 1, 37, 2, 20), "a": -steps(d, 4, 16, 20)}
    return inputs | {"initial_state": d.normal(4, 4, 16, 20), "cu_seqlens": packed()}, {}


@case
def dsf__packed_total_forgetting(d):
    g = d.decay(1, 37, 2)
    g[:, 12] = -np.inf
    return qkv(d, B=1) | {"g": g, "eta": steps(d, 1, 37, 4), "cu_seqlens": packed()}, {}


PIECES = [{}]


def pieces(d, tokens):
    along = qkv_pieces(d, tokens)[0]
    return along | {"dt": steps(d, 2, tokens, 3, 20)}, {"a": -steps(d, 3, 16, 20), "d": d.normal(3)}
